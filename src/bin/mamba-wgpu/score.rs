//! `mamba-wgpu score`: how well the model predicts a text.

use std::path::PathBuf;

use anyhow::anyhow;
use mamba_wgpu::error::InputError;
use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::model::LanguageModel;
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{at_least_one, read_text, tokenizer, up_to_32_bits, BackendArgs, ModelArgs};
use crate::errors::{misuse, tokens_error};
use crate::exit::ExitCode;
use crate::output::{print_json, print_line, Progress};
use crate::placement::backend_name;
use crate::special_tokens::SpecialTokens;
use crate::token_ids::TokenIds;

/// Score a text: bits a byte and nats a token
///
/// A beginning-of-text token comes first, then the file's tokens, each predicted from those before it. The state is
/// reset after each window. Where the tokenizer puts a token before a text itself, that is the one that comes first; a token that it
/// puts after the text is predicted too. Token ids in place of a text need no tokenizer and are taken as they are: the first is not
/// predicted, unless --bos comes before it, and there are no bytes to count bits by.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct Args {
    /// The text, in UTF-8
    #[arg(long, value_name = "FILE", group = "input")]
    text: Option<PathBuf>,
    #[command(flatten)]
    ids: TokenIds,
    /// How many tokens are predicted before the state is reset
    #[arg(long, value_name = "N", default_value = "1024", value_parser = at_least_one)]
    window: usize,
    /// The token before the text, in place of the tokenizer's own [default: the tokenizer's, or the model's beginning-of-text token,
    /// its end-of-text token, or 0; none before token ids]
    #[arg(long, value_name = "ID", allow_negative_numbers = true, value_parser = up_to_32_bits)]
    bos: Option<u32>,
    #[command(flatten)]
    special: SpecialTokens,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Print one JSON object: tokens, nll_per_token, and of a text bytes and bits_per_byte
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let ids = args.ids.read()?;
    let text = args.text.as_ref().map(|path| {
        let name = format!("--text {}", path.display());
        Ok::<_, anyhow::Error>((read_text(&name, path)?, name))
    });
    let text = text.transpose()?;
    if let Some((_, name)) = text.as_ref().filter(|(text, _)| text.is_empty()) {
        return Err(anyhow!("{name}: the file is empty, so there is nothing to score"));
    }
    let checkpoint = args.model.open()?;
    let vocab_size = checkpoint.config().vocab_size;
    args.check_bos(vocab_size)?;
    let (stream, name) = match (&text, ids) {
        (Some((text, name)), _) => (args.stream(&tokenizer(&checkpoint)?, text)?, name.clone()),
        (None, Some((ids, name))) => {
            if let Some(position) = ids.iter().position(|&token| token as usize >= vocab_size) {
                let beyond = InputError::TokenOutOfRange { token: ids[position], position, vocab_size };
                return Err(tokens_error(&name, beyond.into()));
            }
            (args.bos.into_iter().chain(ids).collect(), name)
        }
        (None, None) => return Err(misuse("--text, --tokens or --tokens-file is needed")),
    };
    let Some(tokens) = stream.len().checked_sub(1).filter(|&tokens| tokens > 0) else {
        return Err(match text {
            Some(_) => anyhow!("{name}: the tokenizer makes no tokens of it, so there is nothing to score"),
            None => misuse(format!("{name}: one token and none before it (--bos), so there is nothing to score")),
        });
    };
    let model = args.backend.load(&checkpoint).await?;
    let nll_sum = nll_sum(&model, &stream, args.window).await?;

    let nll_per_token = nll_sum / tokens as f64;
    // Of a text: its bytes, and the bits that each takes.
    let bytes = text.map(|(text, _)| (text.len(), nll_sum / std::f64::consts::LN_2 / text.len() as f64));
    if args.json {
        let mut numbers = json!({ "tokens": tokens, "nll_per_token": nll_per_token });
        if let Some((bytes, bits_per_byte)) = bytes {
            numbers["bytes"] = json!(bytes);
            numbers["bits_per_byte"] = json!(bits_per_byte);
        }
        print_json(&numbers)?;
    } else {
        let of = bytes.map_or(String::new(), |(bytes, _)| format!("{bytes} bytes, "));
        print_line(&format!("{tokens} tokens, {of}on {}", backend_name(&model)))?;
        let bits = bytes.map_or(String::new(), |(_, bits)| format!("{bits:.4} bits a byte, "));
        print_line(&format!("{bits}{nll_per_token:.4} nats a token"))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn check_bos(&self, vocab: usize) -> anyhow::Result<()> {
        match self.bos.filter(|&bos| bos as usize >= vocab) {
            Some(bos) => Err(misuse(format!("--bos {bos}: out of range, the vocabulary has {vocab} entries"))),
            None => Ok(()),
        }
    }

    /// The tokens of the text, each to be predicted from those before it, behind one that is not predicted.
    fn stream(&self, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
        let tokens = self.special.encode(tokenizer, text).map_err(Error::from)?;
        let own = match self.special.wanted() {
            true => tokenizer.tokens_before().len(),
            false => 0,
        };
        Ok(match self.bos {
            None if own > 0 => tokens,
            None => [&[tokenizer.beginning_of_text().unwrap_or(0)], tokens.as_slice()].concat(),
            Some(bos) => [&[bos], &tokens[own..]].concat(),
        })
    }
}

/// Sum of -log p (natural) of each token of `stream` but the first, from a zero state every `window` of them.
async fn nll_sum(model: &LanguageModel, stream: &[u32], window: usize) -> Result<f64, Error> {
    let (inputs, targets) = (&stream[..stream.len() - 1], &stream[1..]);
    let bar = Progress::tokens("scoring");
    let mut progress = |done: usize, _| bar.set(done as u64, inputs.len() as u64);
    let scores = model.session()?.score_windows(inputs, Some(targets), window, &mut progress).await?;
    Ok(scores.nll.iter().map(|&nll| f64::from(nll)).sum())
}
