//! Selective copying, induction heads, associative recall.

use super::{Batch, Data, IGNORE};
use crate::settings::named;
use crate::train::random::{Purpose, Stream};
use crate::train::TrainError;
use serde::{Deserialize, Serialize};

/// Names of the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    SelectiveCopying,
    InductionHeads,
    AssociativeRecall,
    Text,
}

named!(TaskKind, "task": SelectiveCopying = "selective-copying", InductionHeads = "induction-heads",
    AssociativeRecall = "associative-recall", Text = "text");

/// A task and its sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Task {
    /// `memorise` data tokens stand at random places among noise (token 0), `length` tokens in all; then come `memorise`
    /// markers (the last token of the vocabulary), at which the data tokens are wanted in their order. Data tokens are 1 to
    /// vocab_size - 2. As `torch_copying_data(variable=True)` of state-spaces/s4.
    SelectiveCopying { length: usize, memorise: usize, vocab_size: usize },
    /// Random tokens; a special one (the last of the vocabulary) at a random place, followed by some token, and once more at
    /// the end, where that same token is wanted. With more than two `occurrences` the special token and what follows it come
    /// in between too, and are asked for there: more to learn from in a sequence.
    InductionHeads { length: usize, vocab_size: usize, occurrences: usize },
    /// Pairs of a key and its value, keys chosen again and again, each sequence with values of its own; at the end a key that
    /// was there before, whose value is wanted. The vocabulary's first half are keys, the second values. `every`: the value is
    /// wanted after every key that was there before, not at the end alone.
    AssociativeRecall { length: usize, vocab_size: usize, every: bool },
    /// Windows of a text ([`super::TextData`]): every next token is wanted.
    Text { length: usize, vocab_size: usize },
}

impl Task {
    /// Tokens of a sequence at most: some are held on the host whole.
    pub const MAX_LENGTH: usize = 1 << 26;
    /// Entries of a vocabulary at most.
    const MAX_VOCAB: usize = 1 << 24;

    /// The task at the paper's sizes.
    pub fn paper(kind: TaskKind) -> Self {
        match kind {
            TaskKind::SelectiveCopying => Task::SelectiveCopying { length: 4096, memorise: 16, vocab_size: 16 },
            TaskKind::InductionHeads => Task::InductionHeads { length: 256, vocab_size: 16, occurrences: 2 },
            TaskKind::AssociativeRecall => Task::AssociativeRecall { length: 257, vocab_size: 32, every: false },
            TaskKind::Text => Task::Text { length: 512, vocab_size: 4096 },
        }
    }

    /// The task at sizes that a software GPU manages.
    pub fn tiny(kind: TaskKind) -> Self {
        match kind {
            TaskKind::SelectiveCopying => Task::SelectiveCopying { length: 24, memorise: 4, vocab_size: 8 },
            TaskKind::InductionHeads => Task::InductionHeads { length: 24, vocab_size: 8, occurrences: 4 },
            TaskKind::AssociativeRecall => Task::AssociativeRecall { length: 25, vocab_size: 8, every: true },
            TaskKind::Text => Task::Text { length: 64, vocab_size: 512 },
        }
    }

    pub fn kind(&self) -> TaskKind {
        match self {
            Task::SelectiveCopying { .. } => TaskKind::SelectiveCopying,
            Task::InductionHeads { .. } => TaskKind::InductionHeads,
            Task::AssociativeRecall { .. } => TaskKind::AssociativeRecall,
            Task::Text { .. } => TaskKind::Text,
        }
    }

    pub fn vocab_size(&self) -> usize {
        match *self {
            Task::SelectiveCopying { vocab_size, .. }
            | Task::InductionHeads { vocab_size, .. }
            | Task::AssociativeRecall { vocab_size, .. }
            | Task::Text { vocab_size, .. } => vocab_size,
        }
    }

    /// Tokens up to where the answers begin: what `--length` says.
    pub fn nominal_length(&self) -> usize {
        match *self {
            Task::SelectiveCopying { length, .. }
            | Task::InductionHeads { length, .. }
            | Task::AssociativeRecall { length, .. }
            | Task::Text { length, .. } => length,
        }
    }

    /// The same at another length.
    pub fn with_length(mut self, new: usize) -> Self {
        match &mut self {
            Task::SelectiveCopying { length, .. }
            | Task::InductionHeads { length, .. }
            | Task::AssociativeRecall { length, .. }
            | Task::Text { length, .. } => *length = new,
        }
        self
    }

