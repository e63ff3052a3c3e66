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
    let plain = plain.map(spec).into_iter().chain([spec("sample_scale").flag("VALUES", true)]);
    let batch = plain.clone().filter(|spec| spec.name.starts_with("sample_")).map(|spec| spec.flag("BATCH", true));
    plain.chain(batch)
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
    greedy: u32,
    seed_low: u32,
    seed_high: u32,
}

/// shared/sample.wgsl: Batch.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BatchParams {
    vocab_size: u32,
    per: u32,
    groups: u32,
    slot: u32,
}

/// As log_min_p: min-p is off.
const ALL: f32 = -1.0e38;
/// Bins of a round of selection: a digit of 11 bits.
const BINS: usize = 2048;
/// Rounds of selection a filter: 11, 11 and 10 bits make a key.
const ROUNDS: u32 = 3;
/// shared/sample.wgsl: Work, in 32-bit values.
const WORK: usize = 2 * 2 * WG as usize + 4 * 2 * ROUNDS as usize;
/// A text's histograms: of both filters' rounds, in words of 64 bits.
const HISTOGRAM: usize = 2 * ROUNDS as usize * 2 * BINS;

/// Tokens an invocation, and blocks, of a vocabulary: at most WG blocks, so that one workgroup has an invocation for each.
fn blocks_of(vocab_size: usize) -> (u32, u32) {
    let per = vocab_size.div_ceil((WG * WG) as usize).max(1);
    (per as u32, vocab_size.div_ceil(per * WG as usize) as u32)
}

/// How many dispatches a draw takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Draw {
    /// The most likely token: two.
    Greedy,
    /// By chance, after so many rounds of selection: three more than those.
    Chance { rounds: u32 },
}

impl Draw {
    /// What such settings need; of several texts' the largest.
    pub fn of(params: &SamplingParams, vocab_size: usize) -> Self {
        match params.is_greedy() {
            true => Draw::Greedy,
            false => Draw::Chance { rounds: ROUNDS * filters(params, vocab_size).len() as u32 },
        }
    }

    /// Rounds of selection.
    fn rounds(self) -> u32 {
        match self {
            Draw::Greedy => 0,
            Draw::Chance { rounds } => rounds,
        }
    }
}

/// The filters that are on, and of each whether it goes by mass.
fn filters(params: &SamplingParams, vocab_size: usize) -> Vec<bool> {
    let top_k = (params.top_k > 0 && (params.top_k as usize) < vocab_size).then_some(false);
    top_k.into_iter().chain((params.top_p < 1.0).then_some(true)).collect()
}

impl SampleParams {
    fn new(params: &SamplingParams, vocab_size: usize) -> Self {
        let ((per, groups), greedy) = (blocks_of(vocab_size), params.is_greedy());
        let filters = filters(params, vocab_size);
        Self {
            vocab_size: vocab_size as u32,
            per,
            groups,
            // Not so small that a device takes it for zero: a logit at -infinity has no mass at any temperature. Of greedy texts
            // nobody asks.
            sharpness: if greedy { 1.0 } else { (1.0 / params.temperature).max(f32::MIN_POSITIVE) },
            repetition_penalty: params.repetition_penalty,
            log_min_p: if params.min_p > 0.0 { (params.min_p.ln() * params.temperature).max(ALL) } else { ALL },
            top_k: params.top_k,
            // A share below 2^-32 is that of the most likely token still.
            top_p: ((f64::from(params.top_p) * 2f64.powi(32)) as u32).max(1),
            slot: Draw::of(params, vocab_size).rounds(),
            by_mass: filters.iter().enumerate().map(|(f, by_mass)| u32::from(*by_mass) << f).sum(),
            greedy: greedy.into(),
            seed_low: params.seed as u32,
            seed_high: (params.seed >> 32) as u32,
        }
    }
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
    between: Between,
}

/// What passes between the dispatches of a draw, of each row.
#[derive(Debug, Clone)]
struct Between {
    values: Tensor,    // (rows, vocab_size): logits after the penalty, then masses
    work: Tensor,      // (rows): shared/sample.wgsl: Work
    histogram: Tensor, // (rows, rounds, 2, BINS)
}

impl Between {
    fn new(gpu: &Gpu, rows: usize, vocab_size: usize) -> Result<Self, GpuError> {
        Ok(Self {
            values: Tensor::zeros(gpu, "values to sample", rows * vocab_size)?,
            work: Tensor::zeros(gpu, "sampling", rows * WORK)?,
            histogram: Tensor::zeros(gpu, "histograms", rows * HISTOGRAM)?,
        })
    }
}

impl SampleBuffers {
    /// The token that stands for logits with NaN or with nothing to choose from.
    pub const NOT_A_NUMBER: u32 = u32::MAX;

