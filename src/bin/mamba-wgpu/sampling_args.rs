//! `generate`'s flags of what is drawn and how long. What is not given is what the model's generation_config.json says, or else this
//! program's own.

use mamba_wgpu::generate::{GenerateOptions, GenerationSettings};
use mamba_wgpu::model::GenerationConfig;

use crate::common::{at_least_one, up_to_32_bits};

#[derive(Debug, clap::Args)]
pub struct SamplingArgs {
    /// How many tokens at most [default: 128, or the model's max_new_tokens]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_tokens: Option<usize>,
    /// How adventurous: 0 always takes the most likely token [default: 0.8, or the model's: its temperature, or 0 where do_sample
    /// is false]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among the K most likely tokens; 0 is all [default: 0, or the model's top_k]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = up_to_32_bits)]
    top_k: Option<u32>,
    /// Choose among the most likely tokens that together have this probability; 1 is all [default: 0.95, or the model's top_p]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose among tokens at least this many times as likely as the most likely one; 0 is all [default: 0, or the model's min_p]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Make tokens that were there before less likely; 1 is off [default: 1, or the model's repetition_penalty]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// End the text before this string (may be given several times) [default: the model's stop_strings, if it has any]
    #[arg(long, value_name = "S")]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// What was given.
    fn given(&self) -> GenerationSettings {
        GenerationSettings {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            stop: Some(self.stop.clone()).filter(|stop| !stop.is_empty()),
        }
    }

    /// The options of a text by a model of which this much is stated.
    pub fn options(&self, model: &GenerationConfig, seed: u64) -> GenerateOptions {
        self.given().or(&model.settings).or(&GenerationSettings::of_the_program()).options(seed)
    }

    /// What of the model's generation_config.json is in use, as `key value`: no flag says otherwise.
    pub fn stated_by(&self, model: &GenerationConfig, ignore_eos: bool) -> Vec<String> {
        let given = self.given();
        let in_use = |key: &str| match key {
            "eos_token_id" => !ignore_eos,
            "do_sample" | "temperature" => given.temperature.is_none(),
            "top_k" => given.top_k.is_none(),
            "top_p" => given.top_p.is_none(),
            "min_p" => given.min_p.is_none(),
            "repetition_penalty" => given.repetition_penalty.is_none(),
            "max_new_tokens" => given.max_tokens.is_none(),
            "stop_strings" => given.stop.is_none(),
            _ => false,
        };
        model.stated().iter().filter(|(key, _)| in_use(key)).map(|(key, value)| format!("{key} {value}")).collect()
    }
}
