//! `mamba-wgpu logits`: the raw numbers of a forward pass, for comparison with other implementations.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::Error;

use crate::common::{backend_name, read_text, tokenizer, without_bom, BackendArgs, ModelArgs};
use crate::errors::{misuse, tokens_error};
use crate::output::{print_json, print_line, Progress};
use crate::special_tokens::SpecialTokens;

/// Run tokens, or a text, through the model and print what it predicts after the last token; with --json after each
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct Args {
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", group = "input")]
    tokens: Option<String>,
    /// File of token ids: a JSON array, or numbers separated by commas or white space
    #[arg(long, value_name = "FILE", group = "input")]
    tokens_file: Option<PathBuf>,
    /// A text, which the model's tokenizer turns into tokens
    #[arg(long, value_name = "TEXT", group = "input")]
    text: Option<String>,
    #[command(flatten)]
    special: SpecialTokens,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Print one JSON object: tokens, argmax (the likeliest next token after each), last_logits (of the whole vocabulary, after the
    /// last), nll_sum (of -log p of each token but the first, natural logarithm)
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. (A `serde_json::Value` would make f64 of each f32, with twice the digits.)
#[derive(serde::Serialize)]
struct Numbers {
    tokens: Vec<u32>,
    argmax: Vec<u32>,
    last_logits: Vec<f32>,
    nll_sum: f64,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let given = match (&args.tokens, &args.tokens_file) {
        (Some(text), _) => Some(("--tokens".to_owned(), text.clone())),
        (None, Some(path)) => {
            let name = format!("--tokens-file {}", path.display());
            let text = read_text(&name, path)?;
            Some((name, text))
        }
        (None, None) => None,
    };
    // What is no list is refused before the model is opened.
    let given = given.map(|(name, text)| Ok::<_, anyhow::Error>((parse_tokens(&text, &name)?, name))).transpose()?;
    let checkpoint = args.model.open()?;
    let (tokens, name) = match (given, &args.text) {
        (Some(given), _) => given,
        (None, Some(text)) => (
            args.special.encode(&tokenizer(&checkpoint)?, without_bom(text)).map_err(Error::from)?,
            "--text".to_owned(),
        ),
        (None, None) => return Err(misuse("--tokens, --tokens-file or --text is needed")),
    };
    if tokens.is_empty() {
        return Err(misuse("--text: the tokenizer makes no tokens of it: the model needs at least one"));
    }
    let model = args.backend.load(&checkpoint).await?;
    let mut session = model.session()?;
    // The score takes a target for each token; the last one has none, so its number is left out again.
    let targets: Vec<u32> = tokens[1..].iter().copied().chain([0]).collect();
    let bar = Progress::tokens("reading");
    let mut progress = |done: usize, total: usize| bar.set(done as u64, total as u64);
    let scores = session.score(&tokens, Some(&targets), &mut progress).await.map_err(|e| tokens_error(&name, e))?;
    drop(bar);
    let nll_sum: f64 = scores.nll.iter().take(tokens.len() - 1).map(|&nll| f64::from(nll)).sum();
    let logits = session.logits().await?;
    if args.json {
        print_json(&Numbers { tokens, argmax: scores.argmax, last_logits: logits, nll_sum })?;
        return Ok(ExitCode::SUCCESS);
    }
    // Token ids alone do not need a tokenizer: without one the predictions have no text.
    let tokenizer = tokenizer(&checkpoint).ok();
    print_line(&format!("{} tokens on {}", tokens.len(), backend_name(&model)))?;
    print_line(&format!("negative log likelihood: {nll_sum:.6} (sum over {} predictions)", tokens.len() - 1))?;
    print_line("most likely next tokens:")?;
    for token in most_likely(&logits, 5) {
        print_line(&format!("  {:>9.4}  {token}{}", logits[token], quoted(tokenizer.as_ref(), token as u32)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Token ids: a JSON array, or numbers separated by commas or white space. `name` says where they come from.
fn parse_tokens(text: &str, name: &str) -> anyhow::Result<Vec<u32>> {
    let text = text.trim().trim_start_matches('\u{feff}');
    let tokens = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|error| wrong(name, &format!("not a list of token ids: {error}")))?
    } else {
        text.split(|c: char| c == ',' || c.is_whitespace())
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(|_| wrong(name, &format!("{part:?} is not a token id, a whole number"))))
            .collect::<anyhow::Result<Vec<u32>>>()?
    };
    match tokens.is_empty() {
        true => Err(wrong(name, "no tokens given: the model needs at least one")),
        false => Ok(tokens),
    }
}

/// What is wrong with a list: the flag itself, or its file.
fn wrong(name: &str, what: &str) -> anyhow::Error {
    match name {
        "--tokens" => misuse(format!("{name}: {what}")),
        _ => anyhow!("{name}: {what}"),
    }
}

/// Indices of the `count` largest logits, largest first.
fn most_likely(logits: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(count);
    order
}

/// The token's text for a list, e.g. ` " the"`; a special token's name.
fn quoted(tokenizer: Option<&Tokenizer>, token: u32) -> String {
    let text = tokenizer.and_then(|tokenizer| match tokenizer.is_special(token) {
        true => tokenizer.token(token),
        false => tokenizer.decode(&[token]).ok(),
    });
    text.map_or_else(String::new, |text| format!(" {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_spelling_of_a_list() {
        for text in ["1,2,30", "1 2 30", " [1, 2,\n30]\n", "1,\n2,\t30,\n", "\u{feff}1 2 30"] {
            assert_eq!(parse_tokens(text, "x").unwrap(), [1, 2, 30], "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_list_by_name() {
        for text in ["", " ", "[]", ",", "1,x", "-1", "1.5", "[1,", "[\"a\"]", "{}", "4294967296"] {
            let error = parse_tokens(text, "--tokens").unwrap_err().to_string();
            assert!(error.starts_with("--tokens: "), "{text:?}: {error}");
        }
    }
}
