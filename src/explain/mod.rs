//! What the model sees: how far each token opens each layer's gate, what the states forget and hold, and the attention that
//! the selective scan implies (docs/explain.md).
//!
//! Unrolled over time, the scan of one channel is a lower triangular matrix applied to its inputs (Ali, Zimerman, Wolf,
//! "The Hidden Attention of Mamba Models", arXiv 2403.01590, section 3):
//!
//! ```text
//! h_i = exp(delta_i A) h_{i-1} + delta_i B_i u_i
//! y_i = (sum_{j <= i} alpha(i, j) u_j + D u_i) silu(z_i)
//! alpha(i, j) = C_i (prod_{k = j+1 .. i} exp(delta_k A)) delta_j B_j
//! ```
//!
//! [`explain`] computes it on either backend: the kernels `hidden_attention`, `channel_stats` and `token_stats`, or their twins.
//! [`Packed`] is the same, small enough for a page; [`page`] makes that page.

mod pack;
mod page;

use crate::error::{InputError, Result};
use crate::model::{check_tokens, LanguageModel};
use crate::reference::{channel_stats, hidden_attention, silu, token_stats, ExplainInput, ScanShape};
pub use pack::{Packed, PackedChannel, PackedLayer, PackedMap};
pub use page::{is_page, page};
use serde::{Deserialize, Serialize};

/// Numbers of all maps together: of 4 bytes each on the way, and some more as text or a page.
const MAX_NUMBERS: usize = 1 << 29;

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainOptions {
    /// The layers wanted, each once, in any order; `None`: all.
    pub layers: Option<Vec<usize>>,
    /// The channels (below d_inner) that are wanted by themselves too.
    pub channels: Vec<usize>,
    /// The longest text that is taken. A map has the square of its tokens in numbers, and there are two a layer and one a channel:
    /// what would take gigabytes is refused whatever this says.
    pub max_tokens: usize,
}

impl Default for ExplainOptions {
    fn default() -> Self {
        Self { layers: None, channels: Vec::new(), max_tokens: 512 }
    }
}

/// What a model sees in a text of L tokens, read from the zero state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub tokens: Vec<u32>,
    /// Of the model: layers, channels a layer, states a channel.
    pub n_layer: usize,
    pub d_inner: usize,
    pub d_state: usize,
    /// Those asked for, in the model's order.
    pub layers: Vec<LayerExplanation>,
}

/// One layer. Means are over all its channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerExplanation {
    /// Its place in the model, from 0.
    pub layer: usize,
    /// (L): mean step size, how far each token opens the gate.
    pub delta: Vec<f32>,
    /// (L): mean of exp(delta A) over channels and states: what is left of the state before, between 0 and 1.
    pub forget: Vec<f32>,
    /// (L): norm (the root of the sum of squares) of the state (d_inner, d_state) after each token.
    pub state_norm: Vec<f32>,
    /// (L, L), row i, column j: mean of alpha(i, j), zero for j > i. Channels of either sign cancel in it.
    pub attention: Vec<f32>,
    /// (L, L): mean of |alpha(i, j)|: how much passes at all.
    pub magnitude: Vec<f32>,
    /// Those asked for, in the order of [`ExplainOptions::channels`].
    pub channels: Vec<ChannelExplanation>,
}

/// One channel of a layer, with the scan's inputs and output, so that [`ChannelExplanation::reproduced`] can be held against it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelExplanation {
    pub channel: usize,
    /// (L): the step size.
    pub delta: Vec<f32>,
    /// (L): mean of exp(delta A) over the states.
    pub forget: Vec<f32>,
    /// (L): norm of the channel's state (d_state) after each token.
    pub state_norm: Vec<f32>,
    /// (L, L), row i, column j: alpha(i, j), zero for j > i.
    pub attention: Vec<f32>,
    /// (L): the scan's input.
    pub u: Vec<f32>,
    /// (L): what gates the output, before SiLU.
    pub z: Vec<f32>,
    /// The weight of the skip past the state, `D`.
    pub skip: f32,
    /// (L): the scan's own output, gated.
    pub y: Vec<f32>,
}

