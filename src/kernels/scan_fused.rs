//! scan_fused_reduce.wgsl, scan_fused_carry.wgsl, scan_fused_apply.wgsl: rung (c), the default.

use super::{ScanBuffers, ScanParams, ScanShape};
use crate::gpu::plan::grid;
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

/// scan_fused_carry.wgsl: pairs of state and channel a workgroup.
const WIDTH: usize = 32;
/// Quads of B and C that a workgroup keeps: 8 KiB.
const STAGED: u32 = 512;

/// The chunks' aggregates: all that this scan writes besides its output.
pub struct FusedWorkspace {
    aggregates: Tensor,
    /// Behind them.
    beyond: Tensor,
    /// Both.
    buffer: Tensor,
}

impl FusedWorkspace {
    /// Tokens that several sequences have each, at the least: a chunk's, so that their chunks are not more than the workspace has room for.
    pub const LEAST: usize = 64;

    /// For chunks of up to l tokens.
    pub fn new(gpu: &Gpu, l: usize, d_inner: usize, d_state: usize) -> Result<Self, GpuError> {
        let n_chunks = l.div_ceil(chunk(gpu, l, d_inner, d_state));
        let elements = elements(n_chunks, d_inner, d_state);
        // Where a binding may begin.
        let flag = elements.next_multiple_of(64);
        let buffer = Tensor::zeros(gpu, "scan aggregates", flag + 1)?;
        Ok(Self { aggregates: buffer.slice(0, elements), beyond: buffer.slice(flag, 1), buffer })
    }

    /// The flag of who watches this scan's y ([`Tensor::watched_by`]): there is no binding left for one that lies
    /// elsewhere.
    pub fn beyond(&self) -> &Tensor {
        &self.beyond
    }
}

fn elements(n_chunks: usize, d_inner: usize, d_state: usize) -> usize {
    n_chunks * (d_state + 1) * d_inner
}

/// Tokens a chunk: few of a short text, so that there is work for every unit; more where there is enough of it, since a
/// chunk's aggregate is as large as 2 (d_state + 1) tokens of input; and as many as it takes to stay in one binding.
fn chunk(gpu: &Gpu, l: usize, d_inner: usize, d_state: usize) -> usize {
    let mut chunk = match l {
        0..=1024 => 16,
        1025..=4096 => 32,
        _ => 64,
    };
    let limits = gpu.limits();
    let too_many = |chunk: usize| {
        let n = l.div_ceil(chunk);
        // And the flag behind them.
        let bytes = 4 * (elements(n, d_inner, d_state) + 128) as u64;
        bytes > gpu.max_binding() || n > limits.max_compute_workgroups_per_dimension as usize
    };
    while chunk < l && too_many(chunk) {
        chunk *= 2;
    }
    chunk
}

/// A pass over chunks: workgroups of `channels`, which stage B (and C, with `kinds` 2).
pub(super) fn pass_spec(
    name: &'static str,
    d_state: u32,
    channels: u32,
    (act, xz): (NumberFormat, NumberFormat),
    lti: bool,
) -> ShaderSpec {
    let kinds = if name == "scan_fused_apply" { 2 } else { 1 };
    let stage = (STAGED / (kinds * d_state.div_ceil(4).max(1))).max(1);
    let spec = ShaderSpec::new(name).constant("D_STATE", d_state).constant("CHANNELS", channels);
    let spec = spec.constant("STAGE", stage).flag("LTI", lti).flag("SELECTIVE", !lti).number("act", act);
    if kinds == 2 {
        spec.number("xz_t", xz)
    } else {
        spec
    }
}

/// The selective scan, discretised in registers; see shared/scan_fused.wgsl. u, delta and y are of one number format, xz of that or
/// another.
pub fn scan_fused(
    plan: &mut PlanBuilder<'_>,
    workspace: &FusedWorkspace,
    b: &ScanBuffers<'_>,
    shape: ScanShape,
) -> Result<(), GpuError> {
    scan_fused_batch(plan, workspace, b, 1, shape)
}

/// The same over `batch` sequences of `shape.l` tokens ([`FusedWorkspace::LEAST`] or more, unless there is one), one after the other, with ssm_state (batch, d_inner, d_state). The workspace is for
/// as many tokens as they have together.
pub fn scan_fused_batch(
    plan: &mut PlanBuilder<'_>,
    workspace: &FusedWorkspace,
    b: &ScanBuffers<'_>,
    batch: usize,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let ScanShape { l, d_inner, d_state, .. } = shape;
    let FusedWorkspace { aggregates, beyond, buffer } = workspace;
    let mut chunk = chunk(plan.gpu(), batch * l, d_inner, d_state);
    // Sequences that end within a chunk make a chunk more each than their tokens would.
    while chunk < l && elements(batch * l.div_ceil(chunk), d_inner, d_state) > aggregates.elements() {
        chunk *= 2;
    }
    let watch = b.y.watch().is_some().then(|| (buffer, beyond.offset() - buffer.offset()));
    passes(plan, (aggregates, watch), b, (batch, shape), chunk, false)
}

/// The three passes over `batch` sequences of `shape.l` tokens, in chunks of `chunk`; `lti` as scan_chunk.wgsl has it.
/// `watch`: the buffer of the aggregates with a flag for y's values in it, and at which byte.
pub(super) fn passes(
    plan: &mut PlanBuilder<'_>,
    (aggregates, watch): (&Tensor, Option<(&Tensor, u64)>),
    b: &ScanBuffers<'_>,
    (batch, shape): (usize, ScanShape),
    chunk: usize,
    lti: bool,
) -> Result<(), GpuError> {
    let ScanShape { l, d_inner, d_state, .. } = shape;
    let n_chunks = l.div_ceil(chunk);
    let params = ScanParams { chunk: chunk as u32, n_chunks: n_chunks as u32, batch: batch as u32, ..shape.params() };
    let carry = shape.with_states("scan_fused_carry")?;
    let channels = if d_inner < 128 { 32 } else { 128 };
    let pass = |name| pass_spec(name, d_state as u32, channels as u32, (b.y.format(), b.xz.format()), lti);
    let groups = [d_inner.div_ceil(channels) as u64, (batch * n_chunks) as u64];

    let mut bindings = vec![(1, b.u), (2, b.delta), (3, b.a), (5, aggregates)];
    if !lti {
        bindings.push((4, b.x_dbl)); // B, which is 1 otherwise
    }
    plan.dispatch(pass("scan_fused_reduce"), &params, &bindings, groups)?;
    if l > 0 {
        carry_chunks(plan, carry, &params, [b.a, b.ssm_state, aggregates], batch * d_inner * d_state)?;
    }
    let (aggregates, at) = watch.unwrap_or((aggregates, 0));
    let params = ScanParams { beyond: (at / 4) as u32, ..params };
    let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, b.d), (6, b.xz), (7, aggregates), (8, b.y)];
    plan.dispatch(pass("scan_fused_apply").flag("WATCH", watch.is_some()), &params, &bindings, groups)
}

/// scan_fused_carry of A, states and aggregates.
pub(super) fn carry_chunks(
    plan: &mut PlanBuilder<'_>,
    spec: ShaderSpec,
    params: &ScanParams,
    [a, states, aggregates]: [&Tensor; 3],
    pairs: usize,
) -> Result<(), GpuError> {
    let limit = plan.gpu().limits().max_compute_workgroups_per_dimension;
    plan.dispatch(spec, params, &[(1, a), (2, states), (3, aggregates)], grid(pairs, WIDTH, limit))
}
