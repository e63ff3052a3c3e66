//! What decides a run: the model's shape, the task, the optimiser, the schedule, the seed.

use super::{Origin, Task, TextId, TrainError, Trained};
use crate::checkpoint::synthetic::Spec;
use crate::error::number;
use crate::kernels::AdamW;
use crate::model::blocks;
use crate::settings::named;
use serde::{Deserialize, Serialize};

/// Tokens of a step, which the host makes some steps of ahead.
const MAX_STEP_TOKENS: u64 = 1 << 24;
/// Beyond any Mamba that was published.
const MAX_PARAMETERS: u64 = 1 << 33;

/// A model's dimensions. The vocabulary is the task's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub n_layer: usize,
    pub d_model: usize,
    /// Its fields stand beside the others in a run's settings.json.
    #[serde(flatten)]
    pub layer: Trained,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// delta begins log-uniform between these.
    #[serde(default = "dt_min")]
    pub dt_min: f64,
    #[serde(default = "dt_max")]
    pub dt_max: f64,
}

/// For runs from before there was a choice.
fn dt_min() -> f64 {
    Spec::DT_MIN
}
fn dt_max() -> f64 {
    Spec::DT_MAX
}

impl Shape {
    pub fn new(n_layer: usize, d_model: usize) -> Self {
        Self { n_layer, d_model, layer: Trained::default(), tied: true, dt_min: Spec::DT_MIN, dt_max: Spec::DT_MAX }
    }

    /// The same for [`crate::checkpoint::synthetic`], with Mamba's initialisation.
    pub fn spec(&self, vocab_size: usize, seed: u64) -> Spec {
        Spec {
            layer: blocks::Shape::Mamba1(self.layer.shape(self.d_model)),
            dt_min: self.dt_min,
            dt_max: self.dt_max,
            tied: self.tied,
            seed,
            ..Spec::new(self.n_layer, self.d_model, vocab_size)
        }
    }

    /// About how many parameters such a model has; saturating, for sizes that nothing has checked.
    fn parameters(&self, vocab_size: usize) -> u64 {
        let [layers, d, vocab] = [self.n_layer, self.d_model, vocab_size].map(|size| size as u128);
        let all = layers * self.layer.parameters(self.d_model) + vocab * d * if self.tied { 1 } else { 2 } + d;
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

/// AdamW and clipping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimiser {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// On matrices; never on norms, biases, A_log, D and C.
    pub weight_decay: f32,
    /// The largest norm of the gradient; 0 for any.
    pub clip: f32,
}

impl Optimiser {
    pub(super) fn kernel(&self) -> AdamW {
        AdamW {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            max_norm: self.clip,
        }
    }
}

/// What comes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    Constant,
    Cosine,
}

named!(Decay, "schedule": Constant = "constant", Cosine = "cosine");

/// The learning rate: a linear warm-up, then constant or half a cosine down to a part of the peak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    pub decay: Decay,
    /// Where the cosine ends, as a part of the peak.
    pub floor: f64,
}

impl Schedule {
    /// The rate of a step, which are counted from 1.
    pub fn rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup.max(1) as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine => {
                let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let done = ((step - self.warmup) as f64 / span).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.peak * (self.floor + (1.0 - self.floor) * cosine)
            }
        }
    }
}

/// All that decides what a run computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub task: Task,
    pub shape: Shape,
    /// Sequences of a step.
    pub batch: usize,
    /// Parts that a step's sequences go through in, one after the other: less memory, the same gradient.
    pub accumulate: usize,
    /// The part of the wanted probability that the loss spreads over the whole vocabulary; 0 for none. With one, answers that are
    /// right already go on being learnt until they are right to the same degree everywhere. Validation knows nothing of it.
    #[serde(default)]
    pub label_smoothing: f32,
    pub optimiser: Optimiser,
    pub schedule: Schedule,
    pub seed: u64,
    /// The model that the run begins with; `None`: from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What it learns from and is validated on (task text); `None` also for runs from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_text: Option<TextId>,
}

