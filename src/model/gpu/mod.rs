//! Mamba-1 and Falcon-Mamba on a GPU: the weights there; [`session`] runs them, in the buffers of [`buffers`], by the dispatches of
//! [`forward`]; [`explain`] looks inside.

mod buffers;
mod explain;
mod forward;
mod session;

use super::types::{ActivationDtype, ModelOptions, Scan, WeightDtype};
use super::{Dtype, LayerWeights, ModelConfig, ModelWeights, TensorView};
use crate::error::{InputError, Result};
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::Variant;
use crate::gpu::{Gpu, PlanBuilder, Tensor};
use crate::kernels::{fill_matrix, pack_channels, WeightMatrix};
use crate::reference::decay_rate;
pub use session::GpuSession;
use std::sync::atomic::{AtomicBool, Ordering};

/// d_model from which f16 activations pay; a smaller model is fast in any case.
const LARGE: usize = 512;

struct Layer {
    norm: Tensor,                  // (d_model)
    in_proj: WeightMatrix,         // (2 d_inner, d_model)
    in_proj_bias: Option<Tensor>,  // (2 d_inner)
    conv1d: Tensor,                // (d_inner, d_conv)
    conv1d_bias: Option<Tensor>,   // (d_inner)
    x_proj: WeightMatrix,          // (dt_rank + 2 d_state, d_inner)
    dt_proj: WeightMatrix,         // (d_inner, dt_rank)
    dt_proj_bias: Tensor,          // (d_inner)
    a: Tensor,                     // (d_inner, d_state), decay_rate of A_log
    d: Tensor,                     // (d_inner)
    out_proj: WeightMatrix,        // (d_model, d_inner)
    out_proj_bias: Option<Tensor>, // (d_model)
    channels: Tensor,              // (d_conv + 3, d_inner), see kernels::pack_channels
}

/// A model's weights on a device.
pub struct GpuModel {
    gpu: Gpu,
    config: ModelConfig,
    options: ModelOptions,
    embedding: WeightMatrix, // (vocab_size, d_model)
    layers: Vec<Layer>,
    norm_f: Tensor,                // (d_model)
    lm_head: Option<WeightMatrix>, // (vocab_size, d_model); None: tied
    /// A text had activations beyond f16.
    beyond_f16: AtomicBool,
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

    fn tensor(&mut self, view: &TensorView<'_>) -> Result<Tensor> {
        self.mapped(view, |x| x)
    }

    fn mapped(&mut self, view: &TensorView<'_>, f: impl Fn(f32) -> f32) -> Result<Tensor> {
        let mut values = view.to_f32()?;
        values.iter_mut().for_each(|x| *x = f(*x));
        let tensor = Tensor::new(self.gpu, view.name, &values)?;
        self.count(view)?;
        Ok(tensor)
    }

    fn bias(&mut self, view: &Option<TensorView<'_>>) -> Result<Option<Tensor>> {
        view.as_ref().map(|v| self.tensor(v)).transpose()
    }

    /// A (n, k) matrix. What is stored as f16 or quantised stays so on the device, bit for bit, unless f32 was asked for or
    /// the self-test switched the format off.
    fn matrix(&mut self, view: &TensorView<'_>) -> Result<WeightMatrix> {
        let gpu = self.gpu;
        let wanted = match view.dtype {
            Dtype::F32 | Dtype::BF16 => WeightFormat::F32,
            Dtype::F16 => WeightFormat::F16,
            Dtype::Q8 => WeightFormat::Q8,
            Dtype::Q4 => WeightFormat::Q4,
        };
        let keep = self.weights != WeightDtype::F32 && Variant::of(wanted).is_none_or(|variant| gpu.allows(variant));
        let (n, k) = (view.shape[0], view.shape[1]);
        if self.synthetic {
            let mut plan = PlanBuilder::new(gpu);
            let (format, bound) = (if keep { wanted } else { WeightFormat::F32 }, 1.0 / (k.max(1) as f32).sqrt());
            self.done += (n * k) as u64;
            let matrix = fill_matrix(&mut plan, view.name, (n, k), format, bound, self.done as u32)?;
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            plan.finish()?.record(&mut encoder);
            gpu.submit([encoder.finish()]);
            return Ok(matrix);
        }
        let matrix = match wanted.quant() {
            Some(quant) if keep => WeightMatrix::upload_quantised(gpu, view.name, (n, k), quant, |rows| -> Result<_> {
                gpu.check()?;
                Ok(view.quantised_rows(rows)?)
            }),
            _ => {
                let format = if keep { wanted } else { WeightFormat::F32 };
                WeightMatrix::upload(gpu, view.name, (n, k), format, |rows| -> Result<_> {
                    gpu.check()?;
                    Ok(view.rows_to_f32(rows)?)
                })
            }
        }?;
        self.count(view)?;
        Ok(matrix)
    }

