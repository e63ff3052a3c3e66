//! The decode step of Mamba-2 in three dispatches a layer: [`ssd_in_proj`], [`super::ssd_state_update`] on the row that
//! it leaves ([`super::SsdShape::in_row`]), with its gate, and `matvec_norm_add` (norm and out_proj); where the norm is over groups
//! or before the gate, `gated_rms_norm` and `matvec_add` instead. The convolution is part of in_proj, where each channel has one owner: in the state's update all heads of a group read B and C, and none could
//! move the inputs on.

use super::SsdShape;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::kernels::linear::{any_matvec, Input, Output};
use crate::kernels::step::one_token;
use crate::kernels::WeightMatrix;

/// What [`ssd_in_proj`] reads, keeps and writes.
#[derive(Debug, Clone, Copy)]
pub struct SsdInProj<'a> {
    /// (d_model), a multiple of 4
    pub residual: &'a Tensor,
    /// (d_model)
    pub norm: &'a Tensor,
    pub eps: f32,
    /// (zxbcdt_stride, d_model)
    pub in_proj: &'a WeightMatrix,
    /// (zxbcdt_stride), or [`super::super::pack_scaled`]'s
    pub bias: Option<&'a Tensor>,
    /// (d_conv + 1, channels): `pack_taps`
    pub taps: &'a Tensor,
    /// (d_conv, channels), oldest first
    pub conv_state: &'a Tensor,
    /// (zxbcdt_stride)
    pub zxbcdt: &'a Tensor,
}

/// One token's norm, in_proj, and the convolution (of d_conv taps) with SiLU over its channels x, B and C, the first of
/// which is row `first` of in_proj.
pub fn ssd_in_proj(
    plan: &mut PlanBuilder<'_>,
    b: &SsdInProj<'_>,
    (first, d_conv): (usize, usize),
    shape: &SsdShape,
) -> Result<(), GpuError> {
    let count = shape.channels();
    let output = Output::Conv { conv_state: b.conv_state, channels: b.taps, d_conv, first, count };
    let input = Input::Norm { residual: b.residual, weight: b.norm, eps: b.eps };
    any_matvec(plan, input, b.in_proj, b.bias, (b.zxbcdt, output), one_token(b.in_proj))
}
