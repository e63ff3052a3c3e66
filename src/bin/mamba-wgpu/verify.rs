//! `generate --verify`: the begin of a text again on the other backend, token by token.

use anyhow::{bail, Context};
use mamba_wgpu::generate::{GenerateOptions, SamplingParams, Tokenizer};
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::{ActivationDtype, Backend, Checkpoint, LanguageModel, ModelOptions, SavedState};
use mamba_wgpu::reference::{sample_at, uniform};
use mamba_wgpu::Error;

use crate::common::{at_least_one, load_on};
use crate::placement::{backend_name, gpus};

/// What rounding may move a draw by, as a share of all probability, and the largest logits apart.
const ROUNDING: (f64, f64) = (2e-5, 1e-3);

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Afterwards write the first N tokens again on the other backend (the CPU, or the best GPU, one in software if there is no
    /// other), and say whether both agree and how fast each was; exit code 1 if they do not
    #[arg(long = "verify", value_name = "N", value_parser = at_least_one)]
    pub count: Option<usize>,
    /// Spoil this kernel's arithmetic by one per cent on the other backend, to see that it is found
    #[arg(long, value_name = "KERNEL", hide = true, requires = "count")]
    fault: Option<String>,
}

impl VerifyArgs {
    /// Brings the checkpoint to the backend that `model` is not on.
    pub async fn load(
        &self,
        model: &LanguageModel,
        checkpoint: &Checkpoint,
        mut options: ModelOptions,
    ) -> anyhow::Result<LanguageModel> {
        let other = match gpus(model)[..] {
            [_, ..] => Backend::Cpu,
            [] => {
                let gpu = GpuOptions { fault: self.fault.clone(), ..GpuOptions::default() };
                // The CPU computes in f32: a prompt read in f16 could part from it where two tokens are about as likely.
                options.activations = ActivationDtype::F32;
                Backend::Gpu(Gpu::new(&gpu).await.map_err(Error::from).context("--verify")?)
            }
        };
        load_on(checkpoint, &other, options).await
    }
}

/// What a text was begun with.
pub struct Start<'a> {
    pub saved: Option<&'a SavedState>,
    pub prompt: &'a [u32],
    pub options: &'a GenerateOptions,
}

/// What one backend wrote then.
pub struct Side<'a> {
    pub model: &'a LanguageModel,
    pub tokens: &'a [u32],
    /// Tokens a second.
    pub rate: Option<f64>,
}

/// Two texts, token by token: what the first backend wrote, and what the second one writes again.
pub struct Comparison<'a> {
    first: Side<'a>,
    start: &'a Start<'a>,
    /// Tokens compared, and whether that is all.
    done: usize,
    ended: bool,
    /// The second backend, and its speed from the begin.
    second: Option<String>,
    ties: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub fn new(first: Side<'a>, start: &'a Start<'a>) -> Self {
        let count = first.tokens.len().min(start.options.max_tokens);
        let first = Side { tokens: &first.tokens[..count], ..first };
        Self { first, start, done: 0, ended: false, second: None, ties: Vec::new() }
    }

    /// After which tokens the second backend is to write the rest; `None` where all is compared.
    pub fn after(&self) -> Option<&'a [u32]> {
        (!self.ended).then(|| &self.first.tokens[..self.done])
    }

    /// What it wrote.
    ///
    /// # Errors
    /// A token is another, and that is more than rounding.
    pub async fn add(&mut self, second: &Side<'_>, tokenizer: &Tokenizer) -> anyhow::Result<()> {
        let first = &self.first;
        self.second.get_or_insert_with(|| second.speed());
        let left = self.start.options.max_tokens - self.done;
        let Some(at) = difference(left, &first.tokens[self.done..], second.tokens) else {
            (self.done, self.ended) = (first.tokens.len(), true);
            return Ok(());
        };
        let (a, b) = (first.tokens.get(self.done + at), second.tokens.get(at));
        let written = &first.tokens[..self.done + at];
        let word = |token: Option<&u32>, side: &Side<'_>| match token.map(|&token| tokenizer.decode(&[token])) {
            Some(text) => format!("{:?} on {}", text.unwrap_or_default(), backend_name(side.model)),
            None => format!("the end of the text on {}", backend_name(side.model)),
        };
        let words = format!("token {} is {}, {}", written.len() + 1, word(a, first), word(b, second));
        let (cpu, gpus) = if gpus(first.model).is_empty() { (first.model, b) } else { (second.model, a) };
        let ends = self.start.options.eos.as_deref().unwrap_or(tokenizer.end_of_text());
        let drawn = gpus.map_or(ends, std::slice::from_ref);
        if !self.start.rounds_to(cpu, written, drawn).await? {
            bail!("--verify: the backends disagree: {words}, more than rounding explains (`mamba-wgpu doctor` checks every kernel)");
        }
        self.done += at + 1;
        self.ended = self.done >= first.tokens.len();
        self.ties.push(words);
        Ok(())
    }

    /// What to say where all is compared.
    pub fn in_words(&self) -> String {
        let count = self.first.tokens.len();
        let tokens = if count == 1 { "token is".to_owned() } else { format!("{count} tokens are") };
        let second = self.second.as_deref().unwrap_or_default();
        let same = format!("verified: the first {tokens} the same on {} and on {second}", self.first.speed());
        match self.ties.is_empty() {
            true => same,
            false => format!("{same}, but for rounding: {}", self.ties.join("; ")),
        }
    }
}

