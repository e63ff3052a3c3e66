//! What a model is trained on. The synthetic tasks are those of Gu and Dao, "Mamba" (2023), section 4.1 and appendix E.1.
//!
//! A task makes examples of a fixed length: tokens, and for each position the token that is wanted next, or [`IGNORE`].

mod synthetic;
#[cfg(not(target_arch = "wasm32"))]
mod text;

pub use synthetic::{Task, TaskKind};
#[cfg(not(target_arch = "wasm32"))]
pub use text::{train_tokenizer, TextData, TextError};

use super::random::Purpose;
use crate::kernels::backward::token_order;

/// The target of a position that counts for nothing.
pub const IGNORE: u32 = u32::MAX;

/// Sequences that go through the model together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// (sequences, length)
    pub tokens: Vec<u32>,
    /// (sequences, length): what should follow each token, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Positions sorted by token, for embedding_backward: made here, so that the thread that makes batches ahead does it.
    order: Vec<u32>,
}

impl Batch {
    /// tokens and targets (sequences, length).
    pub fn new(sequences: usize, length: usize, tokens: Vec<u32>, targets: Vec<u32>) -> Self {
        let order = token_order(&tokens);
        Self { sequences, length, tokens, targets, order }
    }

    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Positions that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORE).count()
    }
}

/// Where batches come from: the same for the same numbers, whatever was asked for before.
pub trait Data: Send + Sync {
    /// Tokens of an example.
    fn length(&self) -> usize;
    /// `sequences` examples, the `first`-th and those behind it.
    fn batch(&self, seed: u64, purpose: Purpose, first: u64, sequences: usize) -> Batch;
}
