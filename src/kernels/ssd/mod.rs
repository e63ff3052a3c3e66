//! Mamba-2's recurrence (state space duality, SSD): ssd_delta.wgsl, ssd_sequential.wgsl, ssd_state_update.wgsl; in
//! `chunked`, the kernels of the rung that works in chunks, in `matrices` those that do it by cooperative matrices, in `step` the first
//! of the decode step.

mod chunked;
mod matrices;
mod step;

pub use chunked::{
    ssd_bmm_chunk, ssd_chunk_cumsum, ssd_chunk_scan, ssd_chunk_state, ssd_chunked, ssd_state_passing, SsdWorkspace,
    SSD_CHUNK,
};

pub use matrices::{ssd_matrices, ssd_matrix_bmm, ssd_matrix_scan, ssd_matrix_state};
pub use step::{ssd_in_proj, SsdInProj};

use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor, Variant};
use crate::reference::SsdShape;

/// The rungs of Mamba-2's ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ssd {
    /// Token by token: the oracle on the device.
    Sequential,
    /// Products of matrices within chunks, a scan over them.
    Chunked,
    /// The same by cooperative matrices, for devices and shapes that have them ([`Ssd::best`]): in f32 by halves where xbc is f32, in
    /// f16 where it is f16.
    Matrices,
}

impl Ssd {
    /// Tokens a chunk, of the rungs that work in chunks.
    pub fn chunk(self) -> usize {
        if self == Ssd::Matrices {
            matrices::CHUNK
        } else {
            SSD_CHUNK
        }
    }

    /// The fastest rung for a shape on a device. `halves`: whether f16 may be used.
    pub fn best(gpu: &Gpu, shape: &SsdShape, halves: bool) -> Self {
        if halves && gpu.cooperative() && gpu.allows(Variant::MatrixSsd) && matrices::fits(shape) {
            Ssd::Matrices
        } else if gpu.allows(Variant::ChunkedSsd) {
            Ssd::Chunked
        } else {
            Ssd::Sequential
        }
    }
}

/// The tensors of Mamba-2's recurrence; where in their rows things lie, [`SsdShape`] says.
#[derive(Debug, Clone, Copy)]
pub struct SsdBuffers<'a> {
    /// (L, zxbcdt_stride), f32 or f16: dt, and z for the gate of [`ssd_state_update`]
    pub zxbcdt: &'a Tensor,
    /// (L, xbc_stride), f32 or f16: x, B, C, the convolution's output
    pub xbc: &'a Tensor,
    /// (heads)
    pub dt_bias: &'a Tensor,
    /// (heads), -exp(A_log)
    pub a: &'a Tensor,
    /// (heads) or (heads, head_dim)
    pub d: &'a Tensor,
    /// (heads, head_dim, d_state): initial state in, final state out
    pub ssm_state: &'a Tensor,
    /// (L, heads, head_dim)
    pub y: &'a Tensor,
}

/// shared/ssd.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    t0: u32,
    n_chunks: u32,
    heads: u32,
    head_dim: u32,
    d_state: u32,
    groups: u32,
    group_heads: u32,
    xbc_stride: u32,
    x_offset: u32,
    b_offset: u32,
    c_offset: u32,
    zxbcdt_stride: u32,
    z_offset: u32,
    dt_offset: u32,
    d_has_hdim: u32,
    dt_min: f32,
    dt_max: f32,
}

impl SsdShape {
    fn params(&self, t0: usize, l: usize) -> Params {
        Params {
            l: l as u32,
            t0: t0 as u32,
            n_chunks: 0,
            heads: self.heads as u32,
            head_dim: self.head_dim as u32,
            d_state: self.d_state as u32,
            groups: self.groups as u32,
            group_heads: (self.heads / self.groups.max(1)) as u32,
            xbc_stride: self.xbc_stride as u32,
            x_offset: self.x_offset as u32,
            b_offset: self.b_offset as u32,
            c_offset: self.c_offset as u32,
            zxbcdt_stride: self.zxbcdt_stride as u32,
            z_offset: self.z_offset as u32,
            dt_offset: self.dt_offset as u32,
            d_has_hdim: self.d_has_hdim.into(),
            // WGSL promises nothing of infinities.
            dt_min: self.dt_limit.0.clamp(-f32::MAX, f32::MAX),
            dt_max: self.dt_limit.1.clamp(-f32::MAX, f32::MAX),
        }
    }

    /// Whether a row's B and C can be read in quads, where rows are `stride` apart.
    fn whole_quads(&self, stride: usize) -> bool {
        [self.d_state, self.b_offset, self.c_offset, stride].iter().all(|n| n.is_multiple_of(4))
    }
}

/// ssd_sequential.wgsl: states that an invocation takes through the text at a time.
const STATES: usize = 16;
/// Rounds of a shader's loops over time: llvmpipe (lavapipe, software Vulkan) silently ends a loop after 65,535.
const ROUNDS: usize = 16_384;

