//! What the layers see, by the twins.

use super::{CpuSession, Mode};
use crate::explain::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::reference::{channel_stats, embedding, hidden_attention, token_stats, ExplainInput, ScanShape};

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
        let (mut forget, mut energy) = (vec![0.0; l * c.d_inner], vec![0.0; l * c.d_inner]);
        let (mut stats, mut attention) = (vec![0.0; 3 * l], vec![0.0; 2 * l * l]);
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
                channel_stats(&mut forget, &mut energy, &input, &shape);
                token_stats(&mut stats, delta, &forget, &energy, c.d_inner);
                hidden_attention(&mut attention, &input, 0..c.d_inner, &shape);
                let mut layer_explained = LayerExplanation::new(i, &stats, &attention);
                let (xz, d, y, forget, energy) = (&work.xz, &layer.d, &work.y, &forget, &energy);
                let tensors = LayerTensors { u, delta, xz, d, y, forget, energy };
                for &channel in &options.channels {
                    hidden_attention(&mut attention, &input, channel..channel + 1, &shape);
                    layer_explained.push(channel, &attention, &tensors, &shape);
                }
                explained.push(layer_explained);
            }
            progress(i + 1, depth);
        }
        explained
    }
}