    pub fn new(gpu: &Gpu, vocab_size: usize) -> Result<Self, GpuError> {
        Ok(Self {
            seen: Tensor::zeros(gpu, "seen tokens", vocab_size.div_ceil(32))?,
            sampled: Tensor::zeros(gpu, "sampled", 2)?,
            next: Tensor::zeros(gpu, "next token", 1)?,
            between: Between::new(gpu, 1, vocab_size)?,
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
    let SampleBuffers { seen, sampled, next, between } = buffers;
    let p = SampleParams::new(params, vocab_size);
    let draw = Drawing { logits, seen, sampled, next, between, batch: None, rows: 1, groups: p.groups };
    draw.record(plan, Draw::of(params, vocab_size), |slot| SampleParams { slot, ..p })
}

/// What sampling keeps of several texts, each in its slot.
#[derive(Debug, Clone)]
pub struct SampleSlots {
    settings: Tensor, // (slots, SampleParams)
    seen: Tensor,     // (slots, words)
    sampled: Tensor,  // (slots, 2): [step, last token]
    between: Between, // of as many rows
    vocab_size: usize,
}

impl SampleSlots {
    /// Values of 32 bits that the widest of these tensors has a slot.
    pub fn widest(vocab_size: usize) -> usize {
        vocab_size.max(HISTOGRAM)
    }

    pub fn new(gpu: &Gpu, slots: usize, vocab_size: usize) -> Result<Self, GpuError> {
        let words = vocab_size.div_ceil(32);
        Ok(Self {
            settings: Tensor::zeros(gpu, "sampling settings", slots * size_of::<SampleParams>() / 4)?,
            seen: Tensor::zeros(gpu, "seen tokens", slots * words)?,
            sampled: Tensor::zeros(gpu, "sampled", slots * 2)?,
            between: Between::new(gpu, slots, vocab_size)?,
            vocab_size,
        })
    }

    /// A slot's settings; `seen` a bit a token, and the count of the next random number.
    pub fn begin(&self, gpu: &Gpu, slot: usize, params: &SamplingParams, seen: &[u32], step: u32) {
        let p = SampleParams::new(params, self.vocab_size);
        self.settings.write(gpu, slot * size_of::<SampleParams>() / 4, &[p]);
        self.seen.write(gpu, slot * self.vocab_size.div_ceil(32), seen);
        self.sampled.write(gpu, slot * 2, &[step, 0]);
    }
}

/// A token of each of the first `rows` of `texts` ([`super::TEXT`]), to `tokens` (rows): [`SampleBuffers::NOT_A_NUMBER`] where there is
/// none, in `tokens` as well as in what the slot keeps. `draw` is the largest of theirs; those that need less of it take no part in
/// the rest. A text gets the token that [`sample`] would give it.
pub fn sample_batch(
    plan: &mut PlanBuilder<'_>,
    logits: &Tensor,
    slots: &SampleSlots,
    (texts, rows): (&Tensor, usize),
    tokens: &Tensor,
    draw: Draw,
) -> Result<(), GpuError> {
    let (vocab_size, (per, groups)) = (slots.vocab_size as u32, blocks_of(slots.vocab_size));
    let batch = Some((&slots.settings, texts));
    let SampleSlots { seen, sampled, between, .. } = slots;
    let drawing = Drawing { logits, seen, sampled, next: tokens, between, batch, rows, groups };
    drawing.record(plan, draw, |slot| BatchParams { vocab_size, per, groups, slot })
}

/// One draw's tensors.
struct Drawing<'a> {
    logits: &'a Tensor,
    seen: &'a Tensor,
    sampled: &'a Tensor,
    next: &'a Tensor,
    between: &'a Between,
    /// Of several texts: settings, and which texts.
    batch: Option<(&'a Tensor, &'a Tensor)>,
    rows: usize,
    groups: u32,
}

impl Drawing<'_> {
    /// `params`: by how many rounds of selection were before; of the first dispatch, how many there will be.
    fn record<P: bytemuck::Pod>(
        &self,
        plan: &mut PlanBuilder<'_>,
        draw: Draw,
        params: impl Fn(u32) -> P,
    ) -> Result<(), GpuError> {
        let Between { values, work, histogram } = self.between;
        let (blocks, one) = ([u64::from(self.groups), self.rows as u64], [1, self.rows as u64]);
        let mut dispatch = |spec: ShaderSpec, slot: u32, bindings: &[(u32, &Tensor)], groups| {
            let batch = self.batch.iter().flat_map(|&(settings, texts)| [(8, settings), (9, texts)]);
            let bindings: Vec<_> = bindings.iter().copied().chain(batch).collect();
            plan.dispatch(spec.flag("BATCH", self.batch.is_some()), &params(slot), &bindings, groups)
        };
        let rounds = draw.rounds();
        let end = [(2, self.seen), (3, self.sampled), (4, self.next), (6, work)];
        if draw == Draw::Greedy {
            dispatch(spec("sample_scale"), 0, &[(1, self.logits), (2, self.seen), (6, work)], blocks)?;
            return dispatch(spec("sample_greedy"), 0, &end, one);
        }
        let scale = [(1, self.logits), (2, self.seen), (5, values), (6, work), (7, histogram)];
        dispatch(spec("sample_scale").flag("VALUES", true), rounds, &scale, blocks)?;
        let select = [(5, values), (6, work), (7, histogram)];
        for slot in 0..rounds {
            dispatch(spec("sample_select"), slot, &select, blocks)?;
        }
        dispatch(spec("sample_mass"), rounds, &select, blocks)?;
        dispatch(spec("sample_draw"), rounds, &[&end[..], &[(5, values)]].concat(), one)
    }
}
