//! The flags that decide what a run computes, for `train`.

use mamba_wgpu::train::{Decay, Preset, Pretrained, Settings, Task, TaskKind, TrainError};
use mamba_wgpu::Error;

use crate::common::one_of;
use crate::errors::misuse;

/// What decides what a run computes; a run that is resumed has it in its folder.
#[derive(Debug, clap::Args)]
pub struct Recipe {
    /// Sizes to start from: the paper's, or some that a software GPU trains in a minute or two [default: those of the run that
    /// --from names, otherwise paper]
    #[arg(long, value_parser = one_of(&Preset::ALL), conflicts_with = "resume")]
    preset: Option<Preset>,
    /// Tokens of a sequence (selective-copying: up to the markers)
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    length: Option<usize>,
    /// Entries of the vocabulary
    #[arg(long, value_name = "N", conflicts_with_all = ["resume", "from"])]
    vocab: Option<usize>,
    /// selective-copying: how many tokens to copy
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    memorise: Option<usize>,
    /// induction-heads: how often the special token comes; from 3 on more than one answer a sequence is learned from
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    occurrences: Option<usize>,
    /// associative-recall: ask after every known key, not at the end alone
    #[arg(long, conflicts_with = "resume")]
    every: bool,
    /// Layers
    #[arg(long, value_name = "N", conflicts_with_all = ["resume", "from"])]
    layers: Option<usize>,
    /// Width of the residual stream
    #[arg(long, value_name = "N", conflicts_with_all = ["resume", "from"])]
    d_model: Option<usize>,
    /// States a channel
    #[arg(long, value_name = "N", conflicts_with_all = ["resume", "from"])]
    d_state: Option<usize>,
    /// A head of its own, not the embedding
    #[arg(long, conflicts_with_all = ["resume", "from"])]
    untied: bool,
    /// Selectivity off (S4D-real): the baseline that the paper compares with
    #[arg(long, conflicts_with_all = ["resume", "from"])]
    lti: bool,
    /// The smallest delta that a channel begins with; a long memory wants a small one (Mamba's is 0.001)
    #[arg(long, value_name = "X", conflicts_with_all = ["resume", "from"])]
    dt_min: Option<f64>,
    /// The largest (Mamba's is 0.1)
    #[arg(long, value_name = "X", conflicts_with_all = ["resume", "from"])]
    dt_max: Option<f64>,
    /// Sequences a step
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    batch: Option<usize>,
    /// Parts that a step's sequences go through in, one after the other: less memory
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    accumulate: Option<usize>,
    /// The part of the wanted probability that the loss spreads over the vocabulary
    #[arg(long, value_name = "PART", conflicts_with = "resume")]
    label_smoothing: Option<f32>,
    /// Steps
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    steps: Option<u64>,
    /// Learning rate after the warm-up [default: the preset's; with --from a tenth of it]
    #[arg(long, value_name = "RATE", conflicts_with = "resume")]
    lr: Option<f64>,
    /// Steps until the learning rate is reached
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    warmup: Option<u64>,
    /// What the learning rate does after the warm-up
    #[arg(long, value_parser = one_of(&Decay::ALL), conflicts_with = "resume")]
    schedule: Option<Decay>,
    /// Where a cosine ends, as a part of the learning rate
    #[arg(long, value_name = "PART", conflicts_with = "resume")]
    min_lr: Option<f64>,
    /// AdamW's weight decay, on matrices
    #[arg(long, value_name = "X", conflicts_with = "resume")]
    weight_decay: Option<f32>,
    /// AdamW's first beta
    #[arg(long, value_name = "X", conflicts_with = "resume")]
    beta1: Option<f32>,
    /// AdamW's second beta
    #[arg(long, value_name = "X", conflicts_with = "resume")]
    beta2: Option<f32>,
    /// AdamW's epsilon
    #[arg(long, value_name = "X", conflicts_with = "resume")]
    eps: Option<f32>,
    /// The largest norm of a gradient; 0 for any
    #[arg(long, value_name = "X", conflicts_with = "resume")]
    clip: Option<f32>,
    /// Same seed, same run
    #[arg(long, value_name = "N", default_value = "0", conflicts_with = "resume")]
    seed: u64,
}

impl Recipe {
    /// The settings of a run that begins, from nothing or with a model: a preset's, or those of the `run` that the model is from.
    pub fn settings(&self, kind: TaskKind, from: Option<&Pretrained>, run: Option<&Settings>) -> Settings {
        let mut s = match (self.preset, run) {
            (None, Some(run)) => {
                let (length, batch, steps) = (run.task.nominal_length(), run.batch, run.schedule.steps);
                eprintln!(
                    "mamba-wgpu: length {length}, batch {batch}, {steps} steps and the like as in the run of --from, where no flag \
                     says otherwise (--preset starts from a preset)"
                );
                Settings { seed: self.seed, ..run.clone() }
            }
            (preset, _) => Settings::preset(kind, preset.unwrap_or(Preset::Paper), self.seed),
        };
        if let Some(model) = from {
            // What was learnt from nothing at the full rate would be forgotten at it.
            if s.origin.is_none() {
                s.schedule.peak *= 0.1;
            }
            model.adopt(&mut s);
        }
        self.change(&mut s);
        s
    }

    fn change(&self, s: &mut Settings) {
        fn set<T: Copy>(to: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *to = value;
            }
        }
        match &mut s.task {
            Task::SelectiveCopying { length, memorise, vocab_size } => {
                set(length, self.length);
                set(memorise, self.memorise);
                set(vocab_size, self.vocab);
            }
            Task::InductionHeads { length, vocab_size, occurrences } => {
                set(length, self.length);
                set(vocab_size, self.vocab);
                set(occurrences, self.occurrences);
            }
            Task::AssociativeRecall { length, vocab_size, every } => {
                set(length, self.length);
                set(vocab_size, self.vocab);
                *every |= self.every;
            }
            Task::Text { length, vocab_size } => {
                set(length, self.length);
                set(vocab_size, self.vocab);
            }
        }
        set(&mut s.shape.n_layer, self.layers);
        set(&mut s.shape.d_model, self.d_model);
        set(&mut s.shape.layer.d_state, self.d_state);
        s.shape.tied &= !self.untied;
        s.shape.layer.lti |= self.lti;
        set(&mut s.shape.dt_min, self.dt_min);
        set(&mut s.shape.dt_max, self.dt_max);
        set(&mut s.batch, self.batch);
        set(&mut s.accumulate, self.accumulate);
        set(&mut s.label_smoothing, self.label_smoothing);
        let schedule = &mut s.schedule;
        set(&mut schedule.steps, self.steps);
        set(&mut schedule.peak, self.lr);
        set(&mut schedule.warmup, self.warmup);
        set(&mut schedule.floor, self.min_lr);
        set(&mut schedule.decay, self.schedule);
        set(&mut s.optimiser.weight_decay, self.weight_decay);
        set(&mut s.optimiser.beta1, self.beta1);
        set(&mut s.optimiser.beta2, self.beta2);
        set(&mut s.optimiser.eps, self.eps);
        set(&mut s.optimiser.clip, self.clip);
    }
}

/// A setting that the library refused, in the words of the command line.
pub fn setting_error(error: TrainError) -> anyhow::Error {
    match error {
        TrainError::Setting { .. } => misuse(format!("--{error}")),
        other => Error::from(other).into(),
    }
}
