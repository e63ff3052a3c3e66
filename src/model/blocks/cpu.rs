//! Layers of any kind by the twins: which kind is asked.

use super::host::{HostTensor, LayerState, Stream};
use super::{attention, mamba1, mamba2, mlp, moe, Shape, Weights, STATES};
use crate::model::explanation::{ExplainOptions, LayerExplanation};

/// A layer in memory.
pub(crate) struct Layer {
    pub shape: Shape,
    /// `A_log` holds A, `decay_rate` of what is stored.
    pub w: Weights<HostTensor>,
    /// Elements of each of the [`STATES`], which every step asks for.
    pub states: [usize; STATES.len()],
}

/// The activations inside layers. Grown to the largest chunk and kept, so that decoding allocates nothing.
#[derive(Default)]
pub(crate) struct Workspaces {
    mamba1: mamba1::cpu::Workspace,
    mamba2: mamba2::cpu::Workspace,
    attention: attention::cpu::Workspace,
    mlp: mlp::cpu::Workspace,
    moe: moe::cpu::Workspace,
}

impl Layer {
    pub fn new(shape: Shape, w: Weights<HostTensor>) -> Self {
        Self { shape, w, states: STATES.map(|name| shape.state_elements(name)) }
    }

    /// residual += mixer(rms_norm(residual)); the states advance: one text's, or in a step one of each row.
    pub fn forward(&self, work: &mut Workspaces, stream: &mut Stream<'_>, states: &mut [LayerState<'_>]) {
        match (&self.shape, &self.w) {
            (Shape::Mamba1(s), Weights::Mamba1(w)) => mamba1::cpu::forward(w, s, &mut work.mamba1, stream, states),
            (Shape::Mamba2(s), Weights::Mamba2(w)) => mamba2::cpu::forward(w, s, &mut work.mamba2, stream, states),
            (Shape::Attention(s), Weights::Attention(w)) => {
                attention::cpu::forward(w, s, &mut work.attention, stream, states);
            }
            (Shape::Mlp(s), Weights::Mlp(w)) => mlp::cpu::forward(w, s, &mut work.mlp, stream),
            (Shape::Moe(s), Weights::Moe(w)) => moe::cpu::forward(w, s, &mut work.moe, stream),
            _ => debug_assert!(false, "shape and weights are made together"),
        }
    }

    /// What the layer, the i-th of the model, has seen in the chunk that has just gone through.
    pub fn explain(&self, work: &Workspaces, i: usize, l: usize, options: &ExplainOptions) -> Option<LayerExplanation> {
        match (&self.shape, &self.w) {
            (Shape::Mamba1(s), Weights::Mamba1(w)) => Some(mamba1::cpu::explain(w, s, &work.mamba1, i, l, options)),
            (Shape::Mamba2(s), Weights::Mamba2(w)) => Some(mamba2::cpu::explain(w, s, &work.mamba2, i, l, options)),
            _ => None, // what no one explains
        }
    }
}