impl Settings {
    /// Whether such a run can be.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), TrainError> {
        let fail = |what, value: String, expected: &str| {
            Err(TrainError::Setting { what, value, expected: expected.to_string() })
        };
        self.task.check()?;
        let s = &self.shape;
        // Bounds far beyond what is trained, within which no size that is computed from these overflows.
        let model = [("layers", s.n_layer as u64, 1 << 10), ("d-model", s.d_model as u64, 1 << 16)];
        let run = [
            ("batch", self.batch as u64, MAX_STEP_TOKENS),
            ("accumulate", self.accumulate as u64, MAX_STEP_TOKENS),
            ("steps", self.schedule.steps, u64::from(u32::MAX)),
        ];
        for (what, value, most) in model.into_iter().chain(s.layer.sizes(s.d_model)).chain(run) {
            if !(1..=most).contains(&value) {
                return fail(what, value.to_string(), &format!("at least 1 and at most {most}"));
            }
        }
        let tokens = self.batch as u64 * self.task.nominal_length() as u64;
        if tokens > MAX_STEP_TOKENS {
            let length = self.task.nominal_length();
            let most = MAX_STEP_TOKENS / length as u64;
            return fail(
                "batch",
                self.batch.to_string(),
                &match most {
                    0 => format!("of shorter sequences: one of {length} is beyond the {MAX_STEP_TOKENS} tokens of a step (--length)"),
                    _ => format!("at most {most} with a length of {length}: a step has {MAX_STEP_TOKENS} tokens at most"),
                },
            );
        }
        let parameters = s.parameters(self.task.vocab_size());
        if parameters > MAX_PARAMETERS {
            return fail(
                "d-model",
                s.d_model.to_string(),
                &format!(
                    "smaller, or --layers ({}) or --vocab ({}): the model would have {parameters} parameters, and at most \
                     {MAX_PARAMETERS} are trained",
                    s.n_layer,
                    self.task.vocab_size()
                ),
            );
        }
        if !self.batch.is_multiple_of(self.accumulate) {
            return fail(
                "accumulate",
                self.accumulate.to_string(),
                &format!("a divisor of the batch of {}", self.batch),
            );
        }
        let o = &self.optimiser;
        for (what, value, below) in [
            ("beta1", o.beta1, 1.0),
            ("beta2", o.beta2, 1.0),
            ("weight-decay", o.weight_decay, f32::INFINITY),
            ("clip", o.clip, f32::INFINITY),
            ("label-smoothing", self.label_smoothing, 1.0),
            ("min-lr", self.schedule.floor as f32, f32::INFINITY),
        ] {
            if !(0.0..below).contains(&value) {
                let below = if below == f32::INFINITY { "finite".into() } else { format!("below {below}") };
                return fail(what, number(value), &format!("at least 0 and {below}"));
            }
        }
        // The device has them as f32, where the smallest and the largest of f64 are 0 and infinite.
        for (what, value) in
            [("lr", self.schedule.peak), ("eps", o.eps.into()), ("dt-min", s.dt_min), ("dt-max", s.dt_max)]
        {
            if !(value as f32 > 0.0 && (value as f32).is_finite()) {
                return fail(what, number(value), "above 0, and neither so small nor so large that f32 cannot hold it");
            }
        }
        if s.dt_min > s.dt_max {
            return fail("dt-min", number(s.dt_min), &format!("at most dt-max, {}", number(s.dt_max)));
        }
        Ok(())
    }

    /// Sequences that go through together.
    pub fn micro_batch(&self) -> usize {
        self.batch / self.accumulate.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_all_bounds_are_refused_by_name() {
        use crate::train::{Preset, TaskKind};
        type Set = fn(&mut Settings, usize);
        let sets: [(&str, Set); 8] = [
            ("layers", |s, n| s.shape.n_layer = n),
            ("d-model", |s, n| s.shape.d_model = n),
            ("d-state", |s, n| s.shape.layer.d_state = n),
            ("d-conv", |s, n| s.shape.layer.d_conv = n),
            ("expand", |s, n| s.shape.layer.expand = n),
            ("batch", |s, n| s.batch = n),
            ("accumulate", |s, n| s.accumulate = n),
            ("steps", |s, n| s.schedule.steps = n as u64),
        ];
        let refused = |s: &Settings| s.check().unwrap_err().to_string();
        for (what, set) in sets {
            for n in [0, (1 << 32) + 1, 1 << 63, usize::MAX] {
                let mut s = Settings::preset(TaskKind::InductionHeads, Preset::Tiny, 0);
                set(&mut s, n);
                let error = refused(&s);
                assert!(error.starts_with(&format!("{what} {n}: it must be at least 1 and at most ")), "{error}");
            }
        }
        let mut s = Settings::preset(TaskKind::InductionHeads, Preset::Tiny, 0);
        s.batch = 1 << 20;
        assert!(
            refused(&s).starts_with("batch 1048576: it must be at most 699050 with a length of 24"),
            "{}",
            refused(&s)
        );
        s.batch = 1;
        s.task = s.task.with_length(1 << 25);
        assert!(refused(&s).contains("--length"), "{}", refused(&s));
        let mut s = Settings::preset(TaskKind::InductionHeads, Preset::Tiny, 0);
        (s.shape.n_layer, s.shape.d_model) = (1024, 65536);
        assert!(refused(&s).contains("parameters"), "{}", refused(&s));
        let mut s = Settings::preset(TaskKind::InductionHeads, Preset::Tiny, 0);
        s.shape.dt_min = 1e-300;
        assert!(refused(&s).starts_with("dt-min 1e-300: "), "{}", refused(&s));
    }

    #[test]
    fn a_models_parameters_are_counted() {
        let shape = Shape::new(24, 768);
        assert_eq!(shape.parameters(50280), shape.spec(50280, 0).weight_bytes() / 4);
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let s = Schedule { peak: 2e-3, warmup: 100, steps: 725, decay: Decay::Cosine, floor: 0.02 };
        assert!((s.rate(1) - 2e-5).abs() < 1e-12);
        assert_eq!(s.rate(100), 2e-3);
        assert!((s.rate(725) - 4e-5).abs() < 1e-12 && s.rate(900) == s.rate(725));
        let middle = 2e-3 * (0.02 + 0.98 * 0.5 * (1.0 + (std::f64::consts::PI * 100.0 / 625.0).cos()));
        assert!((s.rate(200) - middle).abs() < 1e-12);
        let flat = Schedule { decay: Decay::Constant, warmup: 0, ..s };
        assert_eq!((flat.rate(1), flat.rate(725)), (2e-3, 2e-3));
    }
}
