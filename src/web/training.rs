//! A small model that a page trains: induction heads, at the sizes that a software GPU manages.

use super::error::{self, to_js as js_error};
use super::{from_json, to_js};
use crate::error::{Error, InputError, Result};
use crate::gpu::Gpu;
use crate::train::random::Purpose;
use crate::train::{Data, Evaluation, Preset, Settings, StepRecord, Tape, Task, TaskKind, Trainer};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

/// What a page may choose; all else is the preset's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Options {
    steps: Option<u64>,
    learning_rate: Option<f64>,
    seed: u64,
}

impl Options {
    fn settings(&self) -> Settings {
        let mut settings = Settings::preset(TaskKind::InductionHeads, Preset::Tiny, self.seed);
        settings.schedule.steps = self.steps.unwrap_or(settings.schedule.steps);
        settings.schedule.peak = self.learning_rate.unwrap_or(settings.schedule.peak);
        settings
    }
}

/// What a run is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    steps: u64,
    learning_rate: f64,
    seed: u64,
    batch: usize,
    length: usize,
    vocab_size: usize,
    n_layer: usize,
    d_model: usize,
    d_state: usize,
}

impl Info {
    fn of(s: &Settings) -> Self {
        Self {
            steps: s.schedule.steps,
            learning_rate: s.schedule.peak,
            seed: s.seed,
            batch: s.batch,
            length: s.task.length(),
            vocab_size: s.task.vocab_size(),
            n_layer: s.shape.n_layer,
            d_model: s.shape.d_model,
            d_state: s.shape.layer.d_state,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsRecord {
    step: u64,
    loss: f32,
    gradient_norm: f32,
    learning_rate: f64,
}

impl From<StepRecord> for JsRecord {
    fn from(StepRecord { step, loss, gradient_norm, learning_rate }: StepRecord) -> Self {
        Self { step, loss, gradient_norm, learning_rate }
    }
}

#[derive(Serialize)]
struct Judgement {
    sequences: u64,
    correct: u64,
    accuracy: f64,
    loss: f64,
}

#[derive(Serialize)]
struct Example {
    tokens: Vec<u32>,
    answer: u32,
}

/// A model that has nothing to say any more went astray in its last step: the next one's loss would tell.
fn look_error(e: Error) -> JsValue {
    match e {
        Error::Input(InputError::NoTokenToChoose) => error::with_code("diverged", &e.to_string()),
        e => js_error(e),
    }
}

/// What a run is if nothing is chosen.
#[wasm_bindgen(js_name = trainingDefaults)]
pub fn training_defaults() -> Result<JsValue, JsValue> {
    to_js(&Info::of(&Options::default().settings()))
}

/// The run, and tapes for looking at its model: the last one's shape is often the next one's.
struct Run {
    trainer: Trainer,
    tape: Option<((usize, usize), Tape)>,
}

impl Run {
    /// Up to `count` steps, no more than there are left and than can be kept a record of.
    async fn steps(&mut self, count: usize) -> Result<Vec<StepRecord>> {
        let settings = self.trainer.settings().clone();
        let left = settings.schedule.steps.saturating_sub(self.trainer.step());
        for _ in 0..count.min(self.trainer.room()).min(left.try_into().unwrap_or(usize::MAX)) {
            let batches = Trainer::batches(&settings, &settings.task, self.trainer.step() + 1);
            self.trainer.submit(batches)?;
        }
        self.trainer.records().await
    }

    /// For looking at so many sequences of one length.
    fn tape(&mut self, shape: (usize, usize)) -> Result<&Tape> {
        let kept = self.tape.take().filter(|(of, _)| *of == shape);
        let tape = match kept {
            Some((_, tape)) => tape,
            None => self.trainer.evaluation(shape.0, shape.1)?,
        };
        Ok(&self.tape.insert((shape, tape)).1)
    }

    async fn judge(&mut self, task: &Task, sequences: usize) -> Result<Evaluation> {
        let batch = task.judged(self.trainer.settings().seed, 0, sequences);
        self.tape((sequences, batch.length))?.evaluate(&batch).await
    }
}

/// A model in training, alone at it: a call at a time.
#[wasm_bindgen]
pub struct Training {
    settings: Settings,
    run: RefCell<Option<Box<Run>>>,
}

impl Training {
    pub(super) fn new(gpu: &Gpu, options: &str) -> Result<Self, JsValue> {
        let options: Options = from_json(options)?;
        let settings = options.settings();
        let trainer = Trainer::new(gpu, &settings, &settings.task).map_err(js_error)?;
        Ok(Self { settings, run: RefCell::new(Some(Box::new(Run { trainer, tape: None }))) })
    }

    fn take(&self) -> Result<Box<Run>, JsValue> {
        let busy = || error::with_code("busy", "the training is at work: wait, or stop it first");
        self.run.borrow_mut().take().ok_or_else(busy)
    }

    /// The task as it is asked at a length, if there are such sequences.
    fn task(&self, length: usize) -> Result<Task, JsValue> {
        let task = self.settings.task.asked_once(length);
        task.check().map_err(js_error)?;
        Ok(task)
    }
}

#[wasm_bindgen]
impl Training {
    pub fn info(&self) -> Result<JsValue, JsValue> {
        to_js(&Info::of(&self.settings))
    }

    /// Up to `count` further steps; their records, none once all are done.
    pub async fn steps(&self, count: usize) -> Result<JsValue, JsValue> {
        let mut run = self.take()?;
        let result = run.steps(count).await;
        self.run.replace(Some(run));
        let records = result.map_err(js_error)?;
        to_js(&records.into_iter().map(JsRecord::from).collect::<Vec<_>>())
    }

    /// How often the model gives the answer at the end of sequences that it is not trained on, as `mamba-wgpu eval` asks.
    pub async fn evaluate(&self, length: usize, sequences: usize) -> Result<JsValue, JsValue> {
        let task = self.task(length)?;
        if sequences == 0 {
            return Err(error::with_code("options", "sequences 0: it must be at least 1"));
        }
        let mut run = self.take()?;
        let result = run.judge(&task, sequences).await;
        self.run.replace(Some(run));
        let e = result.map_err(look_error)?;
        to_js(&Judgement { sequences: e.counted, correct: e.correct, accuracy: e.accuracy(), loss: e.loss() })
    }

    /// The `number`-th sequence of a length that the model is not trained on, and what it should say at its end.
    pub fn example(&self, length: usize, number: u32) -> Result<JsValue, JsValue> {
        let batch = self.task(length)?.batch(self.settings.seed, Purpose::Evaluation, number.into(), 1);
        let answer = batch.targets.last().copied().unwrap_or_default();
        to_js(&Example { tokens: batch.tokens, answer })
    }

    /// The probability of each token to follow these.
    pub async fn predict(&self, tokens: Vec<u32>) -> Result<Vec<f32>, JsValue> {
        if tokens.is_empty() {
            return Err(js_error(InputError::NoTokens));
        }
        let mut run = self.take()?;
        let result = match run.tape((1, tokens.len())) {
            Ok(tape) => tape.probabilities(&tokens).await,
            Err(e) => Err(e),
        };
        self.run.replace(Some(run));
        result.map_err(look_error)
    }
}
