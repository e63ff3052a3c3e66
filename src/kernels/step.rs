//! The decode step in four dispatches a layer: matvec with the norm before it and the convolution after it (in_proj),
//! matvec (x_proj), step_mixer.wgsl, matvec that adds (out_proj). For models whose d_model and d_inner are multiples of four (all that are published).

use super::linear::{any_matvec, Activate, Input, Linear, Output};
use super::WeightMatrix;
use crate::gpu::shader::{ShaderSpec, WeightFormat};
use crate::gpu::{GpuError, PlanBuilder, Tensor};

pub(super) fn one_token(w: &WeightMatrix) -> Linear {
    Linear { l: 1, x_stride: w.k(), y_stride: w.n(), softplus: false }
}

/// y (n) = w RMSNorm(residual) * norm + bias: a layer's norm and in_proj, or norm_f and the head. k is a multiple of 4.
pub fn matvec_norm(
    plan: &mut PlanBuilder<'_>,
    residual: &Tensor,
    (norm, eps): (&Tensor, f32),
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
) -> Result<(), GpuError> {
    any_matvec(plan, Input::Norm { residual, weight: norm, eps }, w, bias, (y, Output::Set), one_token(w))
}

/// y (n) += w RMSNorm(x) * norm + bias: a norm, out_proj and the residual add.
pub fn matvec_norm_add(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    (norm, eps): (&Tensor, f32),
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
) -> Result<(), GpuError> {
    any_matvec(plan, Input::Norm { residual: x, weight: norm, eps }, w, bias, (y, Output::Add), one_token(w))
}

/// y (n) += w x + bias: out_proj and the residual add.
pub fn matvec_add(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
) -> Result<(), GpuError> {
    any_matvec(plan, Input::Plain(x), w, bias, (y, Output::Add), one_token(w))
}

/// y (n / 2 with gates, else n) = scale f(gate_scale gate) x, or scale f(x), of w RMSNorm(residual) * norm + bias, whose first half
/// are the gates: an MLP's norm, up_proj and activation. A w with gates has one part.
pub fn matvec_norm_activate(
    plan: &mut PlanBuilder<'_>,
    residual: &Tensor,
    (norm, eps): (&Tensor, f32),
    (w, bias): (&WeightMatrix, Option<&Tensor>),
    y: &Tensor,
    act: Activate,
) -> Result<(), GpuError> {
    let input = Input::Norm { residual, weight: norm, eps };
    any_matvec(plan, input, w, bias, (y, Output::Activated(act)), one_token(w))
}

/// A bias (n; without, zeros) and what the sums with it are multiplied by, (2, n): the kernels of this module take it as a bias.
pub fn pack_scaled(bias: Option<&[f32]>, factors: &[f32]) -> Vec<f32> {
    let zeros = || vec![0.0; factors.len()];
    let mut out = bias.map_or_else(zeros, <[f32]>::to_vec);
    out.extend(factors);
    out
}

/// What a layer's convolution and mixer read and keep.
#[derive(Debug, Clone, Copy)]
pub struct StepBuffers<'a> {
    /// (2 d_inner): u, the convolution's output, and z
    pub uz: &'a Tensor,
    /// (dt_rank + 2 d_state): dt, B, C
    pub x_dbl: &'a Tensor,
    /// (d_conv + 3, d_inner): [`pack_channels`]
    pub channels: &'a Tensor,
    /// (d_inner, dt_rank)
    pub dt_proj: &'a WeightMatrix,
    /// (d_inner, d_state)
    pub a: &'a Tensor,
    /// (d_conv, d_inner), oldest first
    pub conv_state: &'a Tensor,
    /// (d_inner, d_state)
    pub ssm_state: &'a Tensor,
    /// (d_inner)
    pub y: &'a Tensor,
}

/// Sizes of a layer's mixer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepShape {
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
    /// Falcon-Mamba: the norm of dt, B and C.
    pub mixer_rms_eps: Option<f32>,
}

