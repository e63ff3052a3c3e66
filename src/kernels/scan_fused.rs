//! scan_fused_reduce.wgsl, scan_fused_carry.wgsl, scan_fused_apply.wgsl: rung (c), the default.

use super::{ScanBuffers, ScanParams, ScanShape};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

/// shared/scan_fused.wgsl: channels and chunks a workgroup.
const CHANNELS: usize = 32;
const CHUNKS: usize = 8;

/// How a length is cut into chunks and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    chunk: usize,
    n_chunks: usize,
    n_blocks: usize,
}

impl Cut {
    fn new(l: usize, chunk: usize) -> Self {
        let n_chunks = l.div_ceil(chunk);
        Self { chunk, n_chunks, n_blocks: n_chunks.div_ceil(CHUNKS) }
    }
    /// Elements of the four regions of `aggregates`.
    fn elements(&self, d_inner: usize, d_state: usize) -> usize {
        (self.n_chunks + self.n_blocks) * (d_state + 1) * d_inner
    }
}

/// The chunks' and blocks' aggregates: all that this scan writes besides its output.
pub struct FusedWorkspace {
    aggregates: Tensor,
}

impl FusedWorkspace {
    /// For chunks of up to l tokens.
    pub fn new(gpu: &Gpu, l: usize, d_inner: usize, d_state: usize) -> Result<Self, GpuError> {
        let cut = cut(gpu, l, d_inner, d_state);
        Ok(Self { aggregates: Tensor::zeros(gpu, "scan aggregates", cut.elements(d_inner, d_state))? })
    }
}

/// Short chunks for short texts, so that there is work for every unit; longer ones where there is enough of it, since a
/// chunk's aggregate is as large as 2 (d_state + 1) tokens of input; and as long as it takes to stay in one binding.
fn cut(gpu: &Gpu, l: usize, d_inner: usize, d_state: usize) -> Cut {
    let mut chunk = match l {
        0..=2048 => 16,
        2049..=16_384 => 32,
        _ => 64,
    };
    let limit = gpu.max_binding() / 4;
    while chunk < l && Cut::new(l, chunk).elements(d_inner, d_state) as u64 > limit {
        chunk *= 2;
    }
    Cut::new(l, chunk)
}

/// The selective scan, discretised in registers; see shared/scan_fused.wgsl.
pub fn scan_fused(
    plan: &mut PlanBuilder<'_>,
    workspace: &FusedWorkspace,
    b: &ScanBuffers<'_>,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let cut = cut(plan.gpu(), shape.l, shape.d_inner, shape.d_state);
    let params = ScanParams {
        chunk: cut.chunk as u32,
        n_chunks: cut.n_chunks as u32,
        n_blocks: cut.n_blocks as u32,
        ..shape.params()
    };
    let aggregates = &workspace.aggregates;
    let groups = [shape.d_inner.div_ceil(CHANNELS) as u64, cut.n_blocks as u64];
    let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, aggregates)];
    plan.dispatch(shape.with_states("scan_fused_reduce")?, &params, &bindings, groups)?;
    let bindings = [(1, b.a), (2, b.ssm_state), (3, aggregates)];
    plan.dispatch_flat(shape.with_states("scan_fused_carry")?, &params, &bindings, shape.d_inner * shape.d_state, 64)?;
    let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, b.d), (6, b.xz), (7, aggregates), (8, b.y)];
    plan.dispatch(shape.with_states("scan_fused_apply")?, &params, &bindings, groups)
}