    /// For a model that has its vocabulary already.
    pub(crate) fn set_vocab_size(&mut self, new: usize) {
        match self {
            Task::SelectiveCopying { vocab_size, .. }
            | Task::InductionHeads { vocab_size, .. }
            | Task::AssociativeRecall { vocab_size, .. }
            | Task::Text { vocab_size, .. } => *vocab_size = new,
        }
    }

    /// The task at a length as the paper evaluates it: asked once, at the end.
    pub fn asked_once(&self, length: usize) -> Self {
        let mut task = self.clone().with_length(length);
        if let Task::InductionHeads { occurrences, .. } = &mut task {
            *occurrences = 2;
        }
        if let Task::AssociativeRecall { length, .. } = &mut task {
            *length = length.saturating_sub(usize::from(length.is_multiple_of(2)));
            // pairs, then a key
        }
        task
    }

    /// Examples to judge a model by, the `first`-th and those behind it: only the answers at the end of each count.
    pub fn judged(&self, seed: u64, first: u64, sequences: usize) -> Batch {
        self.judged_of(Purpose::Evaluation, seed, first, sequences)
    }

    /// Likewise, of a purpose's examples.
    pub(crate) fn judged_of(&self, purpose: Purpose, seed: u64, first: u64, sequences: usize) -> Batch {
        let mut batch = self.batch(seed, purpose, first, sequences);
        for targets in batch.targets.chunks_exact_mut(batch.length) {
            targets[..self.prompt()].fill(IGNORE);
        }
        batch
    }

    /// The last position that counts for nothing on the way to the first answer, plus 1: how much of a sequence may be fed
    /// without looking at what the model says. (For evaluation: only the answers at the end of a sequence are judged.)
    pub fn prompt(&self) -> usize {
        match *self {
            Task::SelectiveCopying { length, .. } => length,
            Task::InductionHeads { length, .. } | Task::AssociativeRecall { length, .. } => length - 1,
            Task::Text { .. } => 0,
        }
    }

    /// Whether there are such examples.
    ///
    /// # Errors
    /// Sizes with which there are none, and why.
    pub fn check(&self) -> Result<(), TrainError> {
        let fail = |what: &'static str, value: usize, expected: String| {
            Err(TrainError::Setting { what, value: value.to_string(), expected })
        };
        let at_most = |what, value, most: usize| match value > most {
            true => fail(what, value, format!("at most {most}")),
            false => Ok(()),
        };
        at_most("length", self.nominal_length(), Self::MAX_LENGTH)?;
        at_most("vocab", self.vocab_size(), Self::MAX_VOCAB)?;
        match *self {
            Task::SelectiveCopying { length, memorise, vocab_size } => {
                if memorise == 0 || memorise > length {
                    return fail("memorise", memorise, format!("between 1 and the length of {length}"));
                }
                if vocab_size < 4 {
                    return fail("vocab", vocab_size, "at least 4 (noise, two data tokens, a marker)".into());
                }
            }
            Task::InductionHeads { length, vocab_size, occurrences } => {
                if vocab_size < 3 {
                    return fail("vocab", vocab_size, "at least 3 (two tokens and the special one)".into());
                }
                if length < 3 {
                    return fail(
                        "length",
                        length,
                        "at least 3 (two occurrences of the special token, and the answer)".into(),
                    );
                }
                if occurrences < 2 || occurrences > length.div_ceil(2) {
                    return fail(
                        "occurrences",
                        occurrences,
                        format!("at least 2 and at most {}, to fit into a length of {length}", length.div_ceil(2)),
                    );
                }
            }
            Task::AssociativeRecall { length, vocab_size, .. } => {
                if vocab_size < 4 || vocab_size % 2 != 0 {
                    return fail("vocab", vocab_size, "even and at least 4 (keys and values)".into());
                }
                if length < 3 || length % 2 == 0 {
                    return fail("length", length, "odd and at least 3 (pairs, then a key)".into());
                }
            }
            Task::Text { length, vocab_size } => {
                if length == 0 {
                    return fail("length", length, "at least 1".into());
                }
                if vocab_size < 2 {
                    return fail("vocab", vocab_size, "at least 2".into());
                }
            }
        }
        Ok(())
    }

    /// One example into its places, all zero and [`IGNORE`] before.
    fn example(&self, random: &mut Stream, tokens: &mut [u32], targets: &mut [u32]) {
        match *self {
            Task::SelectiveCopying { length, memorise, vocab_size } => {
                let places = random.ascending(memorise, length);
                for (i, place) in places.into_iter().enumerate() {
                    let token = 1 + random.below(vocab_size - 2) as u32;
                    tokens[place] = token;
                    tokens[length + i] = vocab_size as u32 - 1;
                    targets[length + i] = token;
                }
            }
            Task::InductionHeads { length, vocab_size, occurrences } => {
                let special = vocab_size as u32 - 1;
                for token in tokens.iter_mut() {
                    *token = random.below(vocab_size - 1) as u32;
                }
                let answer = random.below(vocab_size - 1) as u32;
                // Pairs (special, answer) do not overlap: places among what is left when each is one token shorter.
                let pairs = occurrences - 1;
                for (i, place) in random.ascending(pairs, length - 1 - pairs).into_iter().enumerate() {
                    let place = place + i;
                    tokens[place] = special;
                    tokens[place + 1] = answer;
                    if i > 0 {
                        targets[place] = answer;
                    }
                }
                tokens[length - 1] = special;
                targets[length - 1] = answer;
            }
            Task::AssociativeRecall { length, vocab_size, every } => {
                let half = vocab_size / 2;
                let value: Vec<u32> = (0..half).map(|_| (half + random.below(half)) as u32).collect();
                let mut seen = vec![false; half];
                for pair in tokens[..length - 1].chunks_exact_mut(2).zip(targets.chunks_exact_mut(2)) {
                    let (pair, target) = pair;
                    let key = random.below(half);
                    pair[0] = key as u32;
                    pair[1] = value[key];
                    if every && seen[key] {
                        target[0] = value[key];
                    }
                    seen[key] = true;
                }
                // One of the keys that were there, all equally likely.
                let known: Vec<usize> = (0..half).filter(|&key| seen[key]).collect();
                let key = known[random.below(known.len())];
                tokens[length - 1] = key as u32;
                targets[length - 1] = value[key];
            }
            Task::Text { .. } => {}
        }
    }
}

