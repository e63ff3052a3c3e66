//! What a backend holds of a model: all of it, or some of its blocks, between which the residual stream travels.

use super::types::Scores;
use super::{ModelConfig, ModelWeights, TensorView};
use std::ops::Range;

/// Blocks of a model that follow each other, and which of its ends are theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub blocks: Range<usize>,
    /// The embedding.
    pub begins: bool,
    /// The final norm and the head.
    pub ends: bool,
}

impl Span {
    /// The whole model.
    pub fn whole(config: &ModelConfig) -> Self {
        Self { blocks: 0..config.layers.len(), begins: true, ends: true }
    }

    /// The model's dimensions, with no blocks but these.
    pub fn config(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig { layers: config.layers[self.blocks.clone()].to_vec(), ..config.clone() }
    }

    /// The matrix of the embedding, where it is needed: to begin with, or to end with where the head is tied to it.
    pub fn embedding<'a, 'w>(&self, weights: &'a ModelWeights<'w>) -> Option<&'a TensorView<'w>> {
        (self.begins || (self.ends && weights.lm_head.is_none())).then_some(&weights.embedding)
    }

    /// The weights of the final norm, and of a head that is not the embedding.
    pub fn end<'a, 'w>(
        &self,
        weights: &'a ModelWeights<'w>,
    ) -> Option<(&'a TensorView<'w>, Option<&'a TensorView<'w>>)> {
        self.ends.then_some((&weights.norm_f, weights.lm_head.as_ref()))
    }

    /// Bytes of its weights, as stored.
    pub fn bytes(&self, weights: &ModelWeights<'_>) -> u64 {
        let mut bytes = self.embedding(weights).map_or(0, TensorView::bytes);
        let layers = weights.layers.get(self.blocks.clone()).unwrap_or_default();
        layers.iter().for_each(|layer| layer.for_each(&mut |_, tensor| bytes += tensor.bytes()));
        let end = self.end(weights);
        bytes + end.map_or(0, |(norm, head)| norm.bytes() + head.map_or(0, TensorView::bytes))
    }
}

/// What goes into a span's first block: where the model begins tokens, which are embedded, and elsewhere the residual stream of so many.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    Tokens(&'a [u32]),
    /// (l, d_model), and l.
    Residual(&'a [f32], usize),
}

impl Input<'_> {
    /// Of how many tokens.
    pub fn len(&self) -> usize {
        match self {
            Input::Tokens(tokens) => tokens.len(),
            Input::Residual(_, l) => *l,
        }
    }
}

/// What is wanted of a chunk, of the part with the head: nothing in the middle of a prompt.
pub(super) enum Wanted<'a> {
    Nothing,
    /// The last position's logits, which are ready afterwards.
    Last,
    /// Each position's most likely successor, and -log p of its target, added to those of the chunks before.
    Scores {
        targets: Option<&'a [u32]>,
        into: &'a mut Scores,
    },
}
