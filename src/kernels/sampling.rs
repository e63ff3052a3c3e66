//! argmax.wgsl, token_nll.wgsl and sample.wgsl.

use crate::generate::SamplingParams;
use crate::gpu::shader::ShaderSpec;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

const WG: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    vocab_size: u32,
}

pub(super) fn argmax_spec() -> ShaderSpec {
    ShaderSpec::new("argmax").constant("WG", WG)
}
pub(super) fn token_nll_spec() -> ShaderSpec {
    ShaderSpec::new("token_nll").constant("WG", WG)
}
pub(super) fn sample_spec() -> ShaderSpec {
    ShaderSpec::new("sample").constant("WG", WG)
}

/// token (rows) = place of the largest of logits (rows, vocab_size); [`SampleBuffers::NOT_A_NUMBER`] for a row with NaN.
pub fn argmax(
    plan: &mut PlanBuilder<'_>,
    logits: &Tensor,
    token: &Tensor,
    rows: usize,
    vocab_size: usize,
) -> Result<(), GpuError> {
    let params = Params { rows: rows as u32, vocab_size: vocab_size as u32 };
    plan.dispatch_flat(argmax_spec(), &params, &[(1, logits), (2, token)], rows, 1)
}

/// nll (rows) = -log p(targets (rows)) under logits (rows, vocab_size), natural logarithm.
pub fn token_nll(
    plan: &mut PlanBuilder<'_>,
    logits: &Tensor,
    targets: &Tensor,
    nll: &Tensor,
    rows: usize,
    vocab_size: usize,
) -> Result<(), GpuError> {
    let params = Params { rows: rows as u32, vocab_size: vocab_size as u32 };
    plan.dispatch_flat(token_nll_spec(), &params, &[(1, logits), (2, targets), (3, nll)], rows, 1)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SampleParams {
    vocab_size: u32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    log_min_p: f32,
    repetition_penalty: f32,
    seed_low: u32,
    seed_high: u32,
}

/// What sampling keeps on the device between tokens.
#[derive(Debug, Clone)]
pub struct SampleBuffers {
    /// A bit a token of the vocabulary: seen in the prompt or sampled.
    pub seen: Tensor,
    /// [step, last token]
    pub sampled: Tensor,
    /// The last token once more, where a model's next input is copied from.
    pub next: Tensor,
}

impl SampleBuffers {
    /// The token that stands for logits with NaN or with nothing to choose from.
    pub const NOT_A_NUMBER: u32 = u32::MAX;

    pub fn new(gpu: &Gpu, vocab_size: usize) -> Result<Self, GpuError> {
        Ok(Self {
            seen: Tensor::zeros(gpu, "seen tokens", vocab_size.div_ceil(32))?,
            sampled: Tensor::zeros(gpu, "sampled", 2)?,
            next: Tensor::zeros(gpu, "next token", 1)?,
        })
    }
}

/// A token from logits (vocab_size), to `buffers.sampled` and `buffers.next`.
pub fn sample(
    plan: &mut PlanBuilder<'_>,
    logits: &Tensor,
    buffers: &SampleBuffers,
    vocab_size: usize,
    params: &SamplingParams,
) -> Result<(), GpuError> {
    let params = SampleParams {
        vocab_size: vocab_size as u32,
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        log_min_p: if params.min_p > 0.0 { params.min_p.ln() } else { -1.0e30 },
        repetition_penalty: params.repetition_penalty,
        seed_low: params.seed as u32,
        seed_high: (params.seed >> 32) as u32,
    };
    let bindings = [(1, logits), (2, &buffers.seen), (3, &buffers.sampled), (4, &buffers.next)];
    plan.dispatch(sample_spec(), &params, &bindings, [1, 1])
}
