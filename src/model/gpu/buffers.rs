//! The buffers of a session: a chunk's activations, what the layers remember, what scoring writes.

use super::GpuModel;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, Tensor};
use crate::kernels::TEXT;
use crate::model::blocks::device::{LayerState, Numbers, Stream};
use crate::model::blocks::gpu::Workspaces;
use crate::model::blocks::{Shape, STATES};
use crate::model::{ModelConfig, Scan, StateData};
use crate::Result;

/// Rows of logits that are worked out at once; also what aligns the views of scores (64 x 4 bytes).
pub(super) const SCORE_ROWS: usize = 64;

/// The activations of a chunk of up to `capacity` tokens, in f32, or those marked act in another format.
pub(super) struct Workspace {
    pub(super) capacity: usize,
    pub(super) tokens: Tensor,   // (L), u32
    pub(super) texts: Tensor,    // (L, TEXT), u32: of a step, which texts; the only slot's at first
    pub(super) residual: Tensor, // (L, d_model)
    pub(super) normed: Tensor,   // (L, d_model), act
    pub(super) last: Tensor,     // (up to SCORE_ROWS, d_model), what the head reads
    pub(super) hidden: Tensor,   // (L, d_model), L up to whole COOP_TILEs where cooperative matrices write it
    pub(super) inside: Workspaces,
    /// Where it is noticed that a value is beyond f16: 1, then. None: nothing here is multiplied in f16.
    pub(super) beyond: Option<Tensor>,
}

impl Workspace {
    /// `watch`: whether f16 may be used (activations in it, products by halves), and values that it cannot hold are to
    /// be noticed. Otherwise all is f32.
    pub(super) fn new(
        model: &GpuModel,
        l: usize,
        scan: Option<Scan>,
        (act, watch): (NumberFormat, bool),
    ) -> Result<Self, GpuError> {
        let (gpu, c) = (&model.gpu, &model.config);
        let mut numbers = Numbers::new(act, watch);
        let inside = Workspaces::new(gpu, model.layers.iter(), l, scan, &mut numbers)?;
        let rows = |label: &str, width: usize| Tensor::zeros(gpu, label, l * width);
        let normed = Tensor::activations(gpu, "normed", l * c.d_model, act)?;
        Ok(Self {
            capacity: l,
            tokens: rows("tokens", 1)?,
            texts: rows("texts", TEXT)?,
            residual: rows("residual", c.d_model)?,
            normed: numbers.factor(normed),
            last: numbers.factor(Tensor::zeros(gpu, "last", l.min(SCORE_ROWS) * c.d_model)?),
            hidden: Tensor::zeros(gpu, "hidden", numbers.tall(gpu, l) * c.d_model)?,
            inside,
            beyond: numbers.beyond,
        })
    }

    /// What runs through the layers.
    pub(super) fn stream(&self, c: &ModelConfig) -> Stream<'_> {
        Stream { residual: &self.residual, normed: &self.normed, hidden: &self.hidden, norm_eps: c.norm_eps }
    }
}

/// Elements from which a layer's part of a state may begin, so that it can be bound.
const ALIGN: usize = 64;

/// What a text's layers remember, one tensor a kind of state ([`STATES`]), all layers' parts one after the other.
pub(super) struct Memory {
    /// (first element, elements) of each layer's part, and the whole.
    states: Vec<(Vec<(usize, usize)>, Tensor)>,
}

impl Memory {
    pub(super) fn new(gpu: &Gpu, layers: &[Shape]) -> Result<Self, GpuError> {
        let state = |name: &&'static str| {
            let mut at = 0;
            let mut parts = Vec::new();
            for layer in layers {
                let elements = layer.state_elements(name);
                parts.push((at, elements));
                at += elements.next_multiple_of(ALIGN);
            }
            Ok((parts, Tensor::zeros(gpu, name, at)?))
        };
        Ok(Self { states: STATES.iter().map(state).collect::<Result<_, GpuError>>()? })
    }

    /// A layer's states.
    pub(super) fn layer(&self, layer: usize) -> LayerState {
        let part = |i: usize| {
            let (parts, tensor) = &self.states[i];
            let (at, elements) = parts[layer];
            tensor.slice(at, elements)
        };
        LayerState { conv: part(0), ssm: part(1) }
    }

    /// Records a copy to another memory of the same model.
    pub(super) fn copy_to(&self, encoder: &mut wgpu::CommandEncoder, to: &Memory) {
        self.states.iter().zip(&to.states).for_each(|((_, from), (_, to))| from.copy_to(encoder, to));
    }

    /// Records forgetting all.
    pub(super) fn clear(&self, encoder: &mut wgpu::CommandEncoder) {
        self.states.iter().for_each(|(_, tensor)| encoder.clear_buffer(tensor.buffer(), 0, None));
    }

    /// To the host.
    pub(super) async fn read(&self, gpu: &Gpu) -> Result<StateData> {
        let mut read = Vec::new();
        for (parts, tensor) in &self.states {
            let values = tensor.read::<f32>(gpu).await?;
            let layers = parts.iter().flat_map(|&(at, elements)| &values[at..at + elements]);
            read.push(layers.copied().collect());
        }
        let mut read = read.into_iter();
        let mut next = || read.next().unwrap_or_default();
        Ok(StateData { conv: next(), ssm: next() })
    }

    /// From the host; [`StateData::check`] has passed.
    pub(super) fn write(&self, gpu: &Gpu, data: &StateData) {
        for ((parts, tensor), mut values) in self.states.iter().zip([&data.conv[..], &data.ssm[..]]) {
            for &(at, elements) in parts {
                let (layer, rest) = values.split_at(elements);
                tensor.slice(at, elements).write(gpu, 0, layer);
                values = rest;
            }
        }
    }
}

/// What [`GpuSession::score`] writes: a block of logits at a time, and its results for a whole chunk.
pub(super) struct ScoreBuffers {
    pub(super) logits: Tensor,  // (SCORE_ROWS, vocab_size)
    pub(super) argmax: Tensor,  // (L), u32
    pub(super) targets: Tensor, // (L), u32
    pub(super) nll: Tensor,     // (L)
}
