//! Models on a GPU: the weights there; [`session`] runs them for a text and [`batch`] for several, [`score`] says what it makes of
//! given ones, in the buffers of [`buffers`], by the dispatches of [`forward`]; [`explain`] looks inside. A model may be a [`part`] of a larger one.

mod batch;
mod buffers;
mod explain;
mod forward;
mod part;
mod pool;
mod score;
mod session;

use super::blocks::gpu::Layer;
use super::blocks::{Role, Shape, Weights};
use super::span::Span;
use super::{ModelConfig, ModelWeights, Stacked, TensorView};
use crate::error::{InputError, Result};
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::{Gpu, PlanBuilder, Tensor, Variant};
use crate::kernels::{fill_matrix, MatrixSize, WeightMatrix};
use crate::reference::decay_rate;
use crate::settings::{ActivationDtype, ModelOptions, Scan, WeightDtype};
pub use batch::GpuBatch;
use pool::Pool;
pub use session::GpuSession;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// d_model from which f16 activations pay; a smaller model is fast in any case.
const LARGE: usize = 512;

/// Texts that are read together at most, and bytes that their states take: a chunk is large enough beyond.
const MOST_TEXTS: usize = 64;
const MOST_STATES: u64 = 256 << 20;

/// A model's weights on a device, or those of a part of its layers.
pub struct GpuModel {
    gpu: Gpu,
    /// With the layers that are here.
    config: ModelConfig,
    options: ModelOptions,
    /// (vocab_size, d_model); `None`: another part begins.
    embedding: Option<WeightMatrix>,
    layers: Vec<Layer>,
    /// `None`: another part ends.
    end: Option<End>,
    /// Keys and values of all texts, where there is attention.
    pool: Option<Arc<Pool>>,
    /// A text had activations beyond f16.
    beyond_f16: AtomicBool,
    /// Of the weights, on the device.
    bytes: u64,
}

/// What comes after the layers.
struct End {
    norm_f: Tensor,     // (d_model)
    head: WeightMatrix, // (vocab_size, d_model); the embedding, where they are tied
}

