//! argmax, token_nll and sample against their twins.

use super::data::{close, equal, f64s, poisoned, run, tensor, CheckError, Random};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{self, SampleBuffers};
use crate::reference;
use crate::settings::SamplingParams;

/// argmax and token_nll over rows of random logits; with ties in the first two of them.
pub async fn rows(gpu: &Gpu, rows: usize, vocab_size: usize, random: &mut Random) -> Result<(), CheckError> {
    let mut logits = random.vec(rows * vocab_size, -10.0, 10.0);
    for i in 0..rows.min(2) {
        logits[i * vocab_size + vocab_size / 2] = 50.0;
        logits[(i + 1) * vocab_size - 1] = 50.0;
    }
    let targets = random.tokens(rows, vocab_size);
    let (tl, tt) = (tensor(gpu, &logits)?, Tensor::new(gpu, "targets", &targets)?);
    let (token, nll) = (poisoned(gpu, rows)?, poisoned(gpu, rows)?);
    run(gpu, |plan| {
        kernels::argmax(plan, &tl, &token, rows, vocab_size)?;
        kernels::token_nll(plan, &tl, &tt, &nll, rows, vocab_size)
    })
    .await?;
    let row = |i: usize| &logits[i * vocab_size..(i + 1) * vocab_size];
    let best = |i| reference::argmax(row(i)).map_or(SampleBuffers::NOT_A_NUMBER, |t| t as u32);
    let want: Vec<u32> = (0..rows).map(best).collect();
    equal(&format!("argmax vocab_size {vocab_size}"), &token.read::<u32>(gpu).await?, &want)?;
    let want: Vec<f64> = (0..rows).map(|i| reference::token_nll(&f64s(row(i)), targets[i])).collect();
    close(&format!("token_nll vocab_size {vocab_size}"), &nll.read(gpu).await?, &want, 1e-5, 1e-6)
}

/// n tokens drawn from the same logits, each counting as seen for the next.
pub async fn draws(gpu: &Gpu, logits: &[f32], params: &SamplingParams, n: usize) -> Result<Vec<u32>, CheckError> {
    let (tl, buffers) = (tensor(gpu, logits)?, SampleBuffers::new(gpu, logits.len())?);
    let mut tokens = Vec::new();
    for _ in 0..n {
        run(gpu, |plan| kernels::sample(plan, &tl, &buffers, logits.len(), params)).await?;
        tokens.push(buffers.sampled.read::<u32>(gpu).await?[1]);
    }
    Ok(tokens)
}

/// The kinds of logits that sampling is checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Spread evenly.
    Even,
    /// Of a handful of values, 0 and -0 among them.
    Ties,
    /// As peaked as trained models'.
    Peaked,
    /// All but one out of reach.
    OneHuge,
    /// Most at -infinity.
    MostlyNothing,
}

impl Logits {
    pub const ALL: [Logits; 5] = [Logits::Even, Logits::Ties, Logits::Peaked, Logits::OneHuge, Logits::MostlyNothing];

    pub fn random(self, vocab_size: usize, random: &mut Random) -> Vec<f32> {
        let mut logits = random.vec(vocab_size, -4.0, 4.0);
        let one = (random.bits() % vocab_size.max(1) as u64) as usize;
        for (i, x) in logits.iter_mut().enumerate() {
            match self {
                Logits::Even => {}
                Logits::Ties => *x = [-1.5, -0.0, 0.0, 0.75, 2.0, 2.0, 2.25][random.bits() as usize % 7],
                Logits::Peaked => *x = *x * x.abs() * 2.0,
                Logits::OneHuge if i == one => *x = 1e30,
                Logits::MostlyNothing if i != one && random.unit() < 0.9 => *x = f32::NEG_INFINITY,
                Logits::OneHuge | Logits::MostlyNothing => {}
            }
        }
        logits
    }
}

/// How far the random number and top_p may be off: a sum of exponentials in f32 is that good.
const NEAR: f64 = 1e-6;

/// Whether the token is what the twin draws in f64, at the step's random number or very near to it.
pub fn near(token: u32, logits: &[f32], seen: &[u32], params: &SamplingParams, step: u32) -> Result<(), CheckError> {
    let logits = f64s(logits);
    let twin = |r: f64, top_p: f64| {
        let params = SamplingParams { top_p: (f64::from(params.top_p) * top_p).min(1.0) as f32, ..*params };
        reference::sample_at(&logits, seen, &params, r).unwrap_or(SampleBuffers::NOT_A_NUMBER)
    };
    let r = f64::from(reference::uniform(params.seed, step));
    let want = twin(r, 1.0);
    let off = [-NEAR, 0.0, NEAR];
    let ok = want == token || off.iter().any(|dr| off.iter().any(|dp| twin(r + dr, 1.0 + dp) == token));
    let token = if ok { want } else { token };
    equal(&format!("sample vocab_size {} step {step} {params:?}", logits.len()), &[token], &[want])
}

/// sample draw by draw against its twin.
pub async fn sample(gpu: &Gpu, logits: &[f32], params: &SamplingParams, n: usize) -> Result<(), CheckError> {
    let mut seen = vec![0u32; logits.len().div_ceil(32)];
    for (step, token) in draws(gpu, logits, params, n).await?.into_iter().enumerate() {
        near(token, logits, &seen, params, step as u32)?;
        if let Some(word) = seen.get_mut(token as usize / 32) {
            *word |= 1 << (token % 32);
        }
    }
    Ok(())
}

/// One setting of every kind: greedy, penalised, warm, and each filter alone and all together.
pub fn settings() -> Vec<SamplingParams> {
    let greedy =
        SamplingParams { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 1 };
    let warm = SamplingParams { temperature: 0.8, seed: 0x1234_5678_9abc_def0, ..greedy };
    vec![
        greedy,
        SamplingParams { repetition_penalty: 1.5, ..greedy },
        warm,
        SamplingParams { top_k: 1, ..warm },
        SamplingParams { top_k: 7, ..warm },
        SamplingParams { top_p: 0.5, ..warm },
        SamplingParams { top_p: 1e-6, ..warm },
        SamplingParams { min_p: 0.2, ..warm },
        SamplingParams { top_k: 20, top_p: 0.9, min_p: 0.05, repetition_penalty: 1.2, temperature: 1.7, ..warm },
    ]
}
