//! What the layers see, by the kernels.

use super::buffers::Workspace;
use super::session::GpuSession;
use crate::error::Result;
use crate::gpu::shader::NumberFormat;
use crate::gpu::PlanBuilder;
use crate::model::blocks::device::Way;
use crate::model::explanation::{ExplainOptions, LayerExplanation};
use crate::model::span::Input;

impl GpuSession {
    /// Reads a text, of one chunk with its activations in f32, by the first `depth` of the layers that are here, layer by layer. Also
    /// what all of them leave in the residual stream, (l, d_model), where another part goes on.
    ///
    /// # Errors
    /// The device's: also where a map is larger than a binding.
    pub(crate) async fn explain(
        &mut self,
        input: Input<'_>,
        (options, depth): (&ExplainOptions, usize),
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<LayerExplanation>, Vec<f32>)> {
        let (model, l) = (self.model.clone(), input.len());
        self.reserve(l)?;
        let gpu = &model.gpu;
        let w = Workspace::new(&model, l, Some(model.scan()), (NumberFormat::F32, false))?;
        gpu.check()?;
        w.write(gpu, input);
        let mut explained = Vec::new();
        let mut room = None;
        for (i, layer) in model.layers.iter().enumerate().take(depth) {
            let mut plan = PlanBuilder::new(gpu);
            if i == 0 {
                model.begin(&mut plan, &w, l)?;
            }
            model.layer(&mut plan, (&w, &self.memory), i, l, Way::Texts(1))?;
            plan.finish()?.run(gpu).await?;
            if options.wants(i) {
                explained.extend(layer.explain(gpu, &w.inside, &mut room, (i, l), options).await?);
            }
            progress(i + 1, depth);
        }
        if model.end.is_some() || depth < model.layers.len() {
            return Ok((explained, Vec::new()));
        }
        let mut plan = PlanBuilder::new(gpu);
        model.leave(&mut plan, &w, l)?;
        plan.finish()?.run(gpu).await?;
        Ok((explained, w.residual.read::<f32>(gpu).await?))
    }
}
