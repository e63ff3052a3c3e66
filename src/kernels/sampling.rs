//! argmax.wgsl, token_nll.wgsl and the kernels of sampling, sample_*.wgsl.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::settings::SamplingParams;

const WG: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    vocab_size: u32,
}

fn spec(name: &'static str) -> ShaderSpec {
    ShaderSpec::new(name).constant("WG", WG)
}

pub(super) fn specs() -> impl Iterator<Item = ShaderSpec> {
    let plain = ["argmax", "token_nll", "sample_scale", "sample_greedy", "sample_select", "sample_mass", "sample_draw"];
    plain.map(spec).into_iter().chain([spec("sample_scale").flag("VALUES", true)])
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
    plan.dispatch_flat(spec("argmax"), &params, &[(1, logits), (2, token)], rows, 1)
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
    plan.dispatch_flat(spec("token_nll"), &params, &[(1, logits), (2, targets), (3, nll)], rows, 1)
}

/// shared/sample.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SampleParams {
    vocab_size: u32,
    per: u32,
    groups: u32,
    sharpness: f32,
    repetition_penalty: f32,
    log_min_p: f32,
    top_k: u32,
    top_p: u32,
    slot: u32,
    by_mass: u32,
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
    // Between the dispatches of one token:
    values: Tensor,    // (vocab_size): logits after the penalty, then masses
    work: Tensor,      // shared/sample.wgsl: Work
    histogram: Tensor, // (ROUNDS, 2, BINS)
}

/// As log_min_p: min-p is off.
const ALL: f32 = -1.0e38;
/// Bins of a round of selection: a digit of 11 bits.
const BINS: usize = 2048;
/// Rounds of selection a filter: 11, 11 and 10 bits make a key.
const ROUNDS: u32 = 3;
/// shared/sample.wgsl: Work, in 32-bit values.
const WORK: usize = 2 * 2 * WG as usize + 4 * 2 * ROUNDS as usize;

impl SampleBuffers {
    /// The token that stands for logits with NaN or with nothing to choose from.
    pub const NOT_A_NUMBER: u32 = u32::MAX;

    pub fn new(gpu: &Gpu, vocab_size: usize) -> Result<Self, GpuError> {
        Ok(Self {
            seen: Tensor::zeros(gpu, "seen tokens", vocab_size.div_ceil(32))?,
            sampled: Tensor::zeros(gpu, "sampled", 2)?,
            next: Tensor::zeros(gpu, "next token", 1)?,
            values: Tensor::zeros(gpu, "values to sample", vocab_size)?,
            work: Tensor::zeros(gpu, "sampling", WORK)?,
            histogram: Tensor::zeros(gpu, "histograms", 2 * ROUNDS as usize * 2 * BINS)?,
        })
    }
}

/// A token from logits (vocab_size), to `buffers.sampled` and `buffers.next`.
///
/// Two dispatches when greedy; otherwise three, and three more for each of top-k and top-p that is on. Masses are whole
/// multiples of 2^-31 of the most likely token's, so that their sums do not depend on any order: a token whose mass is
/// rounded to nothing is never drawn, and top-p's threshold is off by vocab_size 2^-32 of that token's mass at most.
pub fn sample(
    plan: &mut PlanBuilder<'_>,
    logits: &Tensor,
    buffers: &SampleBuffers,
    vocab_size: usize,
    params: &SamplingParams,
) -> Result<(), GpuError> {
    // At most WG blocks, so that one workgroup has an invocation for each.
    let per = vocab_size.div_ceil((WG * WG) as usize).max(1);
    let groups = vocab_size.div_ceil(per * WG as usize) as u64;
    let mut filters = Vec::new(); // whether by mass
    filters.extend((params.top_k > 0 && (params.top_k as usize) < vocab_size).then_some(false));
    filters.extend((params.top_p < 1.0).then_some(true));
    let rounds = ROUNDS * filters.len() as u32;
    let p = SampleParams {
        vocab_size: vocab_size as u32,
        per: per as u32,
        groups: groups as u32,
        // Not so small that a device takes it for zero: a logit at -infinity has no mass at any temperature.
        sharpness: (1.0 / params.temperature).max(f32::MIN_POSITIVE),
        repetition_penalty: params.repetition_penalty,
        log_min_p: if params.min_p > 0.0 { (params.min_p.ln() * params.temperature).max(ALL) } else { ALL },
        top_k: params.top_k,
        // A share below 2^-32 is that of the most likely token still.
        top_p: ((f64::from(params.top_p) * 2f64.powi(32)) as u32).max(1),
        slot: rounds,
        by_mass: filters.iter().enumerate().map(|(f, by_mass)| u32::from(*by_mass) << f).sum(),
        seed_low: params.seed as u32,
        seed_high: (params.seed >> 32) as u32,
    };
    let SampleBuffers { seen, sampled, next, values, work, histogram } = buffers;
    let blocks = [groups, 1];
    let end = [(2, seen), (3, sampled), (4, next), (6, work)];
    if params.is_greedy() {
        plan.dispatch(spec("sample_scale"), &p, &[(1, logits), (2, seen), (6, work)], blocks)?;
        return plan.dispatch(spec("sample_greedy"), &p, &end, [1, 1]);
    }
    let scale = [(1, logits), (2, seen), (5, values), (6, work), (7, histogram)];
    plan.dispatch(spec("sample_scale").flag("VALUES", true), &p, &scale, blocks)?;
    let select = [(5, values), (6, work), (7, histogram)];
    for slot in 0..rounds {
        plan.dispatch(spec("sample_select"), &SampleParams { slot, ..p }, &select, blocks)?;
    }
    plan.dispatch(spec("sample_mass"), &p, &select, blocks)?;
    plan.dispatch(spec("sample_draw"), &p, &[&end[..], &[(5, values)]].concat(), [1, 1])
}
