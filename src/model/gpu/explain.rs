//! What the layers see, by the kernels.

use super::buffers::Workspace;
use super::session::GpuSession;
use crate::error::Result;
use crate::explain::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::gpu::shader::NumberFormat;
use crate::gpu::{PlanBuilder, Tensor};
use crate::kernels::{self, ExplainBuffers, ScanShape};
use std::ops::Range;

impl GpuSession {
    /// Reads a text, of one chunk with its activations in f32, layer by layer.
    ///
    /// # Errors
    /// The device's: also where a map is larger than a binding.
    pub(crate) async fn explain(
        &mut self,
        tokens: &[u32],
        options: &ExplainOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<LayerExplanation>> {
        let model = self.model.clone();
        let (gpu, c, l) = (&model.gpu, &model.config, tokens.len());
        let w = Workspace::new(&model, l, Some(model.scan()), NumberFormat::F32)?;
        let forget = Tensor::zeros(gpu, "forget", l * c.d_inner)?;
        let energy = Tensor::zeros(gpu, "energy", l * c.d_inner)?;
        let stats = Tensor::zeros(gpu, "token stats", l * 3)?;
        let attention = Tensor::zeros(gpu, "hidden attention", 2 * l * l)?;
        gpu.check()?;
        w.tokens.write(gpu, 0, tokens);
        let shape = ScanShape::of_layer(l, c.d_inner, c.d_state, c.dt_rank);
        let mut explained = Vec::new();
        let depth = options.depth(c.n_layer);
        for (i, layer) in model.layers.iter().enumerate().take(depth) {
            let b = ExplainBuffers { u: &w.u, delta: &w.delta, a: &layer.a, x_dbl: &w.x_dbl };
            let mut plan = PlanBuilder::new(gpu);
            if i == 0 {
                kernels::embedding(&mut plan, &model.embedding, &w.tokens, &w.residual, l)?;
            }
            self.layer(&mut plan, &w, i, l, false)?;
            let wanted = options.wants(i);
            if wanted {
                kernels::channel_stats(&mut plan, &b, &forget, &energy, shape)?;
                kernels::token_stats(&mut plan, (&w.delta, &forget, &energy), &stats, (l, c.d_inner))?;
            }
            plan.finish()?.run(gpu).await?;
            if wanted {
                let attend = async |channels: Range<usize>| -> Result<Vec<f32>> {
                    let mut plan = PlanBuilder::new(gpu);
                    kernels::hidden_attention(&mut plan, &b, &attention, channels, shape)?;
                    plan.finish()?.run(gpu).await?;
                    Ok(attention.read(gpu).await?)
                };
                let mut layer_explained =
                    LayerExplanation::new(i, &stats.read::<f32>(gpu).await?, &attend(0..c.d_inner).await?);
                if !options.channels.is_empty() {
                    let read = async |tensor: &Tensor| tensor.read::<f32>(gpu).await;
                    let tensors = LayerTensors {
                        u: &read(&w.u).await?,
                        delta: &read(&w.delta).await?,
                        xz: &read(&w.xz).await?,
                        d: &read(&layer.d).await?,
                        y: &read(&w.y).await?,
                        forget: &read(&forget).await?,
                        energy: &read(&energy).await?,
                    };
                    for &channel in &options.channels {
                        layer_explained.push(channel, &attend(channel..channel + 1).await?, &tensors, &shape);
                    }
                }
                explained.push(layer_explained);
            }
            progress(i + 1, depth);
        }
        Ok(explained)
    }
}