impl Side<'_> {
    fn speed(&self) -> String {
        let rate = self.rate.map_or_else(String::new, |rate| format!(" at {rate:.1} tokens/s"));
        format!("{}{rate}", backend_name(self.model))
    }
}

/// The place of the first of `count` tokens that two texts do not share.
fn difference(count: usize, a: &[u32], b: &[u32]) -> Option<usize> {
    (0..count.min(a.len().max(b.len()))).find(|&i| a.get(i) != b.get(i))
}

impl Start<'_> {
    /// Whether a draw after `written` that is a little off may give one of `tokens`, by the CPU's logits.
    async fn rounds_to(&self, cpu: &LanguageModel, written: &[u32], tokens: &[u32]) -> anyhow::Result<bool> {
        let mut session = cpu.session()?;
        let (mut text, mut feed) = (Vec::new(), Vec::new());
        if let Some(saved) = self.saved {
            session.set_state(&saved.state)?;
            text.extend(&saved.tokens);
            feed.extend(saved.pending());
        }
        for list in [&mut text, &mut feed] {
            list.extend(self.prompt);
            list.extend(written);
        }
        session.prefill(&feed, &mut |_, _| {}).await?;
        let logits: Vec<f64> = session.logits().await?.into_iter().map(f64::from).collect();
        let params = &self.options.params;
        Ok(tokens.iter().any(|&token| within_rounding(&logits, &text, params, token)))
    }
}

/// Whether `token` is drawn after `text` if the random number, or the token's logit, is a little off.
fn within_rounding(logits: &[f64], text: &[u32], params: &SamplingParams, token: u32) -> bool {
    let mut seen = vec![0u32; logits.len().div_ceil(32)];
    for &token in text {
        seen[token as usize / 32] |= 1 << (token % 32);
    }
    if params.is_greedy() {
        let mut logits = logits.to_vec();
        logits[token as usize] += ROUNDING.1;
        return sample_at(&logits, &seen, params, 0.0) == Some(token);
    }
    let r = f64::from(uniform(params.seed, text.len() as u32));
    let draw = |step: i32| sample_at(logits, &seen, params, (r + ROUNDING.0 * f64::from(step) / 50.0).clamp(0.0, 1.0));
    (-50..=50).any(|step| draw(step) == Some(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_that_differs_is_found() {
        assert_eq!(difference(3, &[8, 3, 2, 7], &[8, 3, 2]), None, "there were to be three");
        assert_eq!(difference(9, &[8], &[8]), None);
        assert_eq!(difference(3, &[8, 3, 2], &[8, 4, 2]), Some(1));
        assert_eq!(difference(3, &[8, 3, 2], &[8, 3]), Some(2), "one ends");
        assert_eq!(difference(3, &[], &[8]), Some(0));
    }

    /// Two tokens, the border between which lies so far above the random number.
    #[test]
    fn a_tie_is_told_from_a_difference() {
        let text = [1, 0, 1];
        let params = SamplingParams { temperature: 1.0, seed: 5, ..SamplingParams::default() };
        let r = f64::from(uniform(5, 3));
        for (above, tie) in [(1e-5, true), (-1e-5, true), (2e-4, false), (-2e-4, false)] {
            let first: f64 = r + above;
            let logits = [first.ln(), (1.0 - first).ln()];
            let drawn = u32::from(above < 0.0);
            assert!(within_rounding(&logits, &text, &params, drawn), "{above}");
            assert_eq!(within_rounding(&logits, &text, &params, 1 - drawn), tie, "{above}");
        }
        let greedy = SamplingParams::default();
        assert!(within_rounding(&[1.0, 0.9995, 0.0], &text, &greedy, 1));
        assert!(!within_rounding(&[1.0, 0.99, 0.0], &text, &greedy, 1));
        // What the penalty makes of a token that was there counts.
        let penalty = SamplingParams { repetition_penalty: 2.0, ..greedy };
        assert!(within_rounding(&[1.0, 0.9995, 0.4], &[0, 0], &penalty, 1));
        assert!(!within_rounding(&[1.0, 0.9995, 0.4], &[0, 0], &penalty, 0));
    }
}
