//! Sizes to start from. docs/training.md says where their numbers are from.

use super::{Decay, Optimiser, Schedule, Settings, Shape, Task, TaskKind, Trained};
use crate::settings::named;

/// What sizes a run begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The paper's.
    Paper,
    /// Some that a software GPU trains in a minute or two.
    Tiny,
}

named!(Preset, "preset": Paper = "paper", Tiny = "tiny");

impl Settings {
    /// The settings of a preset for a task.
    pub fn preset(kind: TaskKind, preset: Preset, seed: u64) -> Self {
        let schedule = |peak, warmup, steps, decay| Schedule { peak, warmup, steps, decay, floor: 0.02 };
        let paper = Shape::new(2, 64);
        // What lets noise go by for long was not seen to be learnt with weights that decay (docs/claims.md).
        let (shape, batch, schedule, weight_decay, label_smoothing) = match (preset, kind) {
            (Preset::Tiny, _) => {
                let shape = Shape { layer: Trained { d_state: 8, ..Trained::default() }, ..Shape::new(2, 32) };
                (shape, 16, schedule(8e-3, 20, 300, Decay::Cosine), 0.01, 0.0)
            }
            (Preset::Paper, TaskKind::SelectiveCopying) => {
                let shape = Shape { dt_min: 1e-5, ..paper };
                (shape, 64, schedule(1e-4, 0, 400_000, Decay::Constant), 0.0, 0.0)
            }
            (Preset::Paper, TaskKind::InductionHeads) => {
                (paper, 8, schedule(1e-3, 0, 204_800, Decay::Cosine), 0.0, 0.1)
            }
            (Preset::Paper, TaskKind::AssociativeRecall) => {
                (paper, 64, schedule(1e-3, 100, 20_000, Decay::Cosine), 0.1, 0.0)
            }
            (Preset::Paper, TaskKind::Text) => {
                (Shape::new(8, 256), 32, schedule(2e-3, 100, 725, Decay::Cosine), 0.1, 0.0)
            }
        };
        let task = match preset {
            Preset::Paper => Task::paper(kind),
            Preset::Tiny => Task::tiny(kind),
        };
        let optimiser = Optimiser { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, clip: 1.0 };
        Self {
            task,
            shape,
            batch,
            accumulate: 1,
            label_smoothing,
            optimiser,
            schedule,
            seed,
            origin: None,
            text: None,
            validation_text: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_can_be_trained() {
        for kind in [TaskKind::SelectiveCopying, TaskKind::InductionHeads, TaskKind::AssociativeRecall, TaskKind::Text]
        {
            for preset in [Preset::Paper, Preset::Tiny] {
                let settings = Settings::preset(kind, preset, 3);
                settings.check().unwrap();
                assert_eq!((settings.task.kind(), settings.seed), (kind, 3));
            }
            assert_eq!(Settings::preset(kind, Preset::Paper, 0).task, Task::paper(kind));
        }
    }
}
