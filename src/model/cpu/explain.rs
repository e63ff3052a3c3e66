//! What the layers see, by the twins.

use super::{CpuSession, Mode};
use crate::explain::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::reference::{embedding, ExplainInput, ScanShape};

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
        self.work.grow(l, c);
        embedding(&mut self.work.residual[..l * c.d_model], &weights.embedding, tokens, c.d_model);
        let shape = ScanShape::of_layer(l, c.d_inner, c.d_state, c.dt_rank);
        let conv_states = self.state.conv.chunks_exact_mut(c.d_conv * c.d_inner);
        let ssm_states = self.state.ssm.chunks_exact_mut(c.d_inner * c.d_state);
        let states = conv_states.zip(ssm_states);
        let mut explained = Vec::new();
        let depth = options.depth(c.n_layer);
        for (i, (layer, (conv_state, ssm_state))) in weights.layers.iter().zip(states).enumerate().take(depth) {
            layer.forward(&mut self.work, conv_state, ssm_state, c, l, Mode::Prefill, model.options.scan);
            if options.wants(i) {
                let work = &self.work;
                let rows = l * c.d_inner;
                let (u, delta) = (&work.u[..rows], &work.delta[..rows]);
                let input = ExplainInput { u, delta, a: &layer.a, x_dbl: &work.x_dbl };
                let tensors = LayerTensors { input, xz: &work.xz, d: &layer.d, y: &work.y };
                explained.push(LayerExplanation::by_twins(i, &tensors, options, &shape));
            }
            progress(i + 1, depth);
        }
        explained
    }
}
