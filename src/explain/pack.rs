//! An explanation small enough to lie in a page: maps as the lower triangle in f16, base64.

use super::{ChannelExplanation, Explanation, LayerExplanation, Units};
use half::f16;
use serde::{Deserialize, Serialize};

/// An [`Explanation`] for `view.js`, with the text that it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// What the model is called.
    pub source: String,
    /// (L): the text of each token.
    pub pieces: Vec<String>,
    pub n_layer: usize,
    pub layers: Vec<PackedLayer>,
}

/// A [`LayerExplanation`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackedLayer {
    pub layer: usize,
    pub units: Units,
    pub delta: Vec<f32>,
    pub forget: Vec<f32>,
    pub state_norm: Vec<f32>,
    pub attention: PackedMap,
    pub magnitude: PackedMap,
    pub channels: Vec<PackedChannel>,
}

/// A [`ChannelExplanation`] without the recurrence's inputs and output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackedChannel {
    pub channel: usize,
    pub delta: Vec<f32>,
    pub forget: Vec<f32>,
    pub state_norm: Vec<f32>,
    pub attention: PackedMap,
    /// [`ChannelExplanation::reproduction_error`].
    pub reproduction_error: f32,
}

/// A lower triangular map (L, L): each row up to the diagonal, one row after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackedMap {
    /// The largest absolute value, of which the data are shares.
    pub scale: f32,
    /// base64 of f16, little end first. Within 2^-11 of each value, or 2^-25 of the scale.
    pub data: String,
}

impl Packed {
    /// `source`: what the model is called; `pieces` (L): the text of each token.
    pub fn new(explanation: &Explanation, source: &str, pieces: Vec<String>) -> Self {
        let layers = explanation.layers.iter().map(PackedLayer::new).collect();
        Self { source: source.into(), pieces, n_layer: explanation.n_layer, layers }
    }
}

impl PackedLayer {
    fn new(l: &LayerExplanation) -> Self {
        Self {
            layer: l.layer,
            units: l.units,
            delta: l.delta.clone(),
            forget: l.forget.clone(),
            state_norm: l.state_norm.clone(),
            attention: PackedMap::new(&l.attention, l.delta.len()),
            magnitude: PackedMap::new(&l.magnitude, l.delta.len()),
            channels: l.channels.iter().map(PackedChannel::new).collect(),
        }
    }
}

impl PackedChannel {
    fn new(c: &ChannelExplanation) -> Self {
        Self {
            channel: c.channel,
            delta: c.delta.clone(),
            forget: c.forget.clone(),
            state_norm: c.state_norm.clone(),
            attention: PackedMap::new(&c.attention, c.delta.len()),
            reproduction_error: c.reproduction_error(),
        }
    }
}

impl PackedMap {
    fn new(map: &[f32], l: usize) -> Self {
        let triangle = || (0..l).flat_map(|i| &map[i * l..][..i + 1]);
        let scale = triangle().fold(0.0f32, |m, x| m.max(x.abs()));
        let share = |x: f32| if scale > 0.0 { x / scale } else { x };
        let bytes: Vec<u8> = triangle().flat_map(|&x| f16::from_f32(share(x)).to_le_bytes()).collect();
        Self { scale, data: base64::encode(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_come_back() {
        let map = [0.5, 0.0, 0.0, -4.0, 3e-4, 0.0, 1.0, f32::NAN, 2.0];
        let packed = PackedMap::new(&map, 3);
        assert_eq!(packed.scale, 4.0);
        let bytes = base64::decode(&packed.data).unwrap();
        let values: Vec<f32> = bytes.chunks(2).map(|b| 4.0 * f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        assert_eq!([values[0], values[1], values[3], values[5]], [0.5, -4.0, 1.0, 2.0]);
        assert!((values[2] / 3e-4 - 1.0).abs() < 5e-4 && values[4].is_nan());
        assert_eq!(PackedMap::new(&[0.0; 4], 2).scale, 0.0);
        assert_eq!(PackedMap::new(&[], 0).data, "");
    }
}
