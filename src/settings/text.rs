//! How a text is written: what tokens are drawn by, and what a caller or a model's files say of it.

use crate::error::{number, GenerateError};
use serde::Serialize;

/// Parameters of sampling, applied in this order: repetition penalty, temperature, top-k, top-p, min-p.
///
/// The default is greedy decoding: the most likely token, the lowest id where several are equal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 takes the most likely token (and ignores `top_k`, `top_p`, `min_p` and `seed`), and
    /// so does anything below 1e-30.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens (and those equal to the last of them); 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens whose probabilities add up to `top_p` (nucleus sampling, Holtzman et al. 2020,
    /// arXiv:1904.09751); 1 keeps all. In (0, 1].
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the most likely one (arXiv:2407.01082); 0 keeps all. In [0, 1].
    pub min_p: f32,
    /// Logits of tokens seen before (prompt or generated) are divided by it when positive, multiplied when negative
    /// (CTRL, arXiv:1909.05858, section 4.1); 1 leaves them alone. In [1e-30, 1e30].
    pub repetition_penalty: f32,
    /// Same seed, same logits: same tokens.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Temperatures below are 0. Far above it already, no logits that differ are both drawn; and devices may take the
/// smallest numbers of f32 for zero.
const COLDEST: f32 = 1e-30;

impl SamplingParams {
    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature < COLDEST
    }

    /// Checks every value; the error names the field and the value.
    ///
    /// # Errors
    /// [`GenerateError::InvalidParameter`] for NaN, infinite, negative or out-of-range values.
    pub fn validate(&self) -> Result<(), GenerateError> {
        // Written so that NaN fails each of them.
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature >= 0.0 && self.temperature.is_finite(),
                "a finite number, 0 (greedy) or more",
            ),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                (1e-30..=1e30).contains(&self.repetition_penalty),
                "between 1e-30 and 1e30 (1 is no penalty)",
            ),
        ];
        for (parameter, value, ok, expected) in checks {
            if !ok {
                return Err(GenerateError::InvalidParameter { parameter, value: number(value), expected });
            }
        }
        Ok(())
    }
}

/// Some of the settings of a text; those that are `None` are left to whoever is asked next.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GenerationSettings {
    pub max_tokens: Option<usize>,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub stop: Option<Vec<String>>,
}

impl GenerationSettings {
    /// What this crate's programs do where neither the user nor the model says otherwise.
    pub fn of_the_program() -> Self {
        Self {
            max_tokens: Some(128),
            temperature: Some(0.8),
            top_k: Some(0),
            top_p: Some(0.95),
            min_p: Some(0.0),
            repetition_penalty: Some(1.0),
            stop: Some(Vec::new()),
        }
    }

    /// These, and `other`'s where these say nothing.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            max_tokens: self.max_tokens.or(other.max_tokens),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            stop: self.stop.or_else(|| other.stop.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid_and_greedy() {
        assert!(SamplingParams::default().is_greedy());
        SamplingParams::default().validate().unwrap();
        let lively = SamplingParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.1,
            seed: u64::MAX,
        };
        assert!(!lively.is_greedy());
        lively.validate().unwrap();
    }

    #[test]
    fn the_edges_of_each_range_are_accepted() {
        let ok = SamplingParams::default();
        for params in [
            SamplingParams { temperature: -0.0, ..ok },
            SamplingParams { temperature: 1e-45, ..ok },
            SamplingParams { temperature: f32::MAX, ..ok },
            SamplingParams { top_p: 1e-45, ..ok },
            SamplingParams { min_p: 1.0, ..ok },
            SamplingParams { top_k: u32::MAX, ..ok },
            SamplingParams { repetition_penalty: 1e-30, ..ok },
            SamplingParams { repetition_penalty: 1e30, ..ok },
        ] {
            params.validate().unwrap();
        }
    }

    #[test]
    fn every_bad_value_is_refused_by_name() {
        let ok = SamplingParams::default();
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.5];
        let refuse = |name: &str, value: f32, params: SamplingParams| {
            let message = params.validate().unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(&number(value)), "{message}");
        };
        for value in bad {
            refuse("temperature", value, SamplingParams { temperature: value, ..ok });
        }
        for value in bad.into_iter().chain([0.0, 1.5]) {
            refuse("top_p", value, SamplingParams { top_p: value, ..ok });
        }
        for value in bad.into_iter().chain([1.5]) {
            refuse("min_p", value, SamplingParams { min_p: value, ..ok });
        }
        for value in bad.into_iter().chain([0.0, 1e-45, 1e31]) {
            refuse("repetition_penalty", value, SamplingParams { repetition_penalty: value, ..ok });
        }
    }
}
