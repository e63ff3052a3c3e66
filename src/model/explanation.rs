//! What an explanation of a text says of its layers; [`crate::explain`] makes and shows it.

use crate::reference::{channel_stats, hidden_attention, silu, token_stats, ExplainInput, ExplainShape};
use serde::{Deserialize, Serialize};

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainOptions {
    /// The layers wanted, each once, in any order; `None`: all.
    pub layers: Option<Vec<usize>>,
    /// The channels, in Mamba-2 the heads, that are wanted by themselves too: below [`Units::count`] of each layer wanted.
    pub channels: Vec<usize>,
    /// The longest text that is taken. A map has the square of its tokens in numbers, and there are two a layer and one a channel.
    pub max_tokens: usize,
}

impl Default for ExplainOptions {
    fn default() -> Self {
        Self { layers: None, channels: Vec::new(), max_tokens: 512 }
    }
}

/// What a layer is explained by: what has a delta, and a hidden attention, of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    pub kind: Unit,
    pub count: usize,
    /// Channels of each: 1, or a head's head_dim.
    pub width: usize,
    /// States of a channel.
    pub d_state: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Of Mamba-1.
    Channel,
    /// Of Mamba-2: all of its channels share one attention.
    Head,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Channel => "channel",
            Unit::Head => "head",
        }
    }

    /// In the plural; "channels or heads" where there are both.
    pub fn of_layers(layers: &[LayerExplanation]) -> String {
        let there = |unit: &Unit| layers.iter().any(|layer| layer.units.kind == *unit);
        let names: Vec<_> = [Unit::Channel, Unit::Head]
            .iter()
            .filter(|unit| there(unit))
            .map(|unit| format!("{}s", unit.name()))
            .collect();
        names.join(" or ")
    }
}

impl From<&ExplainShape> for Units {
    fn from(s: &ExplainShape) -> Self {
        let kind = if s.heads { Unit::Head } else { Unit::Channel };
        Self { kind, count: s.units, width: s.width, d_state: s.d_state }
    }
}

/// One layer. Means are over all its channels or heads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerExplanation {
    /// Its place in the model, from 0.
    pub layer: usize,
    pub units: Units,
    /// (L): mean step size, how far each token opens the gate.
    pub delta: Vec<f32>,
    /// (L): mean of exp(delta A) over units and states: what is left of the state before, between 0 and 1.
    pub forget: Vec<f32>,
    /// (L): norm (the root of the sum of squares) of the layer's state after each token.
    pub state_norm: Vec<f32>,
    /// (L, L), row i, column j: mean of alpha(i, j), zero for j > i. Units of either sign cancel in it.
    pub attention: Vec<f32>,
    /// (L, L): mean of |alpha(i, j)|: how much passes at all.
    pub magnitude: Vec<f32>,
    /// Those asked for, in the order of [`ExplainOptions::channels`].
    pub channels: Vec<ChannelExplanation>,
}

/// One channel or head of a layer, with the recurrence's inputs and output, so that [`ChannelExplanation::reproduced`] can be held
/// against it. A head has `width` channels that share all but these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelExplanation {
    /// Its place among the layer's channels or heads.
    pub channel: usize,
    /// (L): the step size.
    pub delta: Vec<f32>,
    /// (L): mean of exp(delta A) over the states.
    pub forget: Vec<f32>,
    /// (L): norm of the channel's state (d_state), or of the head's (width, d_state), after each token.
    pub state_norm: Vec<f32>,
    /// (L, L), row i, column j: alpha(i, j), zero for j > i.
    pub attention: Vec<f32>,
    /// (L, width): the recurrence's input.
    pub u: Vec<f32>,
    /// (L, width): what gates the output, before SiLU. Empty in Mamba-2, whose gate comes after `y`.
    pub z: Vec<f32>,
    pub skip: Skip,
    /// (L, width): the recurrence's own output, in Mamba-1 gated.
    pub y: Vec<f32>,
}

/// The weight of the skip past the state, `D`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Skip {
    One(f32),
    /// (width): one for each of a head's channels.
    Each(Vec<f32>),
}

impl Skip {
    fn of(&self, p: usize) -> f32 {
        match self {
            Skip::One(d) => *d,
            Skip::Each(all) => all[p],
        }
    }
}