/// Explains a text; `progress` gets layers done and all that must be read.
///
/// # Errors
/// No tokens, more than [`ExplainOptions::max_tokens`], a token, layer or channel out of range; the device's.
pub async fn explain(
    model: &LanguageModel,
    tokens: &[u32],
    options: &ExplainOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Explanation> {
    let c = model.config();
    check_tokens(tokens, c.vocab_size)?;
    let limit = options.max_tokens.min(options.room(c.n_layer));
    if tokens.len() > limit {
        return Err(InputError::TooManyTokens { tokens: tokens.len(), limit }.into());
    }
    let below = |what, wanted: &[usize], count: usize| match wanted.iter().find(|&&value| value >= count) {
        Some(&value) => Err(InputError::OutOfRange { what, value, count }),
        None => Ok(()),
    };
    below("layer", options.layers.as_deref().unwrap_or_default(), c.n_layer)?;
    below("channel", &options.channels, c.d_inner)?;
    let layers = model.session()?.explain(tokens, options, progress).await?;
    Ok(Explanation { tokens: tokens.to_vec(), n_layer: c.n_layer, d_inner: c.d_inner, d_state: c.d_state, layers })
}

impl ExplainOptions {
    /// The longest text whose maps the memory is asked for, whatever [`max_tokens`](Self::max_tokens) says.
    fn room(&self, n_layer: usize) -> usize {
        let layers = self.layers.as_ref().map_or(n_layer, Vec::len).max(1);
        (MAX_NUMBERS / (layers * (2 + self.channels.len()))).isqrt()
    }
    pub(crate) fn wants(&self, layer: usize) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }
    /// The last layer that has to be computed, and how many those are.
    pub(crate) fn depth(&self, n_layer: usize) -> usize {
        match &self.layers {
            None => n_layer,
            Some(layers) => layers.iter().max().map_or(0, |last| last + 1),
        }
    }
}

impl ChannelExplanation {
    /// (L): the scan's output from the hidden attention alone, (sum_j alpha(i, j) u_j + D u_i) silu(z_i): what must equal `y`.
    pub fn reproduced(&self) -> Vec<f32> {
        let l = self.u.len();
        let output = |i: usize| {
            let row = self.attention[i * l..].iter().zip(&self.u).take(i + 1);
            let sum: f64 = row.map(|(alpha, u)| f64::from(*alpha) * f64::from(*u)).sum();
            let (u, z) = (f64::from(self.u[i]), f64::from(self.z[i]));
            ((sum + f64::from(self.skip) * u) * silu(z)) as f32
        };
        (0..l).map(output).collect()
    }

    /// How far `reproduced` is from `y` at most, as a share of the largest |y|; NaN if any of them is.
    pub fn reproduction_error(&self) -> f32 {
        let largest = |a: f32, b: f32| if a.is_nan() || a > b { a } else { b };
        let most = self.y.iter().fold(0.0, |m, y| largest(y.abs(), m));
        let far = self.reproduced().iter().zip(&self.y).fold(0.0, |m, (a, b)| largest((a - b).abs(), m));
        if far == 0.0 {
            return 0.0;
        }
        far / most
    }
}

/// A layer's tensors on the host.
pub(crate) struct LayerTensors<'a> {
    pub input: ExplainInput<'a, f32>,
    pub xz: &'a [f32], // (L, xz_stride)
    pub d: &'a [f32],  // (d_inner)
    pub y: &'a [f32],  // (L, d_inner)
}

impl LayerExplanation {
    /// From `token_stats`' rows (L, 3) and `hidden_attention`'s pairs (L, L, 2).
    pub(crate) fn new(layer: usize, stats: &[f32], attention: &[f32]) -> Self {
        let column = |i| stats.iter().skip(i).step_by(3).copied().collect();
        let of_pairs = |i| attention.iter().skip(i).step_by(2).copied().collect();
        Self {
            layer,
            delta: column(0),
            forget: column(1),
            state_norm: column(2),
            attention: of_pairs(0),
            magnitude: of_pairs(1),
            channels: Vec::new(),
        }
    }

