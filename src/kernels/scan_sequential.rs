//! scan_sequential.wgsl (rung (a)) and selective_state_update.wgsl (the decode's step).

use super::{ScanBuffers, ScanShape};
use crate::gpu::{GpuError, PlanBuilder};

fn record(
    plan: &mut PlanBuilder<'_>,
    kernel: &'static str,
    b: &ScanBuffers<'_>,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let bindings = [
        (1, b.u),
        (2, b.delta),
        (3, b.a),
        (4, b.x_dbl),
        (5, b.d),
        (6, b.xz),
        (7, b.ssm_state),
        (8, b.y),
    ];
    let items = if shape.l == 0 { 0 } else { shape.d_inner };
    plan.dispatch_flat(
        shape.with_states(kernel)?,
        &shape.params(),
        &bindings,
        items,
        64,
    )
}

/// The selective scan, sequential over time: the oracle.
pub fn scan_sequential(
    plan: &mut PlanBuilder<'_>,
    b: &ScanBuffers<'_>,
    shape: ScanShape,
) -> Result<(), GpuError> {
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
