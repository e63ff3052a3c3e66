//! One row each of whole models with synthetic weights, through a session as a text goes.

use super::measure::{Meter, HOSTED};
use super::pulse::Pulse;
use super::report::Row;
use crate::checkpoint::synthetic::Spec;
use crate::error::Result;
use crate::generate::SamplingParams;
use crate::gpu::Gpu;
use crate::model::{LanguageModel, ModelOptions, Session};
use web_time::Instant;

/// Repeats of a prompt and of a decode at most.
const PREFILLS: usize = 10;
const DECODES: usize = 5;
/// A repeat of a decode takes its row's share of the time divided by this, at most.
const DECODE_PARTS: f64 = 8.0;

/// Tokens that a decode on a slow adapter ends after at the earliest.
pub(super) const LEAST_DECODED: usize = 4;

/// A model to be measured; `spec.dtype` is how its weights are held.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub name: String,
    pub spec: Spec,
}

impl Model {
    /// Bytes of the weights; a decode reads about all of them for each token.
    pub fn bytes(&self) -> u64 {
        self.spec.weight_bytes()
    }

    /// Operations of the linear layers for a prompt, the head for its last token: what bounds a prefill from below.
    pub fn prefill_flops(&self, tokens: usize) -> f64 {
        let s = &self.spec;
        2.0 * (tokens as f64 * multiply_adds(s) as f64 + (s.vocab_size * s.d_model) as f64)
    }
}

/// Of all linear layers for a token, without the head.
pub(super) fn multiply_adds(s: &Spec) -> usize {
    s.shapes().iter().map(|layer| layer.multiply_adds()).sum()
}

/// A model on the device, with one session to read and write texts.
pub(super) struct LoadedModel {
    model: Model,
    language: LanguageModel,
    session: Session,
}

impl LoadedModel {
    /// Makes it there; also gives the seconds that took.
    pub async fn new(gpu: &Gpu, model: &Model, chunk: usize) -> Result<(Self, f64)> {
        let start = Instant::now();
        let options = ModelOptions { chunk, ..ModelOptions::default() };
        let language = LanguageModel::synthetic(gpu, &model.spec.outline(), options).await?;
        let session = language.session()?;
        Ok((Self { model: model.clone(), language, session }, start.elapsed().as_secs_f64()))
    }

    pub fn is(&self, model: &Model) -> bool {
        self.model == *model
    }

    /// Some text.
    fn tokens(&self, n: usize) -> Vec<u32> {
        let vocab_size = self.model.spec.vocab_size.max(1);
        (0..n).map(|i| (i * 7919 % vocab_size) as u32).collect()
    }
}

/// What the device takes by its own clock for a token, or for a prompt (where it is one chunk), into the row.
pub(super) async fn gpu_time(
    loaded: &mut LoadedModel,
    meter: &mut Meter<'_>,
    tokens: usize,
    row: &mut Row,
) -> Result<()> {
    if let Some(plan) = loaded.session.plan_of(tokens)? {
        row.gpu_us = meter.device(plan, &[], PREFILLS, row).await?.and_then(|outcome| outcome.spread);
    }
    Ok(())
}

/// What the device takes by its own clock for a step of so many texts, without sampling, into the row.
pub(super) async fn gpu_time_batch(
    loaded: &mut LoadedModel,
    meter: &mut Meter<'_>,
    texts: usize,
    row: &mut Row,
) -> Result<()> {
    let mut batch = loaded.language.batch(texts)?;
    if let Some(plan) = batch.plan()? {
        row.gpu_us = meter.device(plan, &[], PREFILLS, row).await?.and_then(|outcome| outcome.spread);
    }
    Ok(())
}

/// Seconds for one token at best, without the making of the plan, and of how many runs.
pub(super) async fn one_token(loaded: &mut LoadedModel) -> Result<(f64, usize)> {
    const RUNS: usize = 3;
    let mut seconds = f64::INFINITY;
    for _ in 0..RUNS {
        seconds = prompt_ns(&mut loaded.session, &[0]).await?.min(seconds * 1e9) / 1e9;
    }
    Ok((seconds, RUNS))
}

/// Nanoseconds from the begin of a text until the prompt's last logits are there.
async fn prompt_ns(session: &mut Session, prompt: &[u32]) -> Result<f64> {
    session.reset();
    let start = Instant::now();
    session.prefill(prompt, &mut |_, _| {}).await?;
    Ok(start.elapsed().as_secs_f64() * 1e9)
}