/// Uploads tensors and counts their bytes.
struct Loader<'a> {
    gpu: &'a Gpu,
    weights: WeightDtype,
    /// Whether matrices are made on the device instead: then their views hold no data.
    synthetic: bool,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Loader<'_> {
    fn count(&mut self, view: &TensorView<'_>) -> Result<()> {
        self.done += view.bytes();
        (self.progress)(self.done, self.total);
        // Writes are staged in host memory until a submission: without one a model of gigabytes would be there twice.
        self.gpu.submit([]);
        Ok(self.gpu.check()?)
    }

    fn mapped(&mut self, view: &TensorView<'_>, f: impl Fn(f32) -> f32) -> Result<Tensor> {
        let mut values = view.to_f32()?;
        values.iter_mut().for_each(|x| *x = f(*x));
        let tensor = Tensor::new(self.gpu, view.name, &values)?;
        self.count(view)?;
        Ok(tensor)
    }

    /// A (n, k) matrix. What is stored as f16 or quantised stays so on the device, bit for bit, unless f32 was asked for or
    /// the self-test switched the format off.
    fn matrix(&mut self, view: &TensorView<'_>) -> Result<WeightMatrix> {
        self.matrices(&[view], 1)
    }

    /// Matrices of as many columns as one, their rows behind each other, of which so many lie together. Where they are stored in several
    /// formats, it holds f32.
    fn matrices(&mut self, views: &[&TensorView<'_>], together: usize) -> Result<WeightMatrix> {
        let gpu = self.gpu;
        let stacked = Stacked::new(views);
        let wanted = stacked.dtype.on_device();
        let keep = self.weights != WeightDtype::F32 && Variant::of(wanted).is_none_or(|variant| gpu.allows(variant));
        let (label, size) = (stacked.name(), MatrixSize { n: stacked.n(), k: stacked.k(), together });
        if self.synthetic {
            let mut plan = PlanBuilder::new(gpu);
            let (format, bound) = (if keep { wanted } else { WeightFormat::F32 }, 1.0 / (size.k.max(1) as f32).sqrt());
            self.done += (size.n * size.k) as u64;
            let matrix = fill_matrix(&mut plan, label, size, format, bound, self.done as u32)?;
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            plan.finish()?.record(&mut encoder);
            gpu.submit([encoder.finish()]);
            return Ok(matrix);
        }
        let matrix = match wanted.quant() {
            Some(quant) if keep => WeightMatrix::upload_quantised(gpu, label, size, quant, |rows| -> Result<_> {
                gpu.check()?;
                Ok(stacked.quantised_rows(rows)?)
            }),
            _ => {
                let format = if keep { wanted } else { WeightFormat::F32 };
                WeightMatrix::upload(gpu, label, size, format, |rows| -> Result<_> {
                    gpu.check()?;
                    Ok(stacked.rows_to_f32(rows)?)
                })
            }
        }?;
        views.iter().try_for_each(|view| self.count(view))?;
        Ok(matrix)
    }

    /// A parameter of a layer as the kernels read it.
    fn parameter(&mut self, shape: &Shape, name: &str, views: &[&TensorView<'_>]) -> Result<WeightMatrix> {
        let factor = shape.factor(name);
        Ok(match Role::of(&shape.params(), name) {
            Role::Matrix | Role::Exact => self.matrices(views, shape.rows_together(name))?,
            Role::ALog => WeightMatrix::vector(self.mapped(views[0], decay_rate)?),
            Role::Other => WeightMatrix::vector(self.mapped(views[0], |x| factor * x)?),
        })
    }

    fn layer(&mut self, shape: &Shape, w: &Weights<TensorView<'_>>) -> Result<Layer> {
        let on_device = w.join(&mut |name, views| self.parameter(shape, name, views))?;
        Layer::new(self.gpu, shape, on_device, &mut |name| Ok(w.get(name).map(TensorView::to_f32).transpose()?))
    }
}

impl GpuModel {
    /// Uploads the weights of a span of the model, telling `progress` bytes done and in all.
    ///
    /// # Errors
    /// Non-finite weights, matrices whose rows exceed the adapter's limits, a full GPU memory.
    pub async fn load(
        gpu: &Gpu,
        config: &ModelConfig,
        weights: &ModelWeights<'_>,
        span: &Span,
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        Self::build(gpu, config, (weights, span), options, false, progress).await
    }

    /// The same of weights whose matrices are shapes alone, filled on the device.
    pub(crate) async fn synthetic(
        gpu: &Gpu,
        config: &ModelConfig,
        weights: &ModelWeights<'_>,
        options: ModelOptions,
    ) -> Result<Self> {
        Self::build(gpu, config, (weights, &Span::whole(config)), options, true, &mut |_, _| {}).await
    }

    async fn build(
        gpu: &Gpu,
        config: &ModelConfig,
        (weights, span): (&ModelWeights<'_>, &Span),
        options: ModelOptions,
        synthetic: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        if options.chunk == 0 {
            return Err(InputError::ZeroChunk.into());
        }
        let (config, total) = (span.config(config), span.bytes(weights));
        let before = gpu.memory_bytes().0;
        let mut loader = Loader { gpu, weights: options.weights, synthetic, done: 0, total, progress };
        let embedding = span.embedding(weights).map(|embedding| loader.matrix(embedding)).transpose()?;
        let layers = config.layers.iter().zip(&weights.layers[span.blocks.clone()]);
        let layers = layers.map(|(shape, w)| loader.layer(shape, w)).collect::<Result<_>>()?;
        let end = match span.end(weights) {
            Some((norm_f, lm_head)) => {
                let norm_f = loader.mapped(norm_f, |x| config.head_scale * x)?;
                let own = lm_head.map(|head| loader.matrix(head)).transpose()?;
                own.or_else(|| embedding.clone()).map(|head| End { norm_f, head })
            }
            None => None,
        };
        let model = Self {
            gpu: gpu.clone(),
            options,
            embedding: embedding.filter(|_| span.begins),
            layers,
            end,
            pool: Pool::new(gpu, &config.layers),
            config,
            beyond_f16: AtomicBool::new(false),
            bytes: gpu.memory_bytes().0.saturating_sub(before),
        };
        // The uploads are staged: let them reach the device, and hear of a full memory now.
        gpu.submit_and_wait(gpu.device().create_command_encoder(&Default::default()).finish()).await?;
        Ok(model)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes of the weights, as the device holds them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Logits of a token, of which a part that does not end keeps none to speak of.
    fn logits(&self) -> usize {
        self.end.as_ref().map_or(1, |_| self.config.vocab_size)
    }

    /// Whether a text had activations that f16 cannot hold, and went on without it.
    pub fn beyond_f16(&self) -> bool {
        self.beyond_f16.load(Ordering::Relaxed)
    }

    /// Says it, once a model.
    fn leave_f16(&self) {
        if !self.beyond_f16.swap(true, Ordering::Relaxed) {
            tracing::warn!("activations are beyond f16's largest value, 65504: the prompt is read in f32 from there");
        }
    }

    /// The rung asked for, or the sequential one where the self-test switched it off.
    fn scan(&self) -> Scan {
        match self.options.scan {
            Scan::Fused if !self.gpu.allows(Variant::FusedScan) => Scan::Sequential,
            Scan::Blelloch if !self.gpu.allows(Variant::BlellochScan) => Scan::Sequential,
            scan => scan,
        }
    }

    /// How a prompt's activations are held: [`ActivationDtype`].
    fn activations(&self) -> NumberFormat {
        let gpu = &self.gpu;
        let can = gpu.shader_f16() && gpu.allows(Variant::F16Activations) && self.scan() == Scan::Fused;
        let pays = gpu.cooperative()
            && self.config.d_model >= LARGE
            && gpu.allows(Variant::CooperativeMatrix)
            && self.layers.first().is_some_and(|layer| layer.format() != WeightFormat::F32);
        match self.options.activations {
            ActivationDtype::Auto if can && pays => NumberFormat::F16,
            ActivationDtype::F16 if can => NumberFormat::F16,
            _ => NumberFormat::F32,
        }
    }

    /// Whether a prompt's activations go through f16 anywhere: held in it, or multiplied by matrices of it.
    fn uses_f16(&self) -> bool {
        let by_halves = [Variant::SplitMatrix, Variant::MatrixSsd];
        let splits = self.gpu.cooperative() && by_halves.into_iter().any(|variant| self.gpu.allows(variant));
        splits || self.activations() == NumberFormat::F16 || self.gpu.watches()
    }

    /// Whether the decode step can run in its few kernels a layer.
    fn fuses_the_step(&self) -> bool {
        let fits = self.layers.iter().all(|layer| layer.fuses_the_step(&self.gpu));
        fits && self.gpu.allows(Variant::FusedStep) && self.gpu.allows(Variant::Matvec)
    }

    /// How many texts of l tokens each go through a chunk together.
    fn texts_together(&self, l: usize) -> usize {
        let states = || self.config.layers.iter().flat_map(Shape::state).map(|field| 4 * field.elements() as u64);
        let room = (self.gpu.max_binding() / states().max().unwrap_or(1).max(1))
            .min(MOST_STATES / states().sum::<u64>().max(1));
        let many = (self.chunk() / l.max(1)).min(room as usize).min(MOST_TEXTS);
        match self.layers.iter().all(|layer| layer.takes_texts(l, self.scan())) {
            true => many.max(1),
            false => 1,
        }
    }

    /// The prefill's chunk: what was asked for, or as much of it as the activations' widest rows let into one binding.
    pub fn chunk(&self) -> usize {
        let widest = self.config.layers.iter().map(Shape::widest).max().unwrap_or(1).max(self.config.d_model);
        let room = (self.gpu.max_binding() / (widest as u64 * 4)) as usize;
        self.options.chunk.min(room.max(1))
    }
}
