//! scan_sequential.wgsl (rung (a)) and selective_state_update.wgsl (the decode's step).

use super::{ScanBuffers, ScanParams, ScanShape};
use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};

/// Tokens a dispatch. llvmpipe (lavapipe, software Vulkan) silently ends any loop after 65,535 rounds, and GPUs with a
/// display reset a shader that runs for seconds.
const SEGMENT: usize = 16_384;

/// The selective scan, sequential over time: the oracle.
pub fn scan_sequential(plan: &mut PlanBuilder<'_>, b: &ScanBuffers<'_>, shape: ScanShape) -> Result<(), GpuError> {
    let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, b.d), (6, b.xz), (7, b.ssm_state), (8, b.y)];
    for t0 in (0..shape.l).step_by(SEGMENT) {
        let l = SEGMENT.min(shape.l - t0) as u32;
        let params = ScanParams { l, t0: t0 as u32, ..shape.params() };
        plan.dispatch_flat(shape.with_states("scan_sequential")?, &params, &bindings, shape.d_inner, 64)?;
    }
    Ok(())
}

/// The tensors of the recurrence's step.
#[derive(Debug, Clone, Copy)]
pub struct StateUpdate<'a> {
    /// (rows, xz_stride): u in its first d_inner columns, and z
    pub uz: &'a Tensor,
    /// (rows, d_inner), after softplus
    pub delta: &'a Tensor,
    /// (d_inner, d_state)
    pub a: &'a Tensor,
    /// (rows, x_dbl_stride)
    pub x_dbl: &'a Tensor,
    /// (d_inner)
    pub d: &'a Tensor,
    /// (slots, d_inner, d_state): states in and out
    pub ssm_state: &'a Tensor,
    /// (rows, d_inner)
    pub y: &'a Tensor,
}

/// selective_state_update.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StepParams {
    rows: u32,
    d_inner: u32,
    d_state: u32,
    x_dbl_stride: u32,
    b_offset: u32,
    c_offset: u32,
    uz_stride: u32,
    z_offset: u32,
}

pub(super) fn update_spec() -> ShaderSpec {
    ShaderSpec::new("selective_state_update")
}

/// A token of each of some texts (`shape.l` rows). `texts`: [`super::TEXT`].
pub fn selective_state_update(
    plan: &mut PlanBuilder<'_>,
    b: &StateUpdate<'_>,
    texts: &Tensor,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let params = StepParams {
        rows: shape.l as u32,
        d_inner: shape.d_inner as u32,
        d_state: shape.d_state as u32,
        x_dbl_stride: shape.x_dbl_stride as u32,
        b_offset: shape.b_offset as u32,
        c_offset: shape.c_offset as u32,
        uz_stride: shape.xz_stride as u32,
        z_offset: shape.z_offset as u32,
    };
    let bindings = [(1, texts), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, b.d), (6, b.uz), (7, b.ssm_state), (8, b.y)];
    plan.dispatch_flat(update_spec(), &params, &bindings, shape.l * shape.d_inner, 4)
}