fn delta_spec(zxbcdt: NumberFormat) -> ShaderSpec {
    ShaderSpec::new("ssd_delta").number("xz_t", zxbcdt)
}
fn sequential_spec(act: NumberFormat) -> ShaderSpec {
    ShaderSpec::new("ssd_sequential").number("act", act)
}
fn update_spec(quads: bool, gate: bool, rows: bool) -> ShaderSpec {
    ShaderSpec::new("ssd_state_update").flag("QUADS", quads).flag("GATE", gate).flag("ROWS", rows)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = chunked::specs();
    specs.extend(matrices::specs());
    for format in [NumberFormat::F32, NumberFormat::F16] {
        specs.extend([delta_spec(format), sequential_spec(format)]);
    }
    for quads in [false, true] {
        specs.extend([false, true].map(|gate| update_spec(quads, gate, false)));
        specs.push(update_spec(quads, false, true));
    }
    specs
}

/// delta (L, heads) = softplus(dt + dt_bias) within the limits.
pub fn ssd_delta(
    plan: &mut PlanBuilder<'_>,
    (zxbcdt, dt_bias): (&Tensor, &Tensor),
    delta: &Tensor,
    shape: &SsdShape,
) -> Result<(), GpuError> {
    let bindings = [(1, zxbcdt), (2, dt_bias), (3, delta)];
    let spec = delta_spec(zxbcdt.format());
    plan.dispatch_flat(spec, &shape.params(0, shape.l), &bindings, shape.l * shape.heads, 64)
}

/// y and the state from delta (L, heads), sequential over time: the oracle.
pub fn ssd_sequential(
    plan: &mut PlanBuilder<'_>,
    b: &SsdBuffers<'_>,
    delta: &Tensor,
    shape: &SsdShape,
) -> Result<(), GpuError> {
    let bindings = [(1, b.xbc), (2, delta), (3, b.a), (4, b.d), (5, b.ssm_state), (6, b.y)];
    let segment = (ROUNDS / shape.d_state.div_ceil(STATES).max(1)).max(1);
    for t0 in (0..shape.l).step_by(segment) {
        let params = shape.params(t0, segment.min(shape.l - t0));
        plan.dispatch_flat(sequential_spec(b.xbc.format()), &params, &bindings, shape.d_inner(), 64)?;
    }
    Ok(())
}

/// One token (`shape.l` is 1), all in f32: delta, the state's step, y; with `gate` times silu(z), for models without a
/// norm.
pub fn ssd_state_update(
    plan: &mut PlanBuilder<'_>,
    b: &SsdBuffers<'_>,
    gate: bool,
    shape: &SsdShape,
) -> Result<(), GpuError> {
    let bindings = [(1, b.xbc), (2, b.zxbcdt), (3, b.dt_bias), (4, b.a), (5, b.d), (6, b.ssm_state), (7, b.y)];
    // There is one row.
    let spec = update_spec(shape.whole_quads(0), gate, false);
    plan.dispatch_flat(spec, &shape.params(0, 1), &bindings, shape.d_inner(), 4)
}

/// A token of each of some texts, `shape.l` rows of xbc, zxbcdt and y; `b.ssm_state` (slots, heads, head_dim, d_state). `texts`:
/// [`super::TEXT`].
pub fn ssd_state_update_rows(
    plan: &mut PlanBuilder<'_>,
    b: &SsdBuffers<'_>,
    texts: &Tensor,
    shape: &SsdShape,
) -> Result<(), GpuError> {
    let bindings =
        [(1, b.xbc), (2, b.zxbcdt), (3, b.dt_bias), (4, b.a), (5, b.d), (6, b.ssm_state), (7, b.y), (8, texts)];
    let spec = update_spec(shape.whole_quads(shape.xbc_stride), false, true);
    plan.dispatch_flat(spec, &shape.params(0, shape.l), &bindings, shape.l * shape.d_inner(), 4)
}

/// Mamba-2's recurrence by a rung: y and the state from zxbcdt and xbc.
pub fn ssd(
    plan: &mut PlanBuilder<'_>,
    rung: Ssd,
    workspace: &SsdWorkspace,
    b: &SsdBuffers<'_>,
    shape: &SsdShape,
) -> Result<(), GpuError> {
    match rung {
        Ssd::Sequential => {
            ssd_delta(plan, (b.zxbcdt, b.dt_bias), &workspace.delta, shape)?;
            ssd_sequential(plan, b, &workspace.delta, shape)
        }
        Ssd::Chunked => ssd_chunked(plan, workspace, b, shape),
        Ssd::Matrices => ssd_matrices(plan, workspace, b, shape),
    }
}

impl SsdWorkspace {
    /// For up to `shape.l` tokens by a rung; `xbc`: the format of xbc.
    ///
    /// # Errors
    /// Over the adapter's limit a buffer.
    pub fn new(gpu: &Gpu, rung: Ssd, shape: &SsdShape, xbc: NumberFormat) -> Result<Self, GpuError> {
        let segment = chunked::segment(gpu, rung.chunk(), shape);
        match rung {
            Ssd::Sequential => Self::of_segment(gpu, rung, 0, shape, NumberFormat::F32),
            Ssd::Chunked => Self::of_segment(gpu, rung, segment, shape, NumberFormat::F32),
            Ssd::Matrices => Self::of_segment(gpu, rung, segment, shape, xbc),
        }
    }
}
