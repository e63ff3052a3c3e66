//! The scan over several sequences with its chunks' states kept, and scan_backward_reduce.wgsl, scan_backward_apply.wgsl.

use super::sums::{sum_partials, Scratch, Sum};
use crate::gpu::shader::ShaderSpec;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{scan_fused, ScanBuffers, ScanParams, ScanShape};
use crate::reference::backward::TrainScan;

/// Channels of a workgroup of scan_backward_reduce.
const REDUCE_CHANNELS: u32 = 64;

/// How the gradient's last pass lies over channels and time, and what is where in scratch, in elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Tokens a chunk: an invocation keeps that many quads of states.
    chunk: usize,
    /// Channels a workgroup.
    channels: usize,
    /// A and D, behind the aggregates.
    coefficients: usize,
    /// Partial sums over time.
    c_partials: usize,
    /// Partial sums over channels.
    bc_partials: usize,
    pub end: usize,
}

/// Of a chunk and channel: gradients of A_log, D and dt_bias, without selectivity also C.
fn kinds(d_state: usize, lti: bool) -> usize {
    d_state + 2 + if lti { d_state } else { 0 }
}

impl Layout {
    pub fn new(scan: TrainScan) -> Self {
        let TrainScan { batch, shape: ScanShape { l, d_inner, d_state, .. }, lti } = scan;
        let (chunk, channels) = Self::sizes(d_inner, d_state);
        let chunks = batch * l.div_ceil(chunk);
        let coefficients = chunks * (d_state + 1) * d_inner;
        let c_partials = coefficients + (d_state + 1) * d_inner;
        let bc_partials = c_partials + chunks * kinds(d_state, lti) * d_inner;
        let of_bc = if lti { 0 } else { d_inner.div_ceil(channels) * 2 * scan.rows() * d_state };
        Self { chunk, channels, coefficients, c_partials, bc_partials, end: bc_partials + of_bc }
    }

    /// Tokens a chunk and channels a workgroup, so that 16 KiB of workgroup memory suffice: of a token every invocation's terms
    /// (three quads), of the chunk B and C, and up to eight shares of a token's B and C.
    fn sizes(d_inner: usize, d_state: usize) -> (usize, usize) {
        let quads = d_state.div_ceil(4).max(1);
        let chunk = match quads {
            0..=8 => 16,
            9..=16 => 8,
            17..=32 => 4,
            _ => 2,
        };
        let most = if quads < 8 { 256 / quads } else { 128 / quads };
        // A power of two at most that.
        let channels = (most + 1).next_power_of_two() / 2;
        (chunk, channels.min(d_inner.next_power_of_two()))
    }
}

fn reduce_spec(d_state: usize, layout: (usize, usize), lti: bool) -> ShaderSpec {
    let spec = ShaderSpec::new("backward/scan_backward_reduce").flag("LTI", lti).constant("D_STATE", d_state as u32);
    spec.constant("CHUNK", layout.0 as u32).constant("CHANNELS", REDUCE_CHANNELS)
}

fn apply_spec(d_state: usize, layout: (usize, usize), lti: bool) -> ShaderSpec {
    let spec = ShaderSpec::new("backward/scan_backward_apply").flag("LTI", lti).flag("PER_TOKEN", !lti);
    let spec = spec.constant("D_STATE", d_state as u32);
    spec.constant("CHUNK", layout.0 as u32).constant("CHANNELS", layout.1 as u32)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = Vec::new();
    // Those whose workgroups take most memory among them.
    for d_state in [1, 5, 16, 28, 64, 256] {
        let layout = Layout::sizes(1024, d_state);
        for lti in [false, true] {
            specs.extend([reduce_spec(d_state, layout, lti), apply_spec(d_state, layout, lti)]);
        }
    }
    let act = Default::default();
    specs.extend(["scan_fused_reduce", "scan_fused_apply"].map(|name| scan_fused::pass_spec(name, 16, 128, act, true)));
    specs
}

/// What a layer's scan keeps for its gradient: the state that enters each chunk.
#[derive(Debug, Clone)]
pub struct ScanTape(Tensor);

impl ScanTape {
    /// # Errors
    /// Over the adapter's limit a buffer or a binding: a smaller micro-batch needs less.
    pub fn new(gpu: &Gpu, scan: TrainScan) -> Result<Self, GpuError> {
        let elements = Layout::new(scan).coefficients;
        let (bytes, limit) = (4 * elements as u64, gpu.max_binding());
        if bytes > limit {
            let (kernel, label) = ("scan_train".to_owned(), "scan tape".to_owned());
            return Err(GpuError::BindingTooLarge { kernel, label, bytes, limit });
        }
        Ok(Self(Tensor::zeros(gpu, "scan tape", elements)?))
    }
}

/// The selective scan over `scan.batch` sequences; tensors as in [`ScanBuffers`] with rows of all sequences, ssm_state (batch,
/// d_inner, d_state) initial in, final out. Without selectivity `delta` is (d_inner) and `x_dbl` is C (d_inner, d_state).
pub fn scan_train(
    plan: &mut PlanBuilder<'_>,
    tape: &ScanTape,
    b: &ScanBuffers<'_>,
    scan: TrainScan,
) -> Result<(), GpuError> {
    let layout = Layout::new(scan);
    let (value, limit) = (layout.coefficients, tape.0.elements());
    if value > limit {
        return Err(GpuError::Unsupported { kernel: "scan_train", what: "tape in elements", value, limit });
    }
    scan_fused::passes(plan, (&tape.0, None), b, (scan.batch, scan.shape), layout.chunk, scan.lti)
}