    /// All of it by the twins.
    pub(crate) fn by_twins(layer: usize, t: &LayerTensors<'_>, options: &ExplainOptions, shape: &ScanShape) -> Self {
        let &ScanShape { l, d_inner, .. } = shape;
        let (mut forget, mut energy) = (vec![0.0; l * d_inner], vec![0.0; l * d_inner]);
        let (mut stats, mut attention) = (vec![0.0; 3 * l], vec![0.0; 2 * l * l]);
        channel_stats(&mut forget, &mut energy, &t.input, shape);
        token_stats(&mut stats, t.input.delta, &forget, &energy, d_inner);
        hidden_attention(&mut attention, &t.input, 0..d_inner, shape);
        let mut explained = Self::new(layer, &stats, &attention);
        for &channel in &options.channels {
            hidden_attention(&mut attention, &t.input, channel..channel + 1, shape);
            explained.push(channel, &attention, t, (&forget, &energy), shape);
        }
        explained
    }

    /// Adds a channel, from `hidden_attention`'s pairs (L, L, 2) of that channel alone and `channel_stats`' results (L, d_inner).
    pub(crate) fn push(
        &mut self,
        channel: usize,
        attention: &[f32],
        t: &LayerTensors<'_>,
        (forget, energy): (&[f32], &[f32]),
        shape: &ScanShape,
    ) {
        let column = |values: &[f32], stride: usize, at: usize| -> Vec<f32> {
            values.iter().skip(at).step_by(stride).take(shape.l).copied().collect()
        };
        let of = |values| column(values, shape.d_inner, channel);
        self.channels.push(ChannelExplanation {
            channel,
            delta: of(t.input.delta),
            forget: of(forget),
            state_norm: of(energy).into_iter().map(f32::sqrt).collect(),
            attention: attention.iter().step_by(2).copied().collect(),
            u: of(t.input.u),
            z: column(t.xz, shape.xz_stride, shape.z_offset + channel),
            skip: t.d[channel],
            y: of(t.y),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tokens, worked out by hand: y_0 = (0.5 * 2 + 1 * 2) silu(0), y_1 = (0.25 * 2 + 3 * 4 + 1 * 4) silu(1).
    fn two_tokens() -> ChannelExplanation {
        let silu_1 = 0.731_058_6;
        ChannelExplanation {
            channel: 0,
            delta: vec![0.1; 2],
            forget: vec![0.9; 2],
            state_norm: vec![1.0; 2],
            attention: vec![0.5, 0.0, 0.25, 3.0],
            u: vec![2.0, 4.0],
            z: vec![0.0, 1.0],
            skip: 1.0,
            y: vec![0.0, 16.5 * silu_1],
        }
    }

    #[test]
    fn the_output_is_reproduced_and_an_error_is_seen() {
        let right = two_tokens();
        assert!(right.reproduction_error() < 1e-6);
        let mut wrong = right.clone();
        wrong.attention[2] = 0.3;
        assert!((wrong.reproduction_error() - 0.1 / 16.5).abs() < 1e-4);
        for spoil in
            [|c: &mut ChannelExplanation| c.attention[2] = f32::NAN, |c: &mut ChannelExplanation| c.y[0] = f32::NAN]
        {
            let mut nan = right.clone();
            spoil(&mut nan);
            assert!(nan.reproduction_error().is_nan());
        }
        let silent = ChannelExplanation { attention: vec![0.0; 4], skip: 0.0, y: vec![0.0; 2], ..right };
        assert_eq!(silent.reproduction_error(), 0.0);
    }

    #[test]
    fn room_is_shared_by_all_maps() {
        let of = |layers, channels| ExplainOptions { layers, channels, max_tokens: usize::MAX };
        assert_eq!(of(None, Vec::new()).room(64), 2048);
        assert_eq!(of(Some(vec![3]), Vec::new()).room(64), 16384);
        assert_eq!(of(Some(vec![3]), vec![0; 6]).room(64), 8192);
        assert!(of(Some(Vec::new()), Vec::new()).room(0) > 0);
    }

    #[test]
    fn depth_is_up_to_the_last_layer_wanted() {
        let of = |layers| ExplainOptions { layers, ..Default::default() };
        assert_eq!(of(None).depth(5), 5);
        assert_eq!(of(Some(vec![3, 1])).depth(5), 4);
        assert!(of(Some(vec![3, 1])).wants(1) && !of(Some(vec![3, 1])).wants(2) && of(None).wants(2));
    }
}