/// A prompt from the begin of a text until its last logits are there.
pub(super) async fn prefill(
    loaded: &mut LoadedModel,
    meter: &mut Meter<'_>,
    tokens: usize,
    row: &mut Row,
) -> Result<()> {
    let prompt = loaded.tokens(tokens);
    let session = &mut loaded.session;
    let take = async |pulse: &mut Pulse, n: usize| pulse.beside(n, async || prompt_ns(session, &prompt).await).await;
    row.wall_us = meter.steady(PREFILLS, HOSTED, row, take).await?.spread;
    Ok(())
}

/// Greedy tokens, each chosen on the device and fed again, as `generate` does.
async fn write(session: &mut Session, token: &mut u32, tokens: usize) -> Result<f64> {
    let mut next = async || {
        session.step(*token).await?;
        *token = session.sample().await?;
        Ok::<_, crate::Error>(())
    };
    // A session computes a token ahead: the first one's step was done before, while the reference ran or the host looked at the clock.
    next().await?;
    let start = Instant::now();
    for _ in 0..tokens {
        next().await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9)
}

/// Greedy tokens after a prompt. Times are a token's, as a mean over each repeat. Where time is short a repeat is shorter, and
/// the row's `l` says how many tokens it was.
pub(super) async fn decode(
    loaded: &mut LoadedModel,
    meter: &mut Meter<'_>,
    prompt: usize,
    tokens: usize,
    row: &mut Row,
) -> Result<()> {
    let prompt = loaded.tokens(prompt);
    let session = &mut loaded.session;
    session.reset();
    session.prefill(&prompt, &mut |_, _| {}).await?;
    session.begin_sampling(&SamplingParams::default(), &prompt)?;
    let mut token = session.sample().await?;
    // Twice: the first time its plan is made.
    let trial = write(session, &mut token, LEAST_DECODED).await?;
    let trial = write(session, &mut token, LEAST_DECODED).await?.min(trial) / LEAST_DECODED as f64;
    let room = meter.clock.share().as_secs_f64() * 1e9 / DECODE_PARTS / trial.max(1.0);
    let tokens = tokens.min((room as usize).max(LEAST_DECODED));
    // The text goes on from one repeat to the next: a step costs the same anywhere.
    let take =
        async |pulse: &mut Pulse, n: usize| pulse.beside(n, async || write(session, &mut token, tokens).await).await;
    let outcome = meter.steady(DECODES, HOSTED, row, take).await?;
    meter.each_of(tokens);
    row.wall_us = outcome.spread.map(|spread| spread.divided(tokens as f64));
    row.l = Some(tokens);
    Ok(())
}

/// Greedy tokens of several texts at once, each after a prompt of its own length up to `prompt`. Times are a step's, of a token of
/// each, as a mean over each repeat.
pub(super) async fn decode_batch(
    loaded: &mut LoadedModel,
    meter: &mut Meter<'_>,
    (texts, prompt): (usize, usize),
    tokens: usize,
    row: &mut Row,
) -> Result<()> {
    let most = loaded.language.most_slots();
    if texts > most {
        row.skipped = Some(format!("the adapter binds the states of {most} texts at most"));
        return Ok(());
    }
    let text = loaded.tokens(prompt + texts);
    let batch = &mut loaded.language.batch(texts)?;
    let slots: Vec<_> = (0..texts).collect();
    for &slot in &slots {
        batch.prefill(slot, &text[slot..][..prompt - slot % prompt.div_ceil(2)], &mut |_, _| {}).await?;
    }
    let mut advance = async |steps: usize| {
        // The step of the token before is on its way when a repeat begins.
        batch.advance(&slots).await?;
        let start = Instant::now();
        for _ in 0..steps {
            batch.advance(&slots).await?;
        }
        Ok::<_, crate::Error>(start.elapsed().as_secs_f64() * 1e9)
    };
    // Twice: the first time its plan is made.
    let trial = advance(LEAST_DECODED).await?;
    let trial = advance(LEAST_DECODED).await?.min(trial) / LEAST_DECODED as f64;
    let room = meter.clock.share().as_secs_f64() * 1e9 / DECODE_PARTS / trial.max(1.0);
    let steps = tokens.min((room as usize).max(LEAST_DECODED));
    let take = async |pulse: &mut Pulse, n: usize| pulse.beside(n, async || advance(steps).await).await;
    let outcome = meter.steady(DECODES, HOSTED, row, take).await?;
    meter.each_of(steps);
    row.wall_us = outcome.spread.map(|spread| spread.divided(steps as f64));
    row.l = Some(steps);
    Ok(())
}
