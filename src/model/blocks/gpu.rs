//! Layers of any kind by the kernels: what all kinds share, and which of them is asked.

use super::{mamba1, mamba2};
use super::{Shape, Weights};
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor, Variant};
use crate::kernels::{WeightMatrix, COOP_TILE};
use crate::model::explanation::{ExplainOptions, LayerExplanation};
use crate::settings::Scan;

/// What runs through all layers.
pub(crate) struct Stream<'a> {
    pub residual: &'a Tensor, // (L, d_model)
    pub normed: &'a Tensor,   // (L, d_model), act
    pub hidden: &'a Tensor,   // (L, d_model): what a layer adds to `residual`, once the next one begins
    /// Of the norm before each layer.
    pub norm_eps: f32,
}

/// A layer's state: what its kind does not keep has no elements.
pub(crate) struct LayerState {
    pub conv: Tensor,
    pub ssm: Tensor,
}

/// Which tokens go through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    pub l: usize,
    /// No layer was before: nothing is to be added to the residual stream.
    pub first: bool,
    /// One token, by the recurrent kernels instead of the parallel ones.
    pub step: bool,
}

/// In which format a chunk's activations are held, and where it is noticed that one is beyond f16.
pub(crate) struct Numbers {
    pub format: NumberFormat,
    /// Whether f16 may be used: activations in it, or products by halves.
    watch: bool,
    /// 1, then.
    pub beyond: Option<Tensor>,
}

impl Numbers {
    pub fn new(format: NumberFormat, watch: bool) -> Self {
        Self { format, watch, beyond: None }
    }

    /// Lets a flag that a kernel has anyway be the one.
    pub fn watch_by(&mut self, flag: &Tensor) {
        if self.watch && self.beyond.is_none() {
            self.beyond = Some(flag.clone());
        }
    }

    /// Makes a flag where no kernel has one.
    pub fn end(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        if self.watch && self.beyond.is_none() {
            self.beyond = Some(Tensor::zeros(gpu, "beyond f16", 1)?);
        }
        Ok(())
    }

    /// What is multiplied by matrices is watched where it is stored.
    pub fn factor(&self, tensor: Tensor) -> Tensor {
        match &self.beyond {
            Some(flag) => tensor.watched_by(flag),
            None => tensor.of_any_size(),
        }
    }

    /// Rows of what cooperative matrices write for l tokens.
    pub fn tall(&self, gpu: &Gpu, l: usize) -> usize {
        if l > 1 && gpu.cooperative() {
            l.next_multiple_of(COOP_TILE)
        } else {
            l
        }
    }
}

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
        host: &mut dyn FnMut(&str) -> Result<Option<Vec<f32>>, E>,
    ) -> Result<Self, E> {
        Ok(match (shape, weights) {
            (Shape::Mamba1(s), Weights::Mamba1(w)) => Layer::Mamba1(mamba1::gpu::Layer::new(gpu, *s, w, host)?),
            (Shape::Mamba2(s), Weights::Mamba2(w)) => Layer::Mamba2(mamba2::gpu::Layer::new(gpu, *s, w, host)?),
            _ => return Err(other_kind("shapes and weights").into()),
        })
    }

    /// A chunk, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        work: &Workspaces,
        stream: &Stream<'_>,
        state: &LayerState,
        chunk: Chunk,
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

    /// What the layer, the i-th of the model, has seen in the l tokens that have just gone through. `room` is the kind's, made when
    /// first needed.
    pub async fn explain(
        &self,
        gpu: &Gpu,
        work: &Workspaces,
        room: &mut Option<mamba1::explain::Room>,
        (i, l): (usize, usize),
        options: &ExplainOptions,
    ) -> crate::Result<Option<LayerExplanation>> {
        match (self, work) {
            (Layer::Mamba1(layer), Workspaces { mamba1: Some(w), .. }) => {
                layer.explain(gpu, w, room, (i, l), options).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}