/// The tensors of [`scan_backward`].
#[derive(Debug, Clone, Copy)]
pub struct ScanGrads<'a> {
    /// (rows, d_inner)
    pub u: &'a Tensor,
    /// (rows, d_inner), in place: delta in; out, the gradient of what its softplus was taken of. Without selectivity (d_inner), read.
    pub delta: &'a Tensor,
    /// (d_inner, d_state)
    pub a: &'a Tensor,
    /// (rows, x_dbl_stride); without selectivity C (d_inner, d_state)
    pub x_dbl: &'a Tensor,
    /// (d_inner)
    pub d: &'a Tensor,
    /// (rows, xz_stride)
    pub xz: &'a Tensor,
    /// (rows, d_inner), in place: the gradient of y in, that of u out
    pub grad_y: &'a Tensor,
    /// (rows, xz_stride): columns z are set
    pub grad_xz: &'a Tensor,
    /// (rows, x_dbl_stride): columns B and C are set. Without selectivity that of C (d_inner, d_state), added to.
    pub grad_x_dbl: &'a Tensor,
    /// (d_inner, d_state), added to: of A_log, A = -exp(A_log)
    pub grad_a_log: &'a Tensor,
    /// (d_inner), added to
    pub grad_d: &'a Tensor,
    /// (d_inner), added to: of what is added to delta before its softplus
    pub grad_dt_bias: &'a Tensor,
    /// (batch, d_inner, d_state), in place: the gradient of the final states in, that of the initial states out
    pub grad_state: &'a Tensor,
}

/// The gradients of all that [`scan_train`] read, which left `tape`.
pub fn scan_backward(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    tape: &ScanTape,
    b: &ScanGrads<'_>,
    scan: TrainScan,
) -> Result<(), GpuError> {
    let TrainScan { batch, shape, lti } = scan;
    let ScanShape { l, d_inner, d_state, .. } = shape;
    let carry = shape.with_states("scan_fused_carry")?;
    let layout = Layout::new(scan);
    let room = scratch.room("scan_backward", layout.end)?;
    let n_chunks = l.div_ceil(layout.chunk);
    let chunks = batch * n_chunks;
    let params = ScanParams {
        chunk: layout.chunk as u32,
        n_chunks: n_chunks as u32,
        batch: batch as u32,
        coefficients: layout.coefficients as u32,
        c_partials: layout.c_partials as u32,
        bc_partials: layout.bc_partials as u32,
        ..shape.params()
    };
    if chunks == 0 {
        return Ok(());
    }
    let sizes = (layout.chunk, layout.channels);
    let bindings = [(1, b.delta), (2, b.a), (3, b.x_dbl), (4, b.xz), (5, b.grad_y), (6, b.d), (7, room)];
    let groups = [d_inner.div_ceil(REDUCE_CHANNELS as usize) as u64, chunks as u64];
    plan.dispatch(reduce_spec(d_state, sizes, lti), &params, &bindings, groups)?;
    scan_fused::carry_chunks(plan, carry, &params, [b.a, b.grad_state, room], batch * d_inner * d_state)?;
    let bindings =
        [(1, b.u), (2, b.delta), (3, b.x_dbl), (4, b.xz), (5, &tape.0), (6, b.grad_y), (7, b.grad_xz), (8, room)];
    let blocks = d_inner.div_ceil(layout.channels);
    plan.dispatch(apply_spec(d_state, sizes, lti), &params, &bindings, [blocks as u64, chunks as u64])?;

    // Over time: (chunks, kinds, d_inner).
    let stride = kinds(d_state, lti) * d_inner;
    let over_time = |kind: usize, kinds: usize| Sum {
        part_stride: stride as u32,
        cols: d_inner as u32,
        row_stride: 1,
        col_stride: kinds as u32,
        ..Sum::dense(chunks, layout.c_partials + kind * d_inner, kinds * d_inner)
    };
    sum_partials(plan, room, b.grad_a_log, over_time(0, d_state), true)?;
    sum_partials(plan, room, b.grad_d, over_time(d_state, 1), true)?;
    sum_partials(plan, room, b.grad_dt_bias, over_time(d_state + 1, 1), true)?;
    if lti {
        return sum_partials(plan, room, b.grad_x_dbl, over_time(d_state + 2, d_state), true);
    }
    // Over channels: (blocks, 2, rows, d_state).
    let elements = scan.rows() * d_state;
    for (kind, column) in [shape.b_offset, shape.c_offset].into_iter().enumerate() {
        let sum = Sum {
            part_stride: 2 * elements as u32,
            cols: d_state as u32,
            row_stride: shape.x_dbl_stride as u32,
            out_offset: column as u32,
            ..Sum::dense(blocks, layout.bc_partials + kind * elements, elements)
        };
        sum_partials(plan, room, b.grad_x_dbl, sum, false)?;
    }
    Ok(())
}
