//! What was said of a text, as options.

use super::{GenerateOptions, GenerationSettings, SamplingParams};

impl GenerationSettings {
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