/// What belongs to a channel, each kind a row of d_inner: the convolution's taps (from (d_inner, d_conv)) and bias,
/// dt_proj's bias, D.
pub fn pack_channels(conv1d: &[f32], conv1d_bias: Option<&[f32]>, dt_proj_bias: &[f32], d: &[f32]) -> Vec<f32> {
    let mut out = pack_taps(conv1d, conv1d_bias, d.len());
    out.extend(dt_proj_bias);
    out.extend(d);
    out
}

/// The convolution's part of that, (d_conv + 1, channels): taps and bias.
pub fn pack_taps(conv1d: &[f32], bias: Option<&[f32]>, channels: usize) -> Vec<f32> {
    let d_conv = conv1d.len() / channels.max(1);
    let mut out = Vec::with_capacity((d_conv + 3) * channels);
    for j in 0..d_conv {
        out.extend(conv1d.iter().skip(j).step_by(d_conv));
    }
    match bias {
        Some(bias) => out.extend(bias),
        None => out.resize(out.len() + channels, 0.0),
    }
    out
}

/// A layer's norm, in_proj and convolution: b.uz becomes [u | z], b.conv_state moves on. `w` has 2 d_inner rows and a multiple of
/// four columns.
pub fn matvec_norm_conv(
    plan: &mut PlanBuilder<'_>,
    residual: &Tensor,
    (norm, eps): (&Tensor, f32),
    (w, bias): (&WeightMatrix, Option<&Tensor>),
    b: &StepBuffers<'_>,
    shape: StepShape,
) -> Result<(), GpuError> {
    let output = Output::Conv {
        conv_state: b.conv_state,
        channels: b.channels,
        d_conv: shape.d_conv,
        first: 0,
        count: shape.d_inner,
    };
    any_matvec(plan, Input::Norm { residual, weight: norm, eps }, w, bias, (b.uz, output), one_token(w))
}

/// x_dbl = x_proj u.
pub fn matvec_x_proj(plan: &mut PlanBuilder<'_>, b: &StepBuffers<'_>, x_proj: &WeightMatrix) -> Result<(), GpuError> {
    any_matvec(plan, Input::Plain(b.uz), x_proj, None, (b.x_dbl, Output::Set), one_token(x_proj))
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    d_inner: u32,
    d_state: u32,
    d_conv: u32,
    dt_rank: u32,
    k4: u32,
    eps: f32,
}

pub(super) fn spec(format: WeightFormat, falcon: bool) -> ShaderSpec {
    ShaderSpec::new("step_mixer").weight(format).flag("FALCON", falcon)
}

/// dt_proj, the recurrence and its state, C, D and the gate, for one token.
pub fn step_mixer(plan: &mut PlanBuilder<'_>, b: &StepBuffers<'_>, shape: StepShape) -> Result<(), GpuError> {
    let params = Params {
        d_inner: shape.d_inner as u32,
        d_state: shape.d_state as u32,
        d_conv: shape.d_conv as u32,
        dt_rank: shape.dt_rank as u32,
        k4: b.dt_proj.k4() as u32,
        eps: shape.mixer_rms_eps.unwrap_or(0.0),
    };
    // Its eight buffers leave no room for scales, and dt_proj is never quantised: docs/quantisation.md.
    if b.dt_proj.format().quant().is_some() {
        let (what, value, limit) = ("quantised dt_proj: parts", b.dt_proj.parts().len(), 0);
        return Err(GpuError::Unsupported { kernel: "step_mixer", what, value, limit });
    }
    let spec = spec(b.dt_proj.format(), shape.mixer_rms_eps.is_some());
    // dt_rank is at most d_model: a matrix of d_inner rows that short is never split in practice, but could be.
    let [dt_proj] = b.dt_proj.parts() else {
        let (what, value, limit) = ("parts of dt_proj", b.dt_proj.parts().len(), 1);
        return Err(GpuError::Unsupported { kernel: "step_mixer", what, value, limit });
    };
    let bindings =
        [(1, &dt_proj.tensor), (2, b.x_dbl), (3, b.uz), (4, b.channels), (5, b.a), (6, b.ssm_state), (8, b.y)];
    plan.dispatch_flat(spec, &params, &bindings, shape.d_inner, 4)
}
