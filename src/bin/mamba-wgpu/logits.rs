//! `mamba-wgpu logits`: the raw numbers of a forward pass, for comparison with other implementations.

use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::Error;

use crate::common::{tokenizer, without_bom, BackendArgs, ModelArgs};
use crate::errors::{misuse, tokens_error};
use crate::exit::ExitCode;
use crate::output::{print_json, print_line, Progress};
use crate::placement::backend_name;
use crate::special_tokens::SpecialTokens;
use crate::token_ids::TokenIds;

/// Run tokens, or a text, through the model and print what it predicts after the last token; with --json after each
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct Args {
    #[command(flatten)]
    ids: TokenIds,
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
    // What is no list is refused before the model is opened.
    let given = args.ids.read()?;
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
    // From 0: the sum of no numbers is -0.
    let nll_sum = scores.nll.iter().take(tokens.len() - 1).fold(0.0, |sum, &nll| sum + f64::from(nll));
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
