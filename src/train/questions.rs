//! How well a model does a synthetic task: one measure for the validation of a run and for the evaluation after it.

use super::random::Purpose;
use super::tasks::{Batch, Data, IGNORE};
use super::{Evaluation, Tape, Task};
use crate::error::Result;

/// Sequences of a task that a model is asked at the end of, once each ([`Task::asked_once`]), however often the task asks in training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    task: Task,
    /// Those of the validation and of the evaluation are different ones: a run's best model is chosen by the first.
    purpose: Purpose,
    seed: u64,
    sequences: usize,
}

impl Questions {
    /// Sequences at most.
    pub const MAX_SEQUENCES: usize = u32::MAX as usize;

    /// `sequences` of them ([`MAX_SEQUENCES`](Self::MAX_SEQUENCES) at most), `length` tokens each (as [`Task::nominal_length`] counts them).
    pub fn new(task: &Task, length: usize, purpose: Purpose, seed: u64, sequences: usize) -> Self {
        Self { task: task.asked_once(length), purpose, seed, sequences }
    }

    /// The task as it is asked.
    pub fn task(&self) -> &Task {
        &self.task
    }

    pub fn sequences(&self) -> usize {
        self.sequences.min(Self::MAX_SEQUENCES)
    }

    /// Tokens of a sequence, markers included.
    pub fn length(&self) -> usize {
        self.task.length()
    }

    /// `together` of them from the `first`-th on; what is behind the last one counts for nothing.
    pub fn batch(&self, first: usize, together: usize) -> Batch {
        let mut batch = self.task.judged_of(self.purpose, self.seed, first as u64, together);
        let left = self.sequences().saturating_sub(first).min(together);
        batch.targets.iter_mut().skip(left * batch.length).for_each(|target| *target = IGNORE);
        batch
    }

    /// Asks them all, as many together as the tape was made for. `progress` hears how many are done, and ends it by `false`:
    /// then there is no result.
    ///
    /// # Errors
    /// A tape for another length; logits with NaN; the device's.
    pub async fn ask(&self, tape: &Tape, mut progress: impl FnMut(usize) -> bool) -> Result<Option<Evaluation>> {
        let together = tape.sequences();
        let mut all = Evaluation::default();
        for first in (0..self.sequences()).step_by(together) {
            all.add(&tape.evaluate(&self.batch(first, together)).await?);
            if !progress(first.saturating_add(together).min(self.sequences())) {
                return Ok(None);
            }
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::TaskKind;

    #[test]
    fn every_sequence_is_asked_once_whatever_goes_together() {
        for kind in [TaskKind::SelectiveCopying, TaskKind::InductionHeads, TaskKind::AssociativeRecall] {
            let task = Task::tiny(kind);
            let questions = Questions::new(&task, task.nominal_length(), Purpose::Validation, 3, 10);
            let answers = if kind == TaskKind::SelectiveCopying { 4 } else { 1 };
            assert_eq!(questions.length(), task.length());
            let whole = questions.batch(0, 10);
            assert_eq!(whole.counted(), 10 * answers);
            // Four together: the last two of the third batch are too many.
            let parts: Vec<Batch> = [0, 4, 8].map(|first| questions.batch(first, 4)).into();
            assert_eq!(parts.iter().map(Batch::counted).sum::<usize>(), 10 * answers);
            let joined: Vec<u32> = parts.iter().flat_map(|part| part.targets.clone()).collect();
            assert_eq!(joined[..whole.targets.len()], whole.targets);
        }
    }

    #[test]
    fn validation_and_evaluation_ask_alike_and_of_other_sequences() {
        let task = Task::tiny(TaskKind::InductionHeads);
        assert!(task.batch(3, Purpose::Training, 0, 8).counted() > 8, "it asks more than once in training");
        let of = |purpose| Questions::new(&task, 24, purpose, 3, 8);
        let (validation, evaluation) = (of(Purpose::Validation), of(Purpose::Evaluation));
        assert_eq!(validation.task(), evaluation.task());
        assert_eq!(evaluation.batch(0, 8), task.asked_once(24).judged(3, 0, 8));
        assert_ne!(validation.batch(0, 8), evaluation.batch(0, 8));
    }
}
