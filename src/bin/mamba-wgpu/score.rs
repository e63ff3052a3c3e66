//! `mamba-wgpu score`: how well the model predicts a text.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use mamba_wgpu::generate::{GenerateError, Tokenizer};
use mamba_wgpu::model::LanguageModel;
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{at_least_one, backend_name, read_text, tokenizer, BackendArgs, ModelArgs};
use crate::errors::misuse;
use crate::output::{print_json, print_line, Progress};
use crate::special_tokens::SpecialTokens;

/// Score a text: bits a byte and nats a token
///
/// A beginning-of-text token comes first, then the file's tokens, each predicted from those before it. The state is
/// reset after each window. Where the tokenizer puts a token before a text itself, that is the one that comes first; a token that it
/// puts after the text is predicted too.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The text, in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// How many tokens are predicted before the state is reset
    #[arg(long, value_name = "N", default_value = "1024", value_parser = at_least_one)]
    window: usize,
    /// The token before the text, in place of the tokenizer's own [default: the tokenizer's, or the model's beginning-of-text token,
    /// its end-of-text token, or 0]
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    bos: Option<u32>,
    #[command(flatten)]
    special: SpecialTokens,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Print one JSON object: tokens, bytes, nll_per_token, bits_per_byte
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let name = format!("--text {}", args.text.display());
    let text = read_text(&name, &args.text)?;
    if text.is_empty() {
        return Err(anyhow!("{name}: the file is empty, so there is nothing to score"));
    }
    let checkpoint = args.model.open()?;
    let stream = args.stream(&tokenizer(&checkpoint)?, &text)?;
    let Some(tokens) = stream.len().checked_sub(1).filter(|&tokens| tokens > 0) else {
        return Err(anyhow!("{name}: the tokenizer makes no tokens of it, so there is nothing to score"));
    };
    let model = args.backend.load(&checkpoint).await?;
    let nll_sum = nll_sum(&model, &stream, args.window).await?;

    let nll_per_token = nll_sum / tokens as f64;
    let bits_per_byte = nll_sum / std::f64::consts::LN_2 / text.len() as f64;
    if args.json {
        print_json(&json!({
            "tokens": tokens, "bytes": text.len(), "nll_per_token": nll_per_token, "bits_per_byte": bits_per_byte,
        }))?;
    } else {
        print_line(&format!("{tokens} tokens, {} bytes, on {}", text.len(), backend_name(&model)))?;
        print_line(&format!("{bits_per_byte:.4} bits a byte, {nll_per_token:.4} nats a token"))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The tokens of the text, each to be predicted from those before it, behind one that is not predicted.
    fn stream(&self, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
        let encode = || -> Result<Vec<u32>, GenerateError> {
            let tokens = self.special.encode(tokenizer, text)?;
            let own = match self.special.wanted() {
                true => tokenizer.tokens_before().len(),
                false => 0,
            };
            Ok(match self.bos {
                None if own > 0 => tokens,
                None => [&[tokenizer.beginning_of_text().unwrap_or(0)], tokens.as_slice()].concat(),
                Some(bos) => [&[bos], &tokens[own..]].concat(),
            })
        };
        let stream = encode().map_err(Error::from)?;
        let vocab = tokenizer.model_vocab_size();
        match stream.first().filter(|&&bos| bos as usize >= vocab) {
            Some(bos) => Err(misuse(format!("--bos {bos}: out of range, the vocabulary has {vocab} entries"))),
            None => Ok(stream),
        }
    }
}

/// Sum of -log p (natural) of each token of `stream` but the first, from a zero state every `window` of them.
async fn nll_sum(model: &LanguageModel, stream: &[u32], window: usize) -> anyhow::Result<f64> {
    let (inputs, targets) = (&stream[..stream.len() - 1], &stream[1..]);
    let bar = Progress::tokens("scoring");
    let mut session = model.session()?;
    let mut sum = 0.0;
    let mut before = 0;
    for (inputs_of, targets_of) in inputs.chunks(window).zip(targets.chunks(window)) {
        session.reset();
        let mut progress = |done: usize, _| bar.set((before + done) as u64, inputs.len() as u64);
        let scores = session.score(inputs_of, Some(targets_of), &mut progress).await?;
        sum += scores.nll.iter().map(|&nll| f64::from(nll)).sum::<f64>();
        before += inputs_of.len();
    }
    Ok(sum)
}
