//! Layers of any kind by the kernels: which kind is asked.

use super::device::{Chunk, Host, LayerState, Numbers, Stream};
use super::explain::{self, Room};
use super::{attention, mamba1, mamba2, mlp, moe};
use super::{Shape, Weights};
use crate::gpu::shader::WeightFormat;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Variant};
use crate::kernels::{WeightMatrix, MAX_HEAD_DIM};
use crate::model::explanation::{ExplainOptions, LayerExplanation};
use crate::settings::Scan;

/// Of things that are made together: a fault of this crate.
fn other_kind(what: &'static str) -> GpuError {
    GpuError::Validation { message: format!("{what} are of different kinds") }
}

/// A layer on a device.
pub(crate) enum Layer {
    Mamba1(mamba1::gpu::Layer),
    Mamba2(mamba2::gpu::Layer),
    Attention(attention::gpu::Layer),
    Mlp(mlp::gpu::Layer),
    Moe(moe::gpu::Layer),
}

/// The activations inside layers, of the kinds that a model has.
#[derive(Default)]
pub(crate) struct Workspaces {
    mamba1: Option<mamba1::gpu::Workspace>,
    mamba2: Option<mamba2::gpu::Workspace>,
    attention: Option<attention::gpu::Workspace>,
    mlp: Option<mlp::gpu::Workspace>,
    moe: Option<moe::gpu::Workspace>,
}

impl Workspaces {
    /// For chunks of up to l tokens.
    pub fn new<'a>(
        gpu: &Gpu,
        layers: impl Iterator<Item = &'a Layer>,
        l: usize,
        scan: Option<Scan>,
        numbers: &mut Numbers,
    ) -> Result<Self, GpuError> {
        let mut all = Self::default();
        for layer in layers {
            match layer {
                Layer::Mamba1(layer) if all.mamba1.is_none() => {
                    all.mamba1 = Some(mamba1::gpu::Workspace::new(gpu, &layer.shape, l, scan, numbers)?);
                }
                Layer::Mamba2(layer) if all.mamba2.is_none() => {
                    all.mamba2 = Some(mamba2::gpu::Workspace::new(gpu, &layer.shape, l, scan, numbers)?);
                }
                Layer::Attention(layer) if all.attention.is_none() => {
                    all.attention = Some(attention::gpu::Workspace::new(gpu, layer, l, numbers)?);
                }
                Layer::Mlp(layer) if all.mlp.is_none() => {
                    all.mlp = Some(mlp::gpu::Workspace::new(gpu, layer, l, numbers)?);
                }
                Layer::Moe(layer) if all.moe.is_none() => {
                    all.moe = Some(moe::gpu::Workspace::new(gpu, &layer.shape, l, numbers)?);
                }
                _ => {}
            }
        }
        numbers.end(gpu)?;
        Ok(all)
    }
}

impl Layer {
    /// From weights that are on the device; `host` gives a parameter's values as they are stored.
    pub fn new<E: From<GpuError>>(
        gpu: &Gpu,
        shape: &Shape,
        weights: Weights<WeightMatrix>,
        host: &mut Host<'_, E>,
    ) -> Result<Self, E> {
        if matches!(shape, Shape::Mamba2(_)) && !gpu.allows(Variant::Mamba2) {
            return Err(GpuError::Unfit { layers: "Mamba-2" }.into());
        }
        if matches!(shape, Shape::Attention(_) | Shape::Mlp(_)) && !gpu.allows(Variant::Attention) {
            return Err(GpuError::Unfit { layers: "attention's and MLP" }.into());
        }
        if matches!(shape, Shape::Moe(_)) && !gpu.allows(Variant::Experts) {
            return Err(GpuError::Unfit { layers: "experts'" }.into());
        }
        if let Some((_, head_dim)) = shape.keys_values() {
            if !head_dim.is_multiple_of(4) || head_dim > MAX_HEAD_DIM {
                return Err(GpuError::HeadDim { head_dim }.into());
            }
        }
        Ok(match (shape, weights) {
            (Shape::Mamba1(s), Weights::Mamba1(w)) => Layer::Mamba1(mamba1::gpu::Layer::new(gpu, *s, w, host)?),
            (Shape::Mamba2(s), Weights::Mamba2(w)) => Layer::Mamba2(mamba2::gpu::Layer::new(gpu, *s, w, host)?),
            (Shape::Attention(s), Weights::Attention(w)) => {
                Layer::Attention(attention::gpu::Layer::new(gpu, *s, w, host)?)
            }
            (Shape::Mlp(s), Weights::Mlp(w)) => Layer::Mlp(mlp::gpu::Layer::new(gpu, *s, w, host)?),
            (Shape::Moe(s), Weights::Moe(w)) => {
                Layer::Moe(moe::gpu::Layer::new(*s, w).ok_or_else(|| other_kind("a layer and its experts"))?)
            }
            _ => return Err(other_kind("shapes and weights").into()),
        })
    }

