//! scan_sequential.wgsl (rung (a)) and selective_state_update.wgsl (the decode's step).

use super::{ScanBuffers, ScanParams, ScanShape};
use crate::gpu::{GpuError, PlanBuilder};

/// Tokens a dispatch. llvmpipe (lavapipe, software Vulkan) silently ends any loop after 65,535 rounds, and GPUs with a
/// display reset a shader that runs for seconds.
const SEGMENT: usize = 16_384;

fn record(
    plan: &mut PlanBuilder<'_>,
    kernel: &'static str,
    b: &ScanBuffers<'_>,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, b.d), (6, b.xz), (7, b.ssm_state), (8, b.y)];
    for t0 in (0..shape.l).step_by(SEGMENT) {
        let l = SEGMENT.min(shape.l - t0) as u32;
        let params = ScanParams { l, t0: t0 as u32, ..shape.params() };
        plan.dispatch_flat(shape.with_states(kernel)?, &params, &bindings, shape.d_inner, 64)?;
    }
    Ok(())
}

/// The selective scan, sequential over time: the oracle.
pub fn scan_sequential(plan: &mut PlanBuilder<'_>, b: &ScanBuffers<'_>, shape: ScanShape) -> Result<(), GpuError> {
    record(plan, "scan_sequential", b, shape)
}

/// One token of it (`shape.l` is 1).
pub fn selective_state_update(
    plan: &mut PlanBuilder<'_>,
    b: &ScanBuffers<'_>,
    shape: ScanShape,
) -> Result<(), GpuError> {
    record(plan, "selective_state_update", b, shape)
}
