//! argmax, token_nll and sample against their twins.

use super::data::{close, equal, f64s, poisoned, run, tensor, CheckError, Random};
use crate::generate::SamplingParams;
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{self, SampleBuffers};
use crate::reference;

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

/// sample draw by draw against its twin in f64.
pub async fn sample(
    gpu: &Gpu,
    vocab_size: usize,
    params: &SamplingParams,
    n: usize,
    random: &mut Random,
) -> Result<(), CheckError> {
    let logits = random.vec(vocab_size, -4.0, 4.0);
    let got = draws(gpu, &logits, params, n).await?;
    let mut seen = vec![0u32; vocab_size.div_ceil(32)];
    for (step, &token) in got.iter().enumerate() {
        let want = reference::sample(&f64s(&logits), &seen, params, step as u32);
        let want = want.unwrap_or(SampleBuffers::NOT_A_NUMBER);
        equal(&format!("sample vocab_size {vocab_size} step {step} {params:?}"), &[token], &[want])?;
        seen[want as usize / 32] |= 1 << (want % 32);
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