    /// A chunk or a step, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        work: &Workspaces,
        stream: &Stream<'_>,
        state: &LayerState,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        match (self, work) {
            (Layer::Mamba1(layer), Workspaces { mamba1: Some(w), .. }) => layer.forward(plan, w, stream, state, chunk),
            (Layer::Mamba2(layer), Workspaces { mamba2: Some(w), .. }) => layer.forward(plan, w, stream, state, chunk),
            (Layer::Attention(layer), Workspaces { attention: Some(w), .. }) => {
                layer.forward(plan, w, stream, state, chunk)
            }
            (Layer::Mlp(layer), Workspaces { mlp: Some(w), .. }) => layer.forward(plan, w, stream, chunk),
            (Layer::Moe(layer), Workspaces { moe: Some(w), .. }) => layer.forward(plan, w, stream, chunk),
            _ => Err(other_kind("a layer and the workspaces")),
        }
    }

    /// Whether [`Layer::fused_step`] can run for its sizes.
    pub fn fuses_the_step(&self, gpu: &Gpu) -> bool {
        match self {
            Layer::Mamba1(layer) => layer.fuses_the_step(),
            Layer::Mamba2(layer) => layer.fuses_the_step() && gpu.allows(Variant::SsdStep),
            Layer::Attention(layer) => layer.fuses_the_step(),
            Layer::Mlp(layer) => layer.fuses_the_step(),
            Layer::Moe(layer) => layer.fuses_the_step(),
        }
    }

    /// The fused step's part that comes before the step of the layer before it, of one that stands beside that one.
    pub fn fused_read_beside(
        &self,
        plan: &mut PlanBuilder<'_>,
        work: &Workspaces,
        stream: &Stream<'_>,
        before: &Layer,
    ) -> Result<(), GpuError> {
        match (self, work) {
            (Layer::Attention(layer), Workspaces { attention: Some(w), .. }) if layer.shape.beside => {
                layer.fused_read(plan, w, stream, before.norm())
            }
            _ => Ok(()),
        }
    }

    /// Of its input.
    fn norm(&self) -> Option<&WeightMatrix> {
        match self {
            Layer::Mamba1(layer) => Some(&layer.w.norm),
            Layer::Mamba2(layer) => Some(&layer.w.norm),
            Layer::Attention(_) | Layer::Mlp(_) | Layer::Moe(_) => None,
        }
    }

    /// One token in as few dispatches as will go, the residual stream added to in place.
    pub fn fused_step(
        &self,
        plan: &mut PlanBuilder<'_>,
        work: &Workspaces,
        stream: &Stream<'_>,
        state: &LayerState,
    ) -> Result<(), GpuError> {
        match (self, work) {
            (Layer::Mamba1(layer), Workspaces { mamba1: Some(w), .. }) => layer.fused_step(plan, w, stream, state),
            (Layer::Mamba2(layer), Workspaces { mamba2: Some(w), .. }) => layer.fused_step(plan, w, stream, state),
            (Layer::Attention(layer), Workspaces { attention: Some(w), .. }) => {
                layer.fused_step(plan, w, stream, state)
            }
            (Layer::Mlp(layer), Workspaces { mlp: Some(w), .. }) => layer.fused_step(plan, w, stream),
            (Layer::Moe(layer), Workspaces { moe: Some(w), .. }) => layer.fused_step(plan, w, stream),
            _ => Err(other_kind("a layer and the workspaces")),
        }
    }

    /// Whether texts of l tokens each can go through it together ([`super::device::Way::Texts`]).
    pub fn takes_texts(&self, l: usize, scan: Scan) -> bool {
        match self {
            Layer::Mamba1(layer) => layer.takes_texts(l, scan),
            Layer::Mamba2(layer) => layer.takes_texts(l),
            Layer::Attention(_) => false,
            Layer::Mlp(_) | Layer::Moe(_) => true,
        }
    }

    /// Whether its recurrent kernels are right on the device.
    pub fn steps(&self, gpu: &Gpu) -> bool {
        match self {
            Layer::Mamba1(_) => gpu.allows(Variant::Step),
            Layer::Mamba2(_) => gpu.allows(Variant::Step) && gpu.allows(Variant::SsdStep),
            Layer::Attention(_) | Layer::Mlp(_) | Layer::Moe(_) => true,
        }
    }

    /// How its large matrices are held.
    pub fn format(&self) -> WeightFormat {
        match self {
            Layer::Mamba1(layer) => layer.w.in_proj.format(),
            Layer::Mamba2(layer) => layer.w.in_proj.format(),
            Layer::Attention(layer) => layer.o_proj.format(),
            Layer::Mlp(layer) => layer.down_proj.format(),
            Layer::Moe(layer) => layer.up.format(),
        }
    }

    /// What the layer, the i-th of the model, has seen in the l tokens that have just gone through; `None` of a kind that is not explained.
    /// `room` is made when first needed.
    pub async fn explain(
        &self,
        gpu: &Gpu,
        work: &Workspaces,
        room: &mut Option<Room>,
        (i, l): (usize, usize),
        options: &ExplainOptions,
    ) -> crate::Result<Option<LayerExplanation>> {
        let seen = match (self, work) {
            (Layer::Mamba1(layer), Workspaces { mamba1: Some(w), .. }) => layer.seen(w, l),
            (Layer::Mamba2(layer), Workspaces { mamba2: Some(w), .. }) => layer.seen(gpu, w, l).await?,
            (Layer::Attention(_) | Layer::Mlp(_) | Layer::Moe(_), _) => return Ok(None),
            _ => return Err(other_kind("a layer and the workspaces").into()),
        };
        explain::explain(gpu, &seen, room, i, options).await.map(Some)
    }
}
