//! A feed-forward layer by the kernels.

use super::{Shape, Weights};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, Activate, WeightMatrix};
use crate::model::blocks::device::{dense, stacked_bias, Chunk, Host, Numbers, Stream};
use std::slice::from_ref;

/// A layer's weights on a device.
pub(crate) struct Layer {
    /// Gate and up lie in one matrix here, whatever a file has.
    shape: Shape,
    norm: WeightMatrix,
    up: Vec<WeightMatrix>, // (d_up, d_model)
    up_bias: Option<Tensor>,
    pub down_proj: WeightMatrix,
    down_bias: Option<WeightMatrix>,
}

/// The activations of a chunk of up to L tokens; all layers share them.
pub(crate) struct Workspace {
    up: Tensor, // (L, d_up), L up to whole COOP_TILEs where cooperative matrices write it
    y: Tensor,  // (L, d_ff), act
}

impl Workspace {
    pub fn new(gpu: &Gpu, layer: &Layer, l: usize, numbers: &mut Numbers) -> Result<Self, GpuError> {
        numbers.end(gpu)?;
        let (s, tall) = (&layer.shape, numbers.tall(gpu, l));
        let y = Tensor::activations(gpu, "activated", l * s.d_ff, numbers.format)?;
        Ok(Self { up: Tensor::zeros(gpu, "up", tall * s.d_up())?, y: numbers.factor(y) })
    }
}

impl Layer {
    /// `host`: a parameter's values as they are stored.
    pub fn new<E: From<GpuError>>(
        gpu: &Gpu,
        s: Shape,
        w: Weights<WeightMatrix>,
        host: &mut Host<'_, E>,
    ) -> Result<Self, E> {
        let gate = s.has_gate_proj().then_some(("mixer.gate_proj.bias", s.d_ff, 1.0));
        let biases: Vec<_> = gate.into_iter().chain([("mixer.up_proj.bias", s.d_up(), 1.0)]).collect();
        Ok(Self {
            shape: Shape { fused: s.gated, ..s },
            norm: w.norm,
            up: WeightMatrix::stack(gpu, "gate and up", w.gate_proj.into_iter().chain([w.up_proj]).collect())?,
            up_bias: stacked_bias(gpu, &biases, host)?,
            down_proj: w.down_proj,
            down_bias: w.down_proj_bias,
        })
    }

    fn down_bias(&self) -> Option<&Tensor> {
        self.down_bias.as_ref().map(WeightMatrix::tensor)
    }

    fn activate(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, l: usize) -> Result<(), GpuError> {
        let s = &self.shape;
        kernels::activate(plan, (&w.up, s.gated.then_some(&w.up)), &w.y, s.activation, &s.activate(l))
    }

    /// A chunk of l tokens, or a step of l texts, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        let (s, l) = (&self.shape, chunk.l);
        stream.norm(plan, &self.norm, chunk)?;
        dense(plan, stream.normed, &self.up, self.up_bias.as_ref(), (&w.up, s.d_up()), l)?;
        self.activate(plan, w, l)?;
        dense(plan, &w.y, from_ref(&self.down_proj), self.down_bias(), (stream.hidden, s.d_model), l)
    }

    /// Whether the fused step can run, which reads rows in whole quads.
    pub fn fuses_the_step(&self) -> bool {
        self.shape.d_model.is_multiple_of(4)
    }

    /// One token in two dispatches, the residual stream added to in place; in more where gate and up are no one matrix.
    pub fn fused_step(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, stream: &Stream<'_>) -> Result<(), GpuError> {
        let (s, norm) = (&self.shape, (self.norm.tensor(), stream.norm_eps));
        match &self.up[..] {
            [up] if up.parts().len() == 1 => {
                let act = Activate { f: s.activation, gated: s.gated, gate_scale: s.gate_scale, scale: s.out_scale };
                let up = (up, self.up_bias.as_ref());
                kernels::matvec_norm_activate(plan, stream.residual, norm, up, &w.y, act)?;
            }
            several => {
                for up in several {
                    kernels::matvec_norm(plan, stream.residual, norm, up, self.up_bias.as_ref(), &w.up)?;
                }
                self.activate(plan, w, 1)?;
            }
        }
        kernels::matvec_add(plan, &w.y, &self.down_proj, self.down_bias(), stream.residual)
    }
}
