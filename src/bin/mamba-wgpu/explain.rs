//! `mamba-wgpu explain`: what the model sees in a text.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use anyhow::anyhow;
use mamba_wgpu::error::{Error, InputError};
use mamba_wgpu::explain::{explain, is_page, page, ExplainOptions, Explanation, LayerExplanation, Packed, Unit};
use mamba_wgpu::files::Kind;

use crate::common::{at_least_one, read_text, tokenizer, without_bom, BackendArgs, ModelArgs};
use crate::errors::misuse;
use crate::exit::ExitCode;
use crate::output::{apart, lost, place, print_json, print_line, Progress};
use crate::placement::backend_name;
use crate::signals;
use crate::special_tokens::SpecialTokens;

/// Show what the model sees in a text: the attention that its recurrence implies, and what each token opens and forgets
///
/// Of every layer, per token: delta (how far the token opens the gate), exp(delta A) (what it leaves of the state before it) and the
/// state's norm; and for every pair of tokens, alpha(i, j): what token j's input adds to the output at token i. In Mamba-1 each
/// channel has these for itself, in Mamba-2 each head (docs/explain.md).
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct Args {
    /// The text
    #[arg(long, value_name = "TEXT", group = "input")]
    text: Option<String>,
    /// A file with the text, in UTF-8
    #[arg(long, value_name = "FILE", group = "input")]
    file: Option<PathBuf>,
    #[command(flatten)]
    special: SpecialTokens,
    /// Only these layers, counted from 0
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    layer: Option<Vec<usize>>,
    /// These channels by themselves too, not only in the mean over all; of a Mamba-2 these heads
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    channel: Vec<usize>,
    /// Refuse a longer text: a map has the square of its tokens in numbers
    #[arg(long, value_name = "N", default_value_t = ExplainOptions::default().max_tokens, value_parser = at_least_one)]
    max_tokens: usize,
    /// Write a page to this file that shows it all and needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace a file at --html that is no such page
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Print one JSON object: source, pieces, tokens, n_layer, layers (each with layer, units, delta, forget, state_norm, attention,
    /// magnitude, channels; docs/explain.md says what they are)
    #[arg(long)]
    json: bool,
}

const PAGE: Kind = Kind { name: "page of `explain`", is: is_page };

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Numbers<'a> {
    source: &'a str,
    pieces: &'a [String],
    #[serde(flatten)]
    explanation: &'a Explanation,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (name, text) = match (&args.text, &args.file) {
        (Some(text), _) => ("--text".to_owned(), without_bom(text).to_owned()),
        (None, Some(path)) => {
            let name = format!("--file {}", path.display());
            let text = read_text(&name, path)?;
            (name, text)
        }
        (None, None) => return Err(misuse("--text or --file is needed")),
    };
    let html = args.html.as_deref().map(|path| place("html", path, PAGE, args.force)).transpose()?;
    apart(args.json, html.iter().map(|output| ("html", output)))?;
    let checkpoint = args.model.open()?;
    let tokenizer = tokenizer(&checkpoint)?;
    let tokens = args.special.encode(&tokenizer, &text)?;
    if tokens.is_empty() {
        let words = format!("{name}: the tokenizer makes no tokens of it, so there is nothing to explain");
        return Err(if args.text.is_some() { misuse(words) } else { anyhow!(words) });
    }
    let model = args.backend.load(&checkpoint).await?;
    let (layers, mut channels, max_tokens) = (args.layer, args.channel, args.max_tokens);
    // Asked for twice it is shown once, as a layer is.
    let mut seen = std::collections::HashSet::new();
    channels.retain(|channel| seen.insert(*channel));
    let options = ExplainOptions { layers, channels, max_tokens };
    let bar = Progress::count("explaining, layer");
    let explained = explain(&model, &tokens, &options, &mut |done, all| bar.set(done as u64, all as u64)).await;
    drop(bar);
    let explanation = explained.map_err(|error| match error {
        Error::Input(error @ InputError::TooManyTokens { limit, .. }) => {
            let way = if limit == max_tokens { "--max-tokens" } else { "of fewer layers and channels, longer texts" };
            misuse(format!("{name}: {error} ({way})"))
        }
        Error::Input(error @ InputError::OutOfRange { .. }) => misuse(format!("--{error}")),
        Error::Input(error @ InputError::NothingToExplain { .. }) => match options.layers {
            Some(_) => misuse(format!("--layer: {error}")),
            None => anyhow!("{}: {error}", checkpoint.source()),
        },
        other => other.into(),
    })?;

    if let Some(words) = left_out(&explanation, options.layers.as_deref()) {
        eprintln!("{words}");
    }
    let pieces = tokenizer.pieces(&tokens)?;
    // What is being written is brought to its end.
    let ended = Arc::new(AtomicBool::new(false));
    signals::ask(&ended);
    let written = html.as_ref().map_or(Ok(()), |html| {
        html.write(page(&Packed::new(&explanation, checkpoint.source(), pieces.clone())).as_bytes())
    });
    let printed = match args.json {
        true => print_json(&Numbers { source: checkpoint.source(), pieces: &pieces, explanation: &explanation }),
        false => {
            let page = args.html.as_deref().filter(|_| written.is_ok());
            print_words(&tokens, &backend_name(&model), &explanation, page)
        }
    };
    written.map_err(lost("html", "the page"))?;
    printed?;
    Ok(if ended.load(Ordering::Relaxed) { signals::exit_code() } else { ExitCode::SUCCESS })
}

