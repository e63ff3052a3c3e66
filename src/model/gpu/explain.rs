//! What the layers see, by the kernels.

use super::buffers::Workspace;
use super::session::GpuSession;
use crate::error::Result;
use crate::gpu::shader::NumberFormat;
use crate::gpu::PlanBuilder;
use crate::kernels;
use crate::model::blocks::device::Way;
use crate::model::explanation::{ExplainOptions, LayerExplanation};

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
        self.reserve(tokens.len())?;
        let (gpu, l) = (&model.gpu, tokens.len());
        let w = Workspace::new(&model, l, Some(model.scan()), (NumberFormat::F32, false))?;
        gpu.check()?;
        w.tokens.write(gpu, 0, tokens);
        let mut explained = Vec::new();
        let depth = options.depth(model.config.layers.len());
        let mut room = None;
        for (i, layer) in model.layers.iter().enumerate().take(depth) {
            let mut plan = PlanBuilder::new(gpu);
            if i == 0 {
                kernels::embedding(&mut plan, &model.embedding, &w.tokens, &w.residual, l)?;
            }
            model.layer(&mut plan, (&w, &self.memory), i, l, Way::Texts(1))?;
            plan.finish()?.run(gpu).await?;
            if options.wants(i) {
                explained.extend(layer.explain(gpu, &w.inside, &mut room, (i, l), options).await?);
            }
            progress(i + 1, depth);
        }
        Ok(explained)
    }
}
