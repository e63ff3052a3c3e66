//! The embedded model's expected values, so that an installed program can check itself (`mamba-wgpu doctor`).

use super::lm::LanguageModel;
use super::{Fingerprint, LoadError};
use crate::error::Result;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    /// Of the model.
    fingerprint: String,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    tokens: Vec<u32>,
    greedy_tokens: Vec<u32>,
    /// `last_logits` holds every `logits_step`-th.
    logits_step: usize,
    last_logits: Vec<f32>,
}

/// Tolerance on a logit, absolute: transformers' own f32 differs by its order of summation.
const TOLERANCE: f32 = 1e-3;

fn golden() -> Result<Golden, LoadError> {
    serde_json::from_str(include_str!("../../models/austen-4m/golden.json"))
        .map_err(|e| LoadError::ConfigSyntax { file: "models/austen-4m/golden.json".into(), reason: e.to_string() })
}

/// Whether the expected values are those of a model with this fingerprint.
pub fn is_of(fingerprint: &Fingerprint) -> bool {
    golden().is_ok_and(|golden| golden.fingerprint == fingerprint.to_string())
}

/// [`check_model`] on the embedded model, brought to a backend.
///
/// # Errors
/// Those of loading and running the model.
#[cfg(feature = "embedded-model")]
pub async fn check(backend: &super::Backend) -> Result<Option<String>> {
    let checkpoint = crate::checkpoint::embedded::checkpoint()?;
    let options = super::ModelOptions::default();
    check_model(&LanguageModel::load(&checkpoint, backend, options, &mut |_, _| {}).await?).await
}

/// Compares the embedded model, already loaded, with transformers' values (PyTorch, CPU, float32): some of the last
/// prompt token's logits, and a greedy continuation of 16 tokens, for each prompt.
///
/// `Ok(None)`: equal. `Ok(Some(_))`: what differs, in words.
///
/// # Errors
/// Those of loading and running the model.
pub async fn check_model(model: &LanguageModel) -> Result<Option<String>> {
    let golden = golden()?;
    for (i, prompt) in golden.prompts.iter().enumerate() {
        let mut session = model.session()?;
        session.prefill(&prompt.tokens, &mut |_, _| {}).await?;
        let logits = session.logits().await?;
        let some = logits.iter().step_by(prompt.logits_step.max(1));
        for (j, (got, want)) in some.zip(&prompt.last_logits).enumerate() {
            let close = (got - want).abs() <= TOLERANCE; // false for NaN
            if !close {
                let token = j * prompt.logits_step;
                return Ok(Some(format!("prompt {i}: the logit of token {token} is {got}, expected {want}")));
            }
        }
        for (j, &want) in prompt.greedy_tokens.iter().enumerate() {
            let got = session.sample().await?;
            if got != want {
                return Ok(Some(format!("prompt {i}: greedy token {j} is {got}, expected {want}")));
            }
            session.step(got).await?;
        }
    }
    Ok(None)
}

#[cfg(all(test, feature = "embedded-model"))]
mod tests {
    #[test]
    fn the_embedded_model_is_the_one_that_is_compared() {
        let fingerprint = crate::checkpoint::embedded::checkpoint().unwrap().fingerprint();
        assert!(super::is_of(&fingerprint), "{fingerprint}");
    }
}
