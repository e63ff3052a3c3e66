//! The forward pass as dispatches: all layers, one of them, the head, the fused step.

use super::buffers::{Memory, Workspace};
use super::{End, GpuModel};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, RmsNorm};
use crate::model::blocks::device::{Chunk, LayerState, Way};

impl GpuModel {
    /// What the layers begin with: the embeddings of l tokens, or what is in `residual` already.
    pub(super) fn begin(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, l: usize) -> Result<(), GpuError> {
        match &self.embedding {
            Some(embedding) => kernels::embedding(plan, embedding, &w.tokens, &w.residual, l),
            None => Ok(()),
        }
    }

    /// All layers over l tokens, from `tokens` to `residual` and `hidden` (whose sum is the last layer's output); where another part
    /// goes on, that sum is in `residual`.
    pub(super) fn layers(
        &self,
        plan: &mut PlanBuilder<'_>,
        (w, memory): (&Workspace, &Memory),
        l: usize,
        way: Way<'_>,
    ) -> Result<(), GpuError> {
        self.begin(plan, w, l)?;
        (0..self.layers.len()).try_for_each(|i| self.layer(plan, (w, memory), i, l, way))?;
        match self.end {
            Some(_) => Ok(()),
            None => self.leave(plan, w, l),
        }
    }

    /// What the last layer adds to the residual stream, added to it: another part goes on from there.
    pub(super) fn leave(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, l: usize) -> Result<(), GpuError> {
        kernels::scale_add(plan, &w.residual, (None, Some(&w.hidden)), (l, self.config.d_model))
    }

    /// Layer `i` of them, from `residual` and, but for the first, `hidden`.
    pub(super) fn layer(
        &self,
        plan: &mut PlanBuilder<'_>,
        (w, memory): (&Workspace, &Memory),
        i: usize,
        l: usize,
        way: Way<'_>,
    ) -> Result<(), GpuError> {
        let (stream, state) = (w.stream(&self.config), memory.layer(i));
        self.layers[i].forward(plan, &w.inside, &stream, &state, Chunk { l, first: i == 0, way })
    }

    /// The final norm and the head for `rows` tokens from `row0` on; nothing where another part goes on.
    pub(super) fn head(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        (row0, rows): (usize, usize),
        logits: &Tensor,
    ) -> Result<(), GpuError> {
        let (c, Some(end)) = (&self.config, &self.end) else { return Ok(()) };
        let norm = RmsNorm { rows, row0, d: c.d_model, eps: c.norm_eps };
        // Without layers nothing is to be added.
        let hidden = (!c.layers.is_empty()).then_some(&w.hidden);
        kernels::rms_norm(plan, &w.residual, hidden, &end.norm_f, &w.last, norm)?;
        let (x_stride, y_stride) = (c.d_model, c.vocab_size);
        let shape = kernels::Linear { l: rows, x_stride, y_stride, softplus: false };
        kernels::linear(plan, &w.last, &end.head, None, logits, shape)
    }

    /// One token through all layers and the head by the fused step, the residual stream added to in place. `states`: a layer's, of one
    /// text.
    pub(super) fn fused_step(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        states: &dyn Fn(usize) -> LayerState,
        logits: &Tensor,
    ) -> Result<(), GpuError> {
        let c = &self.config;
        self.begin(plan, w, 1)?;
        for (i, layer) in self.layers.iter().enumerate() {
            if let Some(next) = self.layers.get(i + 1) {
                next.fused_read_beside(plan, &w.inside, &w.stream(c), layer)?;
            }
            layer.fused_step(plan, &w.inside, &w.stream(c), &states(i))?;
        }
        match &self.end {
            Some(End { norm_f, head }) => {
                kernels::matvec_norm(plan, &w.residual, (norm_f, c.norm_eps), head, None, logits)
            }
            None => Ok(()),
        }
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use crate::gpu::{Gpu, GpuOptions};
    use crate::model::{Backend, Checkpoint, LanguageModel, ModelOptions};

    /// Of a token's step.
    async fn dispatches(gpu: &Gpu, golden: &str) -> usize {
        let folder = format!("{}/tests/golden/hybrids/{golden}", env!("CARGO_MANIFEST_DIR"));
        let checkpoint = Checkpoint::open(folder.as_ref()).unwrap();
        let backend = Backend::Gpu(gpu.clone());
        let model = LanguageModel::load(&checkpoint, &backend, ModelOptions::default(), &mut |_, _| {}).await.unwrap();
        model.session().unwrap().plan_of(1).unwrap().unwrap().labels().len()
    }

    /// Three for Mamba-2 (four where its norm is over groups), five for attention, two for an MLP, seven for experts with a shared one (nine
    /// where they read fewer columns); the embedding and the head.
    #[test]
    fn hybrids_step_in_few_dispatches() {
        pollster::block_on(async {
            let gpu = Gpu::new(&GpuOptions::default()).await.unwrap();
            let all = [("granite", 28), ("falcon-h1", 24), ("nemotron-h", 22), ("llama", 23), ("qwen3", 16)];
            let all = all.into_iter().chain([("granite-moe", 36), ("nemotron-h-moe", 34)]);
            for (golden, want) in all {
                assert_eq!(dispatches(&gpu, golden).await, want, "{golden}");
            }
        });
    }
}
