//! Whole steps of training, of models with Mamba's initialisation on tokens that mean nothing.

use super::backward::Kernel;
use super::measure::{Kind, Meter, HOSTED};
use super::models::multiply_adds;
use super::pulse::Pulse;
use super::report::Row;
use super::suite::Suite;
use crate::checkpoint::synthetic::Spec;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::blocks::{mamba1, Role};
use crate::train::random::Purpose;
use crate::train::{Batch, Data, Decay, Preset, Schedule, Settings, Shape, Task, TaskKind, Trainer};
use web_time::Instant;

/// Repeats at most.
const STEPS: usize = 10;
/// A repeat is as many steps as take so long: a wait for the device costs the host 0.1 to 0.4 ms, by its mood, which is much
/// in a step of one, and a run waits only now and then.
const REPEAT_NS: f64 = 2e7;
/// Tokens of the product that tells how long a step takes, where nothing else does.
const TRIAL_TOKENS: usize = 256;

/// A model and what goes through it in a step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Training {
    pub name: String,
    pub spec: Spec,
    pub sequences: usize,
    pub length: usize,
    /// AdamW too; without it the step ends with the gradients.
    pub adamw: bool,
}

impl Training {
    pub fn tokens(&self) -> usize {
        self.sequences * self.length
    }

    pub fn row(&self) -> Row {
        let name = format!("{} {}x{}", self.name, self.sequences, self.length);
        let variant = if self.adamw { "f32, adamw" } else { "f32" };
        Row { l: Some(self.tokens()), ..Row::new(Suite::Training, name, variant) }
    }

    /// Operations of the linear layers: forwards once, backwards twice, the head for every token.
    pub fn flops(&self) -> f64 {
        let s = &self.spec;
        6.0 * self.tokens() as f64 * (multiply_adds(s) + s.vocab_size * s.d_model) as f64
    }

    /// Whose speed tells this one's, the best teller first; the first is its own.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![(Suite::Training, self.name.clone())];
        kinds.extend(self.trial().kinds().into_iter().take(1));
        kinds
    }

    /// The largest product of a layer, by which the first step is foreseen.
    pub fn trial(&self) -> Kernel {
        let matrices = self.layer().params().into_iter().filter(|param| param.role == Role::Matrix);
        let largest = matrices.map(|param| param.shape).max_by_key(|shape| shape.iter().product::<usize>());
        let (n, k) = largest.map_or((1, 1), |shape| (shape[0], shape[1]));
        Kernel::MatmulGrad { x: true, l: TRIAL_TOKENS, n, k }
    }

    /// What is trained is Mamba.
    fn layer(&self) -> mamba1::Shape {
        self.spec.layer.mamba1().copied().unwrap_or_else(|| mamba1::Shape::of(self.spec.d_model))
    }

    fn settings(&self) -> Settings {
        let s = &self.spec;
        let layer = mamba1::Trained::of(&self.layer()).unwrap_or_default();
        Settings {
            task: Task::Text { length: self.length, vocab_size: s.vocab_size },
            shape: Shape { layer, tied: s.tied, ..Shape::new(s.n_layer, s.d_model) },
            batch: self.sequences,
            schedule: Schedule {
                peak: 1e-4,
                warmup: 0,
                steps: u64::from(u32::MAX),
                decay: Decay::Constant,
                floor: 0.0,
            },
            ..Settings::preset(TaskKind::Text, Preset::Paper, s.seed)
        }
    }
}

/// Tokens as a prompt's in the other rows; wanted is each one's successor.
struct Numbers {
    length: usize,
    vocab_size: usize,
}

impl Data for Numbers {
    fn length(&self) -> usize {
        self.length
    }
    fn batch(&self, _: u64, _: Purpose, first: u64, sequences: usize) -> Batch {
        let token = |i: usize| (i * 7919 % self.vocab_size.max(1)) as u32;
        let first = first as usize * self.length;
        let all = first..first + sequences * self.length;
        let targets = all.clone().map(|i| token(i + 1)).collect();
        Batch::new(sequences, self.length, all.map(token).collect(), targets)
    }
}

/// A model that is being trained, with what its steps need. Rows of one model stand beside each other.
pub(super) struct Trained {
    of: Training,
    data: Numbers,
    trainer: Trainer,
}

impl Trained {
    pub fn new(gpu: &Gpu, training: &Training) -> Result<Self> {
        let data = Numbers { length: training.length, vocab_size: training.spec.vocab_size };
        let trainer = Trainer::new(gpu, &training.settings(), &data)?;
        Ok(Self { of: training.clone(), data, trainer })
    }

    pub fn is(&self, training: &Training) -> bool {
        self.of == Training { adamw: self.of.adamw, ..training.clone() }
    }

    /// Steps one after the other as a run submits them, from the first batch on the host until the host has the last one's
    /// loss, or knows that its gradients are there. In nanoseconds, all together.
    async fn steps_ns(&mut self, steps: usize, adamw: bool) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..steps {
            let batches = Trainer::batches(self.trainer.settings(), &self.data, self.trainer.step() + 1);
            if adamw {
                self.trainer.submit(batches)?;
            } else {
                self.trainer.differentiate(&batches)?;
            }
        }
        if adamw {
            self.trainer.records().await?;
        } else {
            let done = self.trainer.gpu().device().create_command_encoder(&Default::default());
            self.trainer.gpu().submit_and_wait(done.finish()).await?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e9)
    }

    /// Whole steps. Times are a step's, as a mean over each repeat.
    pub async fn measure(&mut self, meter: &mut Meter<'_>, training: &Training, row: &mut Row) -> Result<()> {
        let adamw = training.adamw;
        let mut trial = self.steps_ns(1, adamw).await?;
        if trial < REPEAT_NS {
            // Once more: the first has made what is made once.
            trial = self.steps_ns(1, adamw).await?.min(trial);
        }
        let steps = ((REPEAT_NS / trial) as usize).clamp(1, self.trainer.room());
        let take =
            async |pulse: &mut Pulse, n: usize| pulse.beside(n, async || self.steps_ns(steps, adamw).await).await;
        let outcome = meter.steady(STEPS, HOSTED, row, take).await?;
        meter.each_of(steps);
        row.wall_us = outcome.spread.map(|spread| spread.divided(steps as f64));
        row.memory_bytes = Some(meter.memory_bytes());
        Ok(())
    }
}
