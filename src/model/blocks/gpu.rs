//! Layers of any kind by the kernels: which kind is asked.

use super::device::{Chunk, Host, LayerState, Numbers, Stream};
use super::explain::{self, Room};
use super::{mamba1, mamba2};
use super::{Shape, Weights};
use crate::gpu::shader::WeightFormat;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Variant};
use crate::kernels::WeightMatrix;
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
}

/// The activations inside layers, of the kinds that a model has.
#[derive(Default)]
pub(crate) struct Workspaces {
    mamba1: Option<mamba1::gpu::Workspace>,
    mamba2: Option<mamba2::gpu::Workspace>,
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
                Layer::Mamba1(_) | Layer::Mamba2(_) => {}
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
        Ok(match (shape, weights) {
            (Shape::Mamba1(s), Weights::Mamba1(w)) => Layer::Mamba1(mamba1::gpu::Layer::new(gpu, *s, w, host)?),
            (Shape::Mamba2(s), Weights::Mamba2(w)) => Layer::Mamba2(mamba2::gpu::Layer::new(gpu, *s, w, host)?),
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
            _ => Err(other_kind("a layer and the workspaces")),
        }
    }

    /// Whether [`Layer::fused_step`] can run for its sizes.
    pub fn fuses_the_step(&self, gpu: &Gpu) -> bool {
        match self {
            Layer::Mamba1(layer) => layer.fuses_the_step(),
            Layer::Mamba2(layer) => layer.fuses_the_step() && gpu.allows(Variant::SsdStep),
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
            _ => Err(other_kind("a layer and the workspaces")),
        }
    }

    /// Whether texts of l tokens each can go through it together ([`super::device::Way::Texts`]).
    pub fn takes_texts(&self, l: usize, scan: Scan) -> bool {
        match self {
            Layer::Mamba1(layer) => layer.takes_texts(l, scan),
            Layer::Mamba2(layer) => layer.takes_texts(l),
        }
    }

    /// Whether its recurrent kernels are right on the device.
    pub fn steps(&self, gpu: &Gpu) -> bool {
        match self {
            Layer::Mamba1(_) => gpu.allows(Variant::Step),
            Layer::Mamba2(_) => gpu.allows(Variant::Step) && gpu.allows(Variant::SsdStep),
        }
    }

    /// How its large matrices are held.
    pub fn format(&self) -> WeightFormat {
        match self {
            Layer::Mamba1(layer) => layer.w.in_proj.format(),
            Layer::Mamba2(layer) => layer.w.in_proj.format(),
        }
    }

    /// What the layer, the i-th of the model, has seen in the l tokens that have just gone through. `room` is made when first needed.
    pub async fn explain(
        &self,
        gpu: &Gpu,
        work: &Workspaces,
        room: &mut Option<Room>,
        (i, l): (usize, usize),
        options: &ExplainOptions,
    ) -> crate::Result<LayerExplanation> {
        let seen = match (self, work) {
            (Layer::Mamba1(layer), Workspaces { mamba1: Some(w), .. }) => layer.seen(w, l),
            (Layer::Mamba2(layer), Workspaces { mamba2: Some(w), .. }) => layer.seen(gpu, w, l).await?,
            _ => return Err(other_kind("a layer and the workspaces").into()),
        };
        explain::explain(gpu, &seen, room, i, options).await
    }
}
