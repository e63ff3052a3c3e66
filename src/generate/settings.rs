//! How to write, as far as somebody says: a caller, or a model's generation_config.json.

use super::{GenerateOptions, SamplingParams};
use serde::Serialize;

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

    /// As options. What is still open is the library's default: greedy, nothing cut off.
    pub fn options(self, seed: u64) -> GenerateOptions {
        let (options, params) = (GenerateOptions::default(), SamplingParams::default());
        GenerateOptions {
            max_tokens: self.max_tokens.unwrap_or(options.max_tokens),
            params: SamplingParams {
                temperature: self.temperature.unwrap_or(params.temperature),
                top_k: self.top_k.unwrap_or(params.top_k),
                top_p: self.top_p.unwrap_or(params.top_p),
                min_p: self.min_p.unwrap_or(params.min_p),
                repetition_penalty: self.repetition_penalty.unwrap_or(params.repetition_penalty),
                seed,
            },
            stop: self.stop.unwrap_or_default(),
            ..options
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_first_wins() {
        let said = GenerationSettings { temperature: Some(0.0), stop: Some(Vec::new()), ..Default::default() };
        let model = GenerationSettings {
            temperature: Some(0.6),
            top_k: Some(20),
            stop: Some(vec!["END".into()]),
            ..Default::default()
        };
        let options = said.or(&model).or(&GenerationSettings::of_the_program()).options(7);
        assert_eq!((options.params.temperature, options.params.top_k, options.params.seed), (0.0, 20, 7));
        assert_eq!((options.params.top_p, options.max_tokens, options.stop.len()), (0.95, 128, 0));
        assert_eq!(GenerationSettings::default().options(0).params, SamplingParams::default());
    }
}
