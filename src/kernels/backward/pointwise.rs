//! pointwise.wgsl: parameters in the form that the scan takes.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};

fn spec(softplus: bool) -> ShaderSpec {
    ShaderSpec::new("backward/pointwise").flag("SOFTPLUS", softplus)
}

pub(super) fn specs() -> [ShaderSpec; 2] {
    [false, true].map(spec)
}

/// a = -exp(a_log).
pub fn negative_exp(plan: &mut PlanBuilder<'_>, a_log: &Tensor, a: &Tensor, elements: usize) -> Result<(), GpuError> {
    plan.dispatch_flat(spec(false), &(elements as u32), &[(1, a_log), (2, a)], elements, 64)
}

/// y = softplus(x): delta of a layer without selectivity.
pub fn softplus(plan: &mut PlanBuilder<'_>, x: &Tensor, y: &Tensor, elements: usize) -> Result<(), GpuError> {
    plan.dispatch_flat(spec(true), &(elements as u32), &[(1, x), (2, y)], elements, 64)
}
