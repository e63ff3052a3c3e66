//! What the layers see, by the twins.

use super::{begin, parts, CpuSession, Mode, Stream, Workspace};
use crate::model::explanation::{ExplainOptions, LayerExplanation};

impl CpuSession {
    /// Reads a text, as one chunk, layer by layer.
    pub(crate) fn explain(
        &mut self,
        tokens: &[u32],
        options: &ExplainOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Vec<LayerExplanation> {
        let model = self.model.clone();
        let (weights, l) = (&*model.weights, tokens.len());
        let c = &weights.config;
        self.ready = false;
        begin(&model, &mut self.work, tokens);
        let Workspace { residual, hidden, inside, .. } = &mut self.work;
        let (residual, hidden) = (&mut residual[..l * c.d_model], &mut hidden[..l * c.d_model]);
        let (mode, scan) = (Mode::Prefill, model.options.scan);
        let mut stream = Stream { residual, hidden, l, norm_eps: c.norm_eps, mode, scan };
        let mut explained = Vec::new();
        let depth = options.depth(c.layers.len());
        let states = parts(&mut self.state, &weights.layers);
        for (i, (layer, state)) in weights.layers.iter().zip(states).enumerate().take(depth) {
            layer.forward(inside, &mut stream, &mut [state]);
            if options.wants(i) {
                explained.extend(layer.explain(inside, i, l, options));
            }
            progress(i + 1, depth);
        }
        explained
    }
}