impl Data for Task {
    fn length(&self) -> usize {
        match *self {
            Task::SelectiveCopying { length, memorise, .. } => length + memorise,
            _ => self.nominal_length(),
        }
    }

    fn batch(&self, seed: u64, purpose: Purpose, first: u64, sequences: usize) -> Batch {
        let length = self.length();
        let (mut tokens, mut targets) = (vec![0; sequences * length], vec![IGNORE; sequences * length]);
        let rows = tokens.chunks_exact_mut(length).zip(targets.chunks_exact_mut(length));
        for (i, (tokens, targets)) in rows.enumerate() {
            self.example(&mut Stream::new(seed, purpose, first + i as u64), tokens, targets);
        }
        Batch::new(sequences, length, tokens, targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(batch: &Batch) -> impl Iterator<Item = (&[u32], &[u32])> {
        batch.tokens.chunks(batch.length).zip(batch.targets.chunks(batch.length))
    }

    #[test]
    fn selective_copying_asks_for_the_data_in_order() {
        let task = Task::SelectiveCopying { length: 20, memorise: 5, vocab_size: 8 };
        for (tokens, targets) in rows(&task.batch(3, Purpose::Training, 10, 50)) {
            let data: Vec<u32> = tokens[..20].iter().copied().filter(|&t| t != 0).collect();
            assert_eq!(data, targets[20..]);
            assert!(data.iter().all(|t| (1..7).contains(t)));
            assert_eq!(tokens[20..], [7; 5]);
            assert_eq!(targets[..20], [IGNORE; 20]);
        }
    }

    #[test]
    fn induction_heads_asks_for_what_followed() {
        for occurrences in [2, 4] {
            let task = Task::InductionHeads { length: 16, vocab_size: 6, occurrences };
            for (tokens, targets) in rows(&task.batch(3, Purpose::Training, 0, 50)) {
                let places: Vec<usize> = (0..16).filter(|&i| tokens[i] == 5).collect();
                assert_eq!(places.len(), occurrences);
                assert_eq!(places[occurrences - 1], 15);
                let answer = tokens[places[0] + 1];
                assert!(answer < 5);
                for (i, &target) in targets.iter().enumerate() {
                    let asked = places[1..].contains(&i);
                    assert_eq!(target, if asked { answer } else { IGNORE });
                    assert!(!asked || i == 15 || tokens[i + 1] == answer);
                }
            }
        }
    }

    #[test]
    fn associative_recall_asks_for_a_known_value() {
        for every in [false, true] {
            let task = Task::AssociativeRecall { length: 21, vocab_size: 8, every };
            let batch = task.batch(3, Purpose::Training, 0, 50);
            for (tokens, targets) in rows(&batch) {
                for (i, &target) in targets.iter().enumerate().filter(|(_, &t)| t != IGNORE) {
                    assert!(i == 20 || every);
                    let before = (0..i).step_by(2).find(|&j| tokens[j] == tokens[i]).unwrap();
                    assert_eq!(target, tokens[before + 1]);
                    assert!(target >= 4);
                }
            }
            assert_eq!(batch.counted() > 50, every);
        }
    }

    #[test]
    fn the_paper_asks_once() {
        let task = Task::InductionHeads { length: 24, vocab_size: 8, occurrences: 4 }.asked_once(256);
        assert_eq!(task, Task::InductionHeads { length: 256, vocab_size: 8, occurrences: 2 });
        let every = Task::AssociativeRecall { length: 25, vocab_size: 8, every: true };
        assert_eq!(every.asked_once(1024).nominal_length(), 1023);
        let (all, judged) = (every.batch(1, Purpose::Evaluation, 5, 9), every.judged(1, 5, 9));
        assert_eq!((&all.tokens, judged.counted()), (&judged.tokens, 9));
        assert!(all.counted() > 9);
        for (all, judged) in rows(&all).zip(rows(&judged)) {
            assert_eq!((all.1[24], judged.1[24]), (judged.1[24], all.1[24]));
            assert_eq!(judged.1[..24], [IGNORE; 24]);
        }
    }

    #[test]
    fn examples_do_not_depend_on_the_batch() {
        let task = Task::paper(TaskKind::InductionHeads).with_length(32);
        let (all, later) = (task.batch(1, Purpose::Training, 0, 8), task.batch(1, Purpose::Training, 5, 2));
        assert_eq!(all.tokens[5 * 32..7 * 32], later.tokens);
        assert_ne!(all.tokens, task.batch(2, Purpose::Training, 0, 8).tokens);
        assert_ne!(all.tokens, task.batch(1, Purpose::Validation, 0, 8).tokens);
    }

    #[test]
    fn sizes_without_examples_are_refused() {
        for bad in [
            Task::SelectiveCopying { length: 4, memorise: 5, vocab_size: 16 },
            Task::SelectiveCopying { length: 4, memorise: 2, vocab_size: 3 },
            Task::InductionHeads { length: 3, vocab_size: 16, occurrences: 3 },
            Task::InductionHeads { length: 30, vocab_size: 2, occurrences: 2 },
            Task::AssociativeRecall { length: 4, vocab_size: 16, every: false },
            Task::AssociativeRecall { length: 5, vocab_size: 7, every: false },
            Task::Text { length: 0, vocab_size: 7 },
            Task::Text { length: usize::MAX, vocab_size: 7 },
            Task::Text { length: 8, vocab_size: 1 << 32 },
            Task::InductionHeads { length: 30, vocab_size: 8, occurrences: 1 << 63 },
            Task::SelectiveCopying { length: 8, memorise: usize::MAX, vocab_size: 8 },
            Task::AssociativeRecall { length: usize::MAX, vocab_size: 8, every: false },
            Task::paper(TaskKind::AssociativeRecall).asked_once(0),
            Task::paper(TaskKind::AssociativeRecall).asked_once(usize::MAX),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        for kind in [TaskKind::SelectiveCopying, TaskKind::InductionHeads, TaskKind::AssociativeRecall, TaskKind::Text]
        {
            Task::paper(kind).check().unwrap();
        }
        // The smallest that there are.
        for task in [
            Task::SelectiveCopying { length: 1, memorise: 1, vocab_size: 4 },
            Task::InductionHeads { length: 3, vocab_size: 3, occurrences: 2 },
            Task::InductionHeads { length: 5, vocab_size: 3, occurrences: 3 },
            Task::AssociativeRecall { length: 3, vocab_size: 4, every: true },
        ] {
            task.check().unwrap();
            task.batch(1, Purpose::Training, 0, 20);
        }
    }
}
