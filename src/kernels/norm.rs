//! rms_norm.wgsl and x_dbl_norm.wgsl.

use super::WATCH;
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{GpuError, PlanBuilder, Tensor};

pub(super) const WG: u32 = 256;

/// Rows, width and eps of [`rms_norm`].
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Tokens to normalise, from `row0` of residual and hidden on.
    pub rows: usize,
    pub row0: usize,
    pub d: usize,
    pub eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    rows: u32,
    d: u32,
    row0: u32,
    eps: f32,
}

pub(super) fn rms_norm_spec(add_hidden: bool, act: NumberFormat) -> ShaderSpec {
    rms_norm_specs(add_hidden, false, act)
}

/// keep: the sum goes to a buffer of its own.
pub(super) fn rms_norm_specs(add_hidden: bool, keep: bool, act: NumberFormat) -> ShaderSpec {
    let spec = ShaderSpec::new("rms_norm").constant("WG", WG).flag("ADD_HIDDEN", add_hidden).flag("KEEP", keep);
    spec.flag("IN_PLACE", add_hidden && !keep).number("act", act)
}

impl RmsNorm {
    pub(super) fn params(&self) -> Params {
        Params { rows: self.rows as u32, d: self.d as u32, row0: self.row0 as u32, eps: self.eps }
    }
}

/// residual += hidden (if given), then y (rows, d) = RMSNorm(residual) * weight (d).
pub fn rms_norm(
    plan: &mut PlanBuilder<'_>,
    residual: &Tensor,
    hidden: Option<&Tensor>,
    weight: &Tensor,
    y: &Tensor,
    shape: RmsNorm,
) -> Result<(), GpuError> {
    let params = shape.params();
    let mut bindings = vec![(1, residual), (2, weight), (3, y)];
    bindings.extend(hidden.map(|h| (4, h)));
    bindings.extend(y.watch().map(|flag| (WATCH, flag)));
    let spec = rms_norm_spec(hidden.is_some(), y.format()).flag("WATCH", y.watch().is_some());
    plan.dispatch_flat(spec, &params, &bindings, shape.rows, 1)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct DblParams {
    l: u32,
    dt_rank: u32,
    d_state: u32,
    eps: f32,
}

pub(super) fn x_dbl_norm_spec() -> ShaderSpec {
    ShaderSpec::new("x_dbl_norm").constant("WG", 64)
}

/// Falcon-Mamba: RMSNorm without weights on dt, B and C, each alone, in place in x_dbl (L, dt_rank + 2 d_state).
pub fn x_dbl_norm(
    plan: &mut PlanBuilder<'_>,
    x_dbl: &Tensor,
    l: usize,
    dt_rank: usize,
    d_state: usize,
    eps: f32,
) -> Result<(), GpuError> {
    let params = DblParams { l: l as u32, dt_rank: dt_rank as u32, d_state: d_state as u32, eps };
    plan.dispatch_flat(x_dbl_norm_spec(), &params, &[(1, x_dbl)], 3 * l, 1)
}