impl ExplainOptions {
    pub(crate) fn wants(&self, layer: usize) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }
    /// The same of some of the layers, counted from the first of them.
    pub(crate) fn of(&self, layers: &std::ops::Range<usize>) -> Self {
        let of_all = |layer: &usize| layers.contains(layer).then(|| layer - layers.start);
        let layers = self.layers.as_ref().map(|all| all.iter().filter_map(of_all).collect());
        Self { layers, ..self.clone() }
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
    /// (L, width): the recurrence's output from the hidden attention alone, sum_j alpha(i, j) u_j + D u_i, and where there is a gate
    /// times silu(z_i): what must equal `y`.
    pub fn reproduced(&self) -> Vec<f32> {
        let l = self.delta.len();
        let width = self.u.len() / l.max(1);
        let output = |at: usize| {
            let (i, p) = (at / width, at % width);
            let row = self.attention[i * l..].iter().zip(self.u[p..].iter().step_by(width)).take(i + 1);
            let sum: f64 = row.map(|(alpha, u)| f64::from(*alpha) * f64::from(*u)).sum();
            let gate = self.z.get(at).map_or(1.0, |z| silu(f64::from(*z)));
            ((sum + f64::from(self.skip.of(p)) * f64::from(self.u[at])) * gate) as f32
        };
        (0..self.u.len()).map(output).collect()
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
    /// What gates y, where that is gated: rows, their stride and the column where z begins.
    pub gate: Option<(&'a [f32], usize, usize)>,
    pub d: &'a [f32], // (units) or (units, width)
    pub y: &'a [f32], // (L, units, width)
}

impl LayerExplanation {
    /// From `token_stats`' rows (L, 3) and `hidden_attention`'s pairs (L, L, 2).
    pub(crate) fn new(layer: usize, stats: &[f32], attention: &[f32], shape: &ExplainShape) -> Self {
        let column = |i| stats.iter().skip(i).step_by(3).copied().collect();
        let of_pairs = |i| attention.iter().skip(i).step_by(2).copied().collect();
        Self {
            layer,
            units: shape.into(),
            delta: column(0),
            forget: column(1),
            state_norm: column(2),
            attention: of_pairs(0),
            magnitude: of_pairs(1),
            channels: Vec::new(),
        }
    }

    /// All of it by the twins.
    pub(crate) fn by_twins(layer: usize, t: &LayerTensors<'_>, options: &ExplainOptions, shape: &ExplainShape) -> Self {
        let &ExplainShape { l, units, .. } = shape;
        let (mut forget, mut energy) = (vec![0.0; l * units], vec![0.0; l * shape.channels()]);
        let (mut stats, mut attention) = (vec![0.0; 3 * l], vec![0.0; 2 * l * l]);
        channel_stats(&mut forget, &mut energy, &t.input, shape);
        token_stats(&mut stats, t.input.delta, &forget, &energy, shape);
        hidden_attention(&mut attention, &t.input, 0..units, shape);
        let mut explained = Self::new(layer, &stats, &attention, shape);
        for &unit in &options.channels {
            hidden_attention(&mut attention, &t.input, unit..unit + 1, shape);
            explained.push(unit, &attention, t, (&forget, &energy), shape);
        }
        explained
    }

    /// Adds a unit, from `hidden_attention`'s pairs (L, L, 2) of it alone and `channel_stats`' results, forget (L, units) and energy
    /// (L, units, width).
    pub(crate) fn push(
        &mut self,
        unit: usize,
        attention: &[f32],
        t: &LayerTensors<'_>,
        (forget, energy): (&[f32], &[f32]),
        shape: &ExplainShape,
    ) {
        let &ExplainShape { l, units, width, .. } = shape;
        let first = unit * width;
        // n neighbouring columns of rows that are `stride` apart.
        let columns = |values: &[f32], stride: usize, at: usize, n: usize| -> Vec<f32> {
            (0..l).flat_map(|t| &values[t * stride + at..][..n]).copied().collect()
        };
        let energy = columns(energy, shape.channels(), first, width);
        self.channels.push(ChannelExplanation {
            channel: unit,
            delta: columns(t.input.delta, units, unit, 1),
            forget: columns(forget, units, unit, 1),
            state_norm: energy.chunks_exact(width).map(|of| of.iter().sum::<f32>().sqrt()).collect(),
            attention: attention.iter().step_by(2).copied().collect(),
            u: columns(t.input.u, shape.u_stride, shape.u_offset + first, width),
            z: t.gate.map_or(Vec::new(), |(z, stride, offset)| columns(z, stride, offset + first, width)),
            skip: match t.d.len() == units {
                true => Skip::One(t.d[unit]),
                false => Skip::Each(t.d[first..first + width].to_vec()),
            },
            y: columns(t.y, shape.channels(), first, width),
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
            skip: Skip::One(1.0),
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
        let silent = ChannelExplanation { attention: vec![0.0; 4], skip: Skip::One(0.0), y: vec![0.0; 2], ..right };
        assert_eq!(silent.reproduction_error(), 0.0);
    }

    /// Two channels of a head, with a D each: y = alpha u + D u, no gate.
    #[test]
    fn a_heads_channels_share_its_attention() {
        let right = ChannelExplanation {
            u: vec![2.0, 1.0, 4.0, -1.0],
            z: vec![],
            skip: Skip::Each(vec![1.0, 2.0]),
            y: vec![3.0, 2.5, 16.5, -4.75],
            ..two_tokens()
        };
        assert_eq!(right.reproduced(), right.y);
        let one = ChannelExplanation { skip: Skip::One(1.0), ..right.clone() };
        assert_eq!(one.reproduced(), [3.0, 1.5, 16.5, -3.75]);
        assert!((one.reproduction_error() - 1.0 / 16.5).abs() < 1e-6);
        let as_json = |of: &ChannelExplanation| serde_json::to_value(of).unwrap()["skip"].clone();
        assert_eq!((as_json(&right), as_json(&one)), (serde_json::json!([1.0, 2.0]), serde_json::json!(1.0)));
        assert_eq!(serde_json::from_str::<Skip>("[1.0, 2.0]").unwrap(), right.skip);
    }

    #[test]
    fn depth_is_up_to_the_last_layer_wanted() {
        let of = |layers| ExplainOptions { layers, ..Default::default() };
        assert_eq!(of(None).depth(5), 5);
        assert_eq!(of(Some(vec![3, 1])).depth(5), 4);
        assert!(of(Some(vec![3, 1])).wants(1) && !of(Some(vec![3, 1])).wants(2) && of(None).wants(2));
    }
}
