//! A feed-forward layer by the kernels.

use super::{Shape, Weights};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, WeightMatrix};
use crate::model::blocks::device::{Chunk, Numbers, Stream};

/// A layer's weights on a device.
pub(crate) struct Layer {
    pub shape: Shape,
    pub w: Weights<WeightMatrix>,
}

/// The activations of a chunk of up to L tokens; all layers share them.
pub(crate) struct Workspace {
    gate: Option<Tensor>, // (L, d_ff), L up to whole COOP_TILEs where cooperative matrices write it
    up: Tensor,           // (L, d_up), likewise
    y: Tensor,            // (L, d_ff), act
}

impl Workspace {
    pub fn new(gpu: &Gpu, s: &Shape, l: usize, numbers: &mut Numbers) -> Result<Self, GpuError> {
        numbers.end(gpu)?;
        let tall = numbers.tall(gpu, l);
        let gate = s.has_gate_proj().then(|| Tensor::zeros(gpu, "gate", tall * s.d_ff)).transpose()?;
        let y = Tensor::activations(gpu, "activated", l * s.d_ff, numbers.format)?;
        Ok(Self { gate, up: Tensor::zeros(gpu, "up", tall * s.d_up())?, y: numbers.factor(y) })
    }
}

impl Layer {
    /// A chunk of l tokens, or a step of l texts, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        let (s, p, l) = (&self.shape, &self.w, chunk.l);
        stream.norm(plan, &p.norm, chunk)?;
        let linear = |x_stride, y_stride| kernels::Linear { l, x_stride, y_stride, softplus: false };
        let bias = |bias: &'_ Option<WeightMatrix>| bias.as_ref().map(|bias| bias.tensor().clone());
        let up_bias = bias(&p.up_proj_bias);
        kernels::linear(plan, stream.normed, &p.up_proj, up_bias.as_ref(), &w.up, linear(s.d_model, s.d_up()))?;
        if let (Some(gate_proj), Some(gate)) = (&p.gate_proj, &w.gate) {
            let gate_bias = bias(&p.gate_proj_bias);
            kernels::linear(plan, stream.normed, gate_proj, gate_bias.as_ref(), gate, linear(s.d_model, s.d_ff))?;
        }
        let gate = s.gated.then_some(w.gate.as_ref().unwrap_or(&w.up));
        kernels::activate(plan, (&w.up, gate), &w.y, s.activation, &s.activate(l))?;
        let down_bias = bias(&p.down_proj_bias);
        kernels::linear(plan, &w.y, &p.down_proj, down_bias.as_ref(), stream.hidden, linear(s.d_ff, s.d_model))
    }
}
