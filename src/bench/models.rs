//! One row each of whole models with synthetic weights, through a session as a text goes.

use super::measure::Clock;
use super::report::{rounded, Row};
use super::suite::LEAST_DECODED;
use crate::error::Result;
use crate::generate::SamplingParams;
use crate::gpu::{Gpu, Timer, Timing};
use crate::model::synthetic::Spec;
use crate::model::{Backend, LanguageModel, ModelOptions, Session};
use web_time::Instant;

/// Repeats of a prompt and of a decode at most.
const PREFILLS: usize = 10;
const DECODES: usize = 5;

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
    let x_dbl = s.dt_rank + 2 * s.d_state;
    s.n_layer * s.d_inner * (2 * s.d_model + x_dbl + s.dt_rank + s.d_model)
}

/// A model on the device, with one session to read and write texts.
pub(super) struct LoadedModel {
    model: Model,
    session: Session,
}

impl LoadedModel {
    /// Brings it there; also gives the seconds that took.
    pub async fn new(gpu: &Gpu, model: &Model, chunk: usize) -> Result<(Self, f64)> {
        let start = Instant::now();
        let weights = model.spec.repeated();
        let options = ModelOptions { chunk, ..ModelOptions::default() };
        let backend = Backend::Gpu(gpu.clone());
        let views = weights.weights()?;
        let loaded = LanguageModel::from_weights(weights.config(), &views, &backend, options, &mut |_, _| {}).await?;
        let session = loaded.session()?;
        Ok((Self { model: model.clone(), session }, start.elapsed().as_secs_f64()))
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
    clock: &Clock,
    gpu: &Gpu,
    tokens: usize,
    row: &mut Row,
) -> Result<()> {
    let timer = Timer::new(gpu);
    let mut alone = Row::new(row.suite, "", "");
    let mut samples = clock.samples(PREFILLS);
    while samples.more() {
        match loaded.session.time(tokens, &timer).await? {
            Some(timing) => samples.push(timing),
            None => return Ok(()),
        }
    }
    samples.finish(&mut alone);
    row.gpu_us = alone.gpu_us;
    Ok(())
}

/// Seconds for one token, without the making of the plan where that matters.
pub(super) async fn one_token(loaded: &mut LoadedModel) -> Result<f64> {
    let mut seconds = f64::INFINITY;
    for _ in 0..2 {
        loaded.session.reset();
        let start = Instant::now();
        loaded.session.prefill(&[0], &mut |_, _| {}).await?;
        seconds = start.elapsed().as_secs_f64().min(seconds);
        if seconds > 1.0 {
            break;
        }
    }
    Ok(seconds)
}

/// A prompt from the begin of a text until its last logits are there.
pub(super) async fn prefill(loaded: &mut LoadedModel, clock: &Clock, tokens: usize, row: &mut Row) -> Result<()> {
    let prompt = loaded.tokens(tokens);
    let mut samples = clock.samples(PREFILLS);
    while samples.more() {
        loaded.session.reset();
        let start = Instant::now();
        loaded.session.prefill(&prompt, &mut |_, _| {}).await?;
        samples.push(Timing { gpu_ns: None, wall_ns: start.elapsed().as_secs_f64() * 1e9 });
    }
    samples.finish(row);
    row.tokens_per_s = row.wall_us.map(|wall| rounded(tokens as f64 / wall.median * 1e6));
    Ok(())
}

/// Greedy tokens after a prompt, each chosen on the device and fed again, as `generate` does. Times are a token's, as a
/// mean over each repeat. Where time is short a repeat ends early, and the row's `l` says how many tokens it was.
pub(super) async fn decode(
    loaded: &mut LoadedModel,
    clock: &Clock,
    prompt: usize,
    tokens: usize,
    row: &mut Row,
) -> Result<()> {
    let prompt = loaded.tokens(prompt);
    let session = &mut loaded.session;
    let mut fewest = tokens;
    session.reset();
    session.prefill(&prompt, &mut |_, _| {}).await?;
    session.begin_sampling(&SamplingParams::default(), &prompt)?;
    let mut token = session.sample().await?;
    let mut samples = clock.samples(DECODES);
    // The text goes on from one repeat to the next: a step costs the same anywhere.
    while samples.more() {
        let mut done = 0;
        let start = Instant::now();
        while done < tokens && (done < LEAST_DECODED || !samples.late()) {
            session.step(token).await?;
            token = session.sample().await?;
            done += 1;
        }
        let wall_ns = start.elapsed().as_secs_f64() * 1e9 / done.max(1) as f64;
        // A repeat cut short after others were whole would count the same as they do.
        if samples.is_empty() || done == tokens {
            fewest = fewest.min(done);
            samples.push(Timing { gpu_ns: None, wall_ns });
        } else {
            break;
        }
    }
    samples.finish(row);
    row.l = Some(fewest);
    row.tokens_per_s = row.wall_us.map(|wall| rounded(1e6 / wall.median));
    Ok(())
}
