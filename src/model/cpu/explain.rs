//! What the layers see, by the twins.

use super::{begin, parts, CpuSession, Mode, Stream, Workspace};
use crate::model::explanation::{ExplainOptions, LayerExplanation};
use crate::model::span::Input;

impl CpuSession {
    /// Reads a text, as one chunk, by the first `depth` of the layers that are here, layer by layer. Also what all of them leave in
    /// the residual stream, (l, d_model), where another part goes on.
    pub(crate) fn explain(
        &mut self,
        input: Input<'_>,
        (options, depth): (&ExplainOptions, usize),
        progress: &mut dyn FnMut(usize, usize),
    ) -> (Vec<LayerExplanation>, Vec<f32>) {
        let model = self.model.clone();
        let (weights, l) = (&*model.weights, input.len());
        let c = &weights.config;
        self.ready = false;
        begin(&model, &mut self.work, input);
        let Workspace { residual, hidden, inside, .. } = &mut self.work;
        let (residual, hidden) = (&mut residual[..l * c.d_model], &mut hidden[..l * c.d_model]);
        let (mode, scan) = (Mode::Prefill, model.options.scan);
        let mut stream = Stream { residual, hidden, l, norm_eps: c.norm_eps, mode, scan };
        let mut explained = Vec::new();
        let states = parts(&mut self.state, &weights.layers);
        for (i, (layer, state)) in weights.layers.iter().zip(states).enumerate().take(depth) {
            layer.forward(inside, &mut stream, &mut [state]);
            if options.wants(i) {
                explained.extend(layer.explain(inside, i, l, options));
            }
            progress(i + 1, depth);
        }
        (explained, model.left(&self.work, l))
    }
}