    fn layer(&mut self, w: &LayerWeights<'_>) -> Result<Layer> {
        let bias = w.conv1d_bias.as_ref().map(|b| b.to_f32()).transpose()?;
        let channels = pack_channels(&w.conv1d.to_f32()?, bias.as_deref(), &w.dt_proj_bias.to_f32()?, &w.d.to_f32()?);
        Ok(Layer {
            channels: Tensor::new(self.gpu, "channels", &channels)?,
            norm: self.tensor(&w.norm)?,
            in_proj: self.matrix(&w.in_proj)?,
            in_proj_bias: self.bias(&w.in_proj_bias)?,
            conv1d: self.tensor(&w.conv1d)?,
            conv1d_bias: self.bias(&w.conv1d_bias)?,
            x_proj: self.matrix(&w.x_proj)?,
            dt_proj: self.matrix(&w.dt_proj)?,
            dt_proj_bias: self.tensor(&w.dt_proj_bias)?,
            a: self.mapped(&w.a_log, decay_rate)?,
            d: self.tensor(&w.d)?,
            out_proj: self.matrix(&w.out_proj)?,
            out_proj_bias: self.bias(&w.out_proj_bias)?,
        })
    }
}

impl GpuModel {
    /// Uploads the weights, telling `progress` bytes done and in all.
    ///
    /// # Errors
    /// Non-finite weights, matrices whose rows exceed the adapter's limits, a full GPU memory.
    pub async fn load(
        gpu: &Gpu,
        config: &ModelConfig,
        weights: &ModelWeights<'_>,
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        Self::build(gpu, config, weights, options, false, progress).await
    }

    /// The same of weights whose matrices are shapes alone, filled on the device.
    pub(crate) async fn synthetic(
        gpu: &Gpu,
        config: &ModelConfig,
        weights: &ModelWeights<'_>,
        options: ModelOptions,
    ) -> Result<Self> {
        Self::build(gpu, config, weights, options, true, &mut |_, _| {}).await
    }

    async fn build(
        gpu: &Gpu,
        config: &ModelConfig,
        weights: &ModelWeights<'_>,
        options: ModelOptions,
        synthetic: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        if options.chunk == 0 {
            return Err(InputError::ZeroChunk.into());
        }
        let total = weights.total_bytes();
        let mut loader = Loader { gpu, weights: options.weights, synthetic, done: 0, total, progress };
        let model = Self {
            gpu: gpu.clone(),
            config: config.clone(),
            options,
            embedding: loader.matrix(&weights.embedding)?,
            layers: weights.layers.iter().map(|l| loader.layer(l)).collect::<Result<_>>()?,
            norm_f: loader.tensor(&weights.norm_f)?,
            lm_head: weights.lm_head.as_ref().map(|h| loader.matrix(h)).transpose()?,
            beyond_f16: AtomicBool::new(false),
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
            && self.layers.first().is_some_and(|layer| layer.in_proj.format() != WeightFormat::F32);
        match self.options.activations {
            ActivationDtype::Auto if can && pays => NumberFormat::F16,
            ActivationDtype::F16 if can => NumberFormat::F16,
            _ => NumberFormat::F32,
        }
    }

    /// Whether a prompt's activations go through f16 anywhere: held in it, or multiplied by matrices of it.
    fn uses_f16(&self) -> bool {
        let splits = self.gpu.cooperative() && self.gpu.allows(Variant::SplitMatrix);
        splits || self.activations() == NumberFormat::F16 || self.gpu.watches()
    }

    /// Whether the decode step can run in its four kernels a layer, which read rows in whole quads.
    fn fuses_the_step(&self) -> bool {
        let whole_quads = self.config.d_model.is_multiple_of(4) && self.config.d_inner.is_multiple_of(4);
        whole_quads && self.gpu.allows(Variant::FusedStep) && self.gpu.allows(Variant::Matvec)
    }

    /// Columns of x_dbl.
    fn x_dbl_width(&self) -> usize {
        self.config.dt_rank + 2 * self.config.d_state
    }

    /// The prefill's chunk: what was asked for, or as much of it as the activations' widest rows let into one binding.
    fn chunk(&self) -> usize {
        let c = &self.config;
        let widest = (2 * c.d_inner).max(c.d_model).max(self.x_dbl_width());
        let room = (self.gpu.max_binding() / (widest as u64 * 4)) as usize;
        self.options.chunk.min(room.max(1))
    }
}
