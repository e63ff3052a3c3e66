//! What the layers see, by the kernels.

use super::buffers::Workspace;
use super::session::GpuSession;
use super::Layer;
use crate::error::Result;
use crate::explain::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::gpu::shader::NumberFormat;
use crate::gpu::Variant;
use crate::gpu::{Gpu, PlanBuilder, Tensor};
use crate::kernels::{self, ExplainBuffers, ScanShape};
use crate::reference::ExplainInput;

/// What the kernels write.
struct Results {
    forget: Tensor,    // (L, d_inner)
    energy: Tensor,    // (L, d_inner)
    stats: Tensor,     // (L, 3)
    attention: Tensor, // (L, L, 2), zero above the diagonal
}

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
        let w = Workspace::new(&model, l, Some(model.scan()), (NumberFormat::F32, false))?;
        let results = Results {
            forget: Tensor::zeros(gpu, "forget", l * c.d_inner)?,
            energy: Tensor::zeros(gpu, "energy", l * c.d_inner)?,
            stats: Tensor::zeros(gpu, "token stats", l * 3)?,
            attention: Tensor::zeros(gpu, "hidden attention", 2 * l * l)?,
        };
        gpu.check()?;
        w.tokens.write(gpu, 0, tokens);
        let shape = ScanShape::of_layer(l, c.d_inner, c.d_state, c.dt_rank);
        let mut explained = Vec::new();
        let depth = options.depth(c.n_layer);
        for (i, layer) in model.layers.iter().enumerate().take(depth) {
            let mut plan = PlanBuilder::new(gpu);
            if i == 0 {
                kernels::embedding(&mut plan, &model.embedding, &w.tokens, &w.residual, l)?;
            }
            self.layer(&mut plan, &w, i, l, false)?;
            plan.finish()?.run(gpu).await?;
            if options.wants(i) {
                explained.push(explain_layer(gpu, i, layer, &w, &results, options, shape).await?);
            }
            progress(i + 1, depth);
        }
        Ok(explained)
    }
}

/// A layer whose activations are still in the workspace.
async fn explain_layer(
    gpu: &Gpu,
    i: usize,
    layer: &Layer,
    w: &Workspace,
    results: &Results,
    options: &ExplainOptions,
    shape: ScanShape,
) -> Result<LayerExplanation> {
    let by_kernels = gpu.allows(Variant::Explain);
    let read = async |tensor: &Tensor| tensor.read::<f32>(gpu).await;
    // Only one channel's inputs and output, and the twins, need them on the host.
    let on_host = if by_kernels && options.channels.is_empty() {
        None
    } else {
        let activations = [read(&w.u).await?, read(&w.delta).await?, read(&w.x_dbl).await?];
        Some((activations, read(&layer.a).await?, read(&w.xz).await?, read(&layer.d).await?, read(&w.y).await?))
    };
    let tensors = on_host.as_ref().map(|([u, delta, x_dbl], a, xz, d, y)| LayerTensors {
        input: ExplainInput { u, delta, a, x_dbl },
        xz,
        d,
        y,
    });
    if let (Some(tensors), false) = (&tensors, by_kernels) {
        return Ok(LayerExplanation::by_twins(i, tensors, options, &shape));
    }

    let Results { forget, energy, stats, attention } = results;
    let b = ExplainBuffers { u: &w.u, delta: &w.delta, a: &layer.a, x_dbl: &w.x_dbl };
    let mut plan = PlanBuilder::new(gpu);
    kernels::channel_stats(&mut plan, &b, forget, energy, shape)?;
    kernels::token_stats(&mut plan, (&w.delta, forget, energy), stats, (shape.l, shape.d_inner))?;
    kernels::hidden_attention(&mut plan, &b, attention, 0..shape.d_inner, shape)?;
    plan.finish()?.run(gpu).await?;
    let mut explained = LayerExplanation::new(i, &read(stats).await?, &read(attention).await?);
    if let Some(tensors) = tensors {
        let (forget, energy) = (read(forget).await?, read(energy).await?);
        for &channel in &options.channels {
            let mut plan = PlanBuilder::new(gpu);
            kernels::hidden_attention(&mut plan, &b, attention, channel..channel + 1, shape)?;
            plan.finish()?.run(gpu).await?;
            explained.push(channel, &read(attention).await?, &tensors, (&forget, &energy), &shape);
        }
    }
    Ok(explained)
}
