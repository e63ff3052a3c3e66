//! train/gradient_norm.wgsl, train/gradient_clip.wgsl, train/adamw.wgsl: what happens to the parameters once their gradients are
//! there.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};

const WG: u32 = 256;
/// Quads that a workgroup of gradient_norm adds up.
const BLOCK: usize = 4096;

/// shared/train_step.wgsl: what the host writes before a step.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// 1 / targets that count.
    pub loss_scale: f32,
    pub learning_rate: f32,
    /// 1 - beta1^t
    pub correction1: f32,
    /// sqrt(1 - beta2^t)
    pub correction2: f32,
    /// Where in the record the step is written down.
    pub slot: u32,
}

impl Step {
    /// 32-bit values of a tensor that holds one.
    pub const ELEMENTS: usize = std::mem::size_of::<Step>() / 4;
}

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// The largest norm of a step's whole gradient; 0 for any.
    pub max_norm: f32,
}

/// A run of parameters with all that goes with them, of one length, a multiple of 4.
#[derive(Debug, Clone, Copy)]
pub struct AdamBuffers<'a> {
    pub value: &'a Tensor,
    pub gradient: &'a Tensor,
    pub m: &'a Tensor,
    pub v: &'a Tensor,
    /// The first so many (a multiple of 4) decay.
    pub decayed: usize,
}

/// What a step shares.
#[derive(Debug, Clone, Copy)]
pub struct StepTensors<'a> {
    /// A [`Step`].
    pub step: &'a Tensor,
    /// (2): what the gradient is multiplied by; not 0 (a u32) once a loss or a norm was not finite.
    pub clip: &'a Tensor,
    /// (1): sum of nll over all targets of the step.
    pub loss_sum: &'a Tensor,
    /// (slots, 2): loss and norm of each step.
    pub record: &'a Tensor,
    /// One for every partial sum, [`partial_sums`].
    pub partials: &'a Tensor,
}

/// Partial sums that gradient_norm makes of so many values.
pub fn partial_sums(elements: usize) -> usize {
    elements.div_ceil(4).div_ceil(BLOCK)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct NormParams {
    quads: u32,
    first: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ClipParams {
    partials: u32,
    max_norm: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdamParams {
    quads: u32,
    decayed: u32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
}

pub(super) fn specs() -> [ShaderSpec; 3] {
    [
        ShaderSpec::new("train/gradient_norm").constant("WG", WG).constant("BLOCK", BLOCK as u32),
        ShaderSpec::new("train/gradient_clip").constant("WG", WG),
        ShaderSpec::new("train/adamw"),
    ]
}

/// partials (from `first` on) = sums of gradient^2; gives how many.
pub fn gradient_norm(
    plan: &mut PlanBuilder<'_>,
    gradient: &Tensor,
    partials: &Tensor,
    first: usize,
) -> Result<usize, GpuError> {
    let [spec, ..] = specs();
    let quads = gradient.elements().div_ceil(4);
    let params = NormParams { quads: quads as u32, first: first as u32 };
    plan.dispatch_flat(spec, &params, &[(1, gradient), (2, partials)], quads, BLOCK)?;
    Ok(partial_sums(gradient.elements()))
}

/// From the first `count` partial sums: what the gradient is multiplied by, and the step's line in the record.
pub fn gradient_clip(
    plan: &mut PlanBuilder<'_>,
    t: &StepTensors<'_>,
    count: usize,
    max_norm: f32,
) -> Result<(), GpuError> {
    let [_, spec, _] = specs();
    let params = ClipParams { partials: count as u32, max_norm };
    let bindings = [(1, t.partials), (2, t.step), (3, t.loss_sum), (4, t.clip), (5, t.record)];
    plan.dispatch(spec, &params, &bindings, [1, 1])
}

/// AdamW in place.
pub fn adamw(
    plan: &mut PlanBuilder<'_>,
    b: &AdamBuffers<'_>,
    t: &StepTensors<'_>,
    adam: &AdamW,
) -> Result<(), GpuError> {
    let [_, _, spec] = specs();
    let quads = b.value.elements().div_ceil(4);
    let params = AdamParams {
        quads: quads as u32,
        decayed: (b.decayed / 4) as u32,
        beta1: adam.beta1,
        beta2: adam.beta2,
        eps: adam.eps,
        weight_decay: adam.weight_decay,
    };
    let bindings = [(1, b.value), (2, b.gradient), (3, b.m), (4, b.v), (5, t.step), (6, t.clip)];
    plan.dispatch_flat(spec, &params, &bindings, quads, 256)
}
