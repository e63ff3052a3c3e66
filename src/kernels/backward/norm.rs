//! rms_norm.wgsl with its sum kept, and rms_norm_backward.wgsl.

use super::sums::{columns, Columns, Scratch};
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::kernels::norm::{rms_norm_specs, RmsNorm, WG};

fn spec() -> ShaderSpec {
    ShaderSpec::new("backward/rms_norm_backward").constant("WG", WG)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let train = [false, true].map(|add| rms_norm_specs(add, true, NumberFormat::F32));
    train.into_iter().chain([spec()]).collect()
}

/// sum = residual + hidden (or residual alone), y = RMSNorm(sum) * weight; all (rows, d) but weight (d). The residual stream stays
/// as it is: sum is the next one, and what [`rms_norm_backward`] reads. `shape.row0` is 0.
pub fn rms_norm_train(
    plan: &mut PlanBuilder<'_>,
    residual: &Tensor,
    hidden: Option<&Tensor>,
    sum: &Tensor,
    weight: &Tensor,
    y: &Tensor,
    shape: RmsNorm,
) -> Result<(), GpuError> {
    let mut bindings = vec![(1, residual), (2, weight), (3, y), (5, sum)];
    bindings.extend(hidden.map(|h| (4, h)));
    plan.dispatch_flat(rms_norm_specs(hidden.is_some(), true, y.format()), &shape.params(), &bindings, shape.rows, 1)
}

/// The tensors of [`rms_norm_backward`].
#[derive(Debug, Clone, Copy)]
pub struct RmsNormGrads<'a> {
    /// (rows, d): what was normalised
    pub x: &'a Tensor,
    /// (d)
    pub weight: &'a Tensor,
    /// (rows, d)
    pub grad_y: &'a Tensor,
    /// (rows, d), added to: the residual stream's gradient
    pub grad_x: &'a Tensor,
    /// (d), added to
    pub grad_weight: &'a Tensor,
}

/// Gradients of x and weight; `shape.row0` is 0.
pub fn rms_norm_backward(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    b: &RmsNormGrads<'_>,
    shape: RmsNorm,
) -> Result<(), GpuError> {
    let room = scratch.room("rms_norm_backward", shape.rows)?;
    let bindings = [(1, b.x), (2, b.weight), (3, b.grad_y), (4, b.grad_x), (5, room)];
    plan.dispatch_flat(spec(), &shape.params(), &bindings, shape.rows, 1)?;
    let all = Columns { rows: shape.rows, cols: shape.d, stride: shape.d };
    columns(plan, scratch, b.grad_y, Some(b.x), b.grad_weight, all)
}
