//! The tab that shows what the model sees in a text: which layer, which map, which pair of tokens.

use std::sync::Arc;

use mamba_wgpu::explain::{Explanation, LayerExplanation, Unit};

/// Tokens explained at most: a map has the square of them.
pub const MOST: usize = 384;

/// What the worker found.
#[derive(Debug, PartialEq)]
pub struct Explained {
    /// (L): the text of each token.
    pub pieces: Vec<String>,
    pub explanation: Explanation,
    /// Tokens of the text beyond [`MOST`].
    pub left_out: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Map {
    /// mean |alpha(i, j)| over channels or heads.
    #[default]
    Magnitude,
    /// Mean alpha(i, j), of either sign.
    Attention,
}

impl Map {
    pub const ALL: [Map; 2] = [Map::Magnitude, Map::Attention];
    /// Of a layer with such units.
    pub fn name(self, unit: Unit) -> &'static str {
        match (self, unit) {
            (Map::Magnitude, Unit::Channel) => "mean size over channels",
            (Map::Attention, Unit::Channel) => "mean over channels",
            (Map::Magnitude, Unit::Head) => "mean size over heads",
            (Map::Attention, Unit::Head) => "mean over heads",
        }
    }
}

/// What colours the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tint {
    #[default]
    Delta,
    Forget,
    StateNorm,
    /// The row of the chosen token.
    Reads,
}

impl Tint {
    pub const ALL: [Tint; 4] = [Tint::Delta, Tint::Forget, Tint::StateNorm, Tint::Reads];
    pub fn name(self) -> &'static str {
        match self {
            Tint::Delta => "delta: how far a token opens the gate",
            Tint::Forget => "exp(delta A): what it leaves of the state",
            Tint::StateNorm => "|h|: size of the state after it",
            Tint::Reads => "what the chosen token reads",
        }
    }
}

#[derive(Default)]
pub struct ExplainState {
    /// Layers done and in all, while it is computed.
    pub progress: Option<(usize, usize)>,
    pub shown: Option<Arc<Explained>>,
    /// Counts what was shown, so that pictures of it can be kept.
    pub version: u64,
    /// Its place among the layers.
    pub layer: usize,
    pub map: Map,
    pub tint: Tint,
    /// Token i reads token j; the pair that stays when the pointer leaves.
    pub pinned: (usize, usize),
}

impl ExplainState {
    pub(super) fn show(&mut self, explained: Arc<Explained>) {
        let last = explained.pieces.len().saturating_sub(1);
        self.pinned = (last, last.saturating_sub(1));
        self.layer = self.layer.min(explained.explanation.layers.len().saturating_sub(1));
        self.shown = Some(explained);
        self.version += 1;
        self.progress = None;
    }

    /// A pair that can be: what comes after the reading token cannot be read.
    pub fn pair(&self, i: usize, j: usize) -> (usize, usize) {
        let last = self.shown.as_ref().map_or(0, |shown| shown.pieces.len().saturating_sub(1));
        let i = i.min(last);
        (i, j.min(i))
    }

    /// The pair a step further, for the arrow keys.
    pub fn step(&mut self, down: isize, right: isize) {
        let (i, j) = self.pinned;
        self.pinned = self.pair(i.saturating_add_signed(down), j.saturating_add_signed(right));
    }

    /// (L, L)
    pub fn map_of<'a>(&self, layer: &'a LayerExplanation) -> &'a [f32] {
        match self.map {
            Map::Magnitude => &layer.magnitude,
            Map::Attention => &layer.attention,
        }
    }

    /// Each token's share of the strongest colour, from 0 to 1; `i` is the chosen token.
    pub fn tints(&self, layer: &LayerExplanation, i: usize) -> Vec<f32> {
        let l = layer.delta.len();
        let values = match self.tint {
            Tint::Delta => &layer.delta[..],
            Tint::Forget => &layer.forget,
            Tint::StateNorm => &layer.state_norm,
            Tint::Reads => self.map_of(layer).get(i * l..(i + 1) * l).unwrap_or(&[]),
        };
        let (least, most) = values.iter().fold((f32::INFINITY, 0f32), |(a, b), x| (a.min(x.abs()), b.max(x.abs())));
        // The root, so that small values are seen beside a few large ones.
        let share = |x: &f32| if most > least { ((x.abs() - least) / (most - least)).max(0.0).sqrt() } else { 0.0 };
        values.iter().map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mamba_wgpu::explain::Units;

    fn explained() -> Arc<Explained> {
        let layer = |layer| LayerExplanation {
            layer,
            units: Units { kind: Unit::Head, count: 4, width: 8, d_state: 2 },
            delta: vec![1.0, 5.0, 2.0],
            forget: vec![0.5; 3],
            state_norm: vec![1.0, 2.0, 3.0],
            attention: vec![1.0, 0.0, 0.0, -2.0, 1.0, 0.0, 4.0, 0.0, 1.0],
            magnitude: vec![1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 4.0, 0.0, 1.0],
            channels: vec![],
        };
        let explanation = Explanation { tokens: vec![1, 2, 3], n_layer: 2, layers: vec![layer(0), layer(1)] };
        Arc::new(Explained { pieces: vec!["a".into(), "b".into(), "c".into()], explanation, left_out: 0 })
    }

    #[test]
    fn pairs_stay_below_the_diagonal() {
        let mut state = ExplainState { layer: 9, ..ExplainState::default() };
        state.show(explained());
        assert_eq!((state.layer, state.pinned), (1, (2, 1)));
        state.step(0, 5);
        assert_eq!(state.pinned, (2, 2));
        state.step(-1, 0);
        assert_eq!(state.pinned, (1, 1), "the column goes along");
        state.step(-9, -9);
        assert_eq!(state.pinned, (0, 0));
        assert_eq!(state.pair(7, 7), (2, 2));
    }

    #[test]
    fn colours_reach_from_the_least_to_the_most() {
        let mut state = ExplainState::default();
        state.show(explained());
        let layer = explained().explanation.layers[0].clone();
        assert_eq!(state.tints(&layer, 0), [0.0, 1.0, 0.5]);
        state.tint = Tint::Reads;
        assert_eq!(state.tints(&layer, 2), [1.0, 0.0, 0.5]);
        state.tint = Tint::Forget;
        assert_eq!(state.tints(&layer, 0), [0.0; 3], "all the same: none stands out");
    }
}
