//! Rotary positions: by how much a token's queries and keys are rotated (transformers' `modeling_rope_utils.py`).

/// The rotation of the first `dims` channels of a head: pair i, channels i and i + dims / 2, by position x frequency i.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// Channels that are rotated, an even number.
    pub dims: usize,
    pub scaling: RopeScaling,
}

/// How frequencies were changed for texts longer than those that a model was trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided.
    Linear {
        factor: f64,
    },
    /// Llama 3.1's: low frequencies are divided, high ones are not, those between in part.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): the same with bounds in rotations, and scores that are multiplied.
    Yarn {
        factor: f64,
        fast: f64,
        slow: f64,
        original: f64,
        attention: f64,
        truncate: bool,
    },
}

impl Rope {
    /// Radians a token, (dims / 2).
    pub fn frequencies(&self) -> Vec<f32> {
        let plain = (0..self.dims / 2).map(|i| self.theta.powf(-2.0 * i as f64 / self.dims as f64));
        let tau = std::f64::consts::TAU;
        let scaled = |(i, frequency): (usize, f64)| match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low, high, original } => {
                let wave = tau / frequency;
                if wave < original / high {
                    frequency
                } else if wave > original / low {
                    frequency / factor
                } else {
                    let kept = (original / wave - low) / (high - low);
                    (1.0 - kept) * frequency / factor + kept * frequency
                }
            }
            RopeScaling::Yarn { factor, fast, slow, original, truncate, .. } => {
                // The channel that makes so many rotations within the original length.
                let channel =
                    |rotations: f64| self.dims as f64 * (original / (rotations * tau)).ln() / (2.0 * self.theta.ln());
                let (low, high) = match truncate {
                    true => (channel(fast).floor(), channel(slow).ceil()),
                    false => (channel(fast), channel(slow)),
                };
                let (low, high) = (low.max(0.0), high.min(self.dims as f64 - 1.0));
                let high = if low == high { high + 0.001 } else { high };
                let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * divided + frequency * (1.0 - divided)
            }
        };
        plain.enumerate().map(|pair| scaled(pair) as f32).collect()
    }

    /// What cosines and sines are multiplied by.
    pub fn factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention, .. } => attention as f32,
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_of_transformers() {
        let rope = |scaling| Rope { theta: 10000.0, dims: 8, scaling }.frequencies();
        let close = |got: Vec<f32>, want: [f32; 4]| {
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-6 * w), "{got:?} {want:?}");
        };
        close(rope(RopeScaling::None), [1.0, 0.1, 0.01, 0.001]);
        close(rope(RopeScaling::Linear { factor: 4.0 }), [0.25, 0.025, 0.0025, 0.00025]);
        // Wavelengths 6.3, 63, 628 and 6283 in texts of 1,000: kept, kept in part, and divided.
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 1000.0 };
        let part = (1000.0 / (std::f32::consts::TAU * 100.0) - 1.0) / 3.0;
        close(rope(llama3), [1.0, 0.1, (1.0 - part) * 0.01 / 8.0 + part * 0.01, 0.001 / 8.0]);
    }
}