/// What there is to say of layers that were asked for and are not shown.
fn left_out(explanation: &Explanation, asked: Option<&[usize]>) -> Option<String> {
    let shown = |layer: &usize| explanation.layers.iter().any(|of| of.layer == *layer);
    let all: Vec<usize> = (0..explanation.n_layer).collect();
    let missing: Vec<_> = asked.unwrap_or(&all).iter().filter(|layer| !shown(layer)).map(usize::to_string).collect();
    let names = missing.join(", ");
    let are = if missing.len() == 1 { format!("layer {names} is") } else { format!("layers {names} are") };
    let words = || format!("{are} not shown: attention and MLPs have no matrix of this kind to show yet");
    (!missing.is_empty()).then(words)
}

fn print_words(tokens: &[u32], backend: &str, explanation: &Explanation, page: Option<&Path>) -> std::io::Result<()> {
    let over = Unit::of_layers(&explanation.layers);
    print_line(&format!("{} tokens on {backend}; means over tokens and {over}:", tokens.len()))?;
    print_line("layer     delta  exp(delta A)   last |h|  looks back")?;
    for layer in &explanation.layers {
        print_line(&in_words(layer))?;
        for c in &layer.channels {
            let error = c.reproduction_error();
            let unit = layer.units.kind.name();
            print_line(&format!("      {unit} {}: gives the scan's output within {error:.1e}", c.channel))?;
        }
    }
    match page {
        Some(path) => print_line(&format!("{}: open it in a browser", path.display())),
        None => Ok(()),
    }
}

/// A layer's line. How far it looks back: the mean of i - j in tokens, weighted with |alpha(i, j)|.
fn in_words(layer: &LayerExplanation) -> String {
    let l = layer.delta.len();
    let mean = |values: &[f32]| values.iter().map(|x| f64::from(*x)).sum::<f64>() / l as f64;
    let (mut all, mut back) = (0.0, 0.0);
    for (i, row) in layer.magnitude.chunks_exact(l).enumerate() {
        for (j, alpha) in row.iter().enumerate().take(i + 1) {
            all += f64::from(*alpha);
            back += f64::from(*alpha) * (i - j) as f64;
        }
    }
    let back = if all > 0.0 { back / all } else { 0.0 };
    let (delta, forget) = (mean(&layer.delta), mean(&layer.forget));
    let last = layer.state_norm.last().copied().unwrap_or(0.0);
    format!("{:>5}  {delta:>8.4}  {forget:>12.4}  {last:>9.2}  {back:>5.1} tokens", layer.layer)
}
