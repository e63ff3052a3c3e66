//! `mamba-wgpu generate`: a prompt in, streamed text out.

use std::hash::{BuildHasher, Hasher};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use mamba_wgpu::generate::{FinishReason, GenerateOptions, Generator, SamplingParams, Stats, Text};
use mamba_wgpu::model::{LanguageModel, ModelId, SavedState, StateError};
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{at_least_one, backend_name, end_on_ctrl_c, tokenizer, BackendArgs, ModelArgs};
use crate::errors::{flag_error, misuse};
use crate::output::{print_json, Progress};
use crate::verify::{compare, Side, Start, VerifyArgs};

/// Continue a text
///
/// The prompt and its continuation go to stdout as they are computed; everything else goes to stderr. Ctrl-C ends the
/// text and keeps what there is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The text to continue [default: what comes through stdin, without its last line break; none is needed with
    /// --state-in]
    prompt: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// How many tokens at most
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least_one)]
    max_tokens: usize,
    /// How adventurous: 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value = "0.8", allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", default_value = "0")]
    top_k: u32,
    /// Choose among the most likely tokens that together have this probability; 1 is all
    #[arg(long, value_name = "P", default_value = "0.95", allow_negative_numbers = true)]
    top_p: f32,
    /// Choose among tokens at least this many times as likely as the most likely one; 0 is all
    #[arg(long, value_name = "P", default_value = "0", allow_negative_numbers = true)]
    min_p: f32,
    /// Make tokens that were there before less likely; 1 is off
    #[arg(long, value_name = "R", default_value = "1", allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Same seed, same text [default: another one each time; --stats shows it]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the text before this string (may be given several times)
    #[arg(long, value_name = "S")]
    stop: Vec<String>,
    /// Go on where the model ends its text
    #[arg(long)]
    ignore_eos: bool,
    /// Print the continuation without the prompt before it
    #[arg(long)]
    no_echo: bool,
    /// Go on from a text that --state-out or the browser saved; the prompt is added to it
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Save where the text ends to this file
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    /// Print speed, memory and the seed on stderr at the end
    #[arg(long)]
    stats: bool,
    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Everything that can be refused is refused before the model is loaded.
    let mut options = args.options();
    options.validate().map_err(flag_error)?;
    let prompt = args.prompt()?;
    let checkpoint = args.model.open()?;
    let tokenizer = tokenizer(&checkpoint)?;
    let tokens = tokenizer.encode(&prompt)?;
    let id = ModelId::of(&checkpoint);
    let saved = args.state_in.as_ref().map(|path| read_state(path, &id)).transpose().map_err(Error::from)?;
    if tokens.is_empty() && saved.as_ref().is_none_or(|saved| saved.pending().is_empty()) {
        return Err(misuse("the prompt has no tokens: the model needs at least one to continue from"));
    }
    let model = args.backend.load(&checkpoint).await?;
    options.eos = tokenizer.end_of_text(checkpoint.config());
    // Until here Ctrl-C ends the program as it does any other.
    end_on_ctrl_c(options.cancel.clone())?;

    let seed = options.params.seed;
    let begin = |model: &LanguageModel| -> Result<Text, Error> {
        let mut text = Text::new(model.session()?);
        if let Some(saved) = &saved {
            text.restore(saved)?;
        }
        text.push(&tokens);
        Ok(text)
    };
    let mut generator = begin(&model)?.generate(&tokenizer, options.clone())?;
    let mut stdout = io::stdout().lock();
    if !args.json && !args.no_echo {
        stdout.write_all(prompt.as_bytes())?;
        stdout.flush()?;
    }
    let mut output = if args.json { None } else { Some(&mut stdout) };
    let result = generate(&mut generator, &mut output).await;
    if let Some(stdout) = output {
        // After an error too: the message starts on a line of its own.
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    drop(stdout);
    let run = result?;
    if let Some(path) = &args.state_out {
        Text::from_generator(generator).save(&id).await?.write(path).map_err(Error::from)?;
    }

    let memory = model.gpu().map(|gpu| gpu.memory_bytes().1);
    if args.json {
        let times = &run.times;
        print_json(&json!({
            "prompt": prompt,
            "text": run.text,
            "tokens": run.tokens,
            "prompt_tokens": run.stats.prompt_tokens,
            "generated_tokens": run.stats.generated_tokens,
            "finish_reason": run.finish,
            "seed": seed,
            "backend": backend_name(&model),
            "prefill_seconds": times.prefill.as_secs_f64(),
            "time_to_first_token_seconds": times.first_token.map(|time| time.as_secs_f64()),
            "total_seconds": times.total.as_secs_f64(),
            "prefill_tokens_per_second": times.prefill_rate(&run.stats),
            "decode_tokens_per_second": times.decode_rate(&run.stats),
            "gpu_memory_peak_bytes": memory,
        }))?;
    }
    if args.stats {
        eprintln!("{}", run.report(seed, &backend_name(&model), memory));
    }
    let mut finish = run.finish;
    if let Some(count) = args.verify.count.filter(|_| finish != FinishReason::Cancelled) {
        let other = args.verify.load(&model, &checkpoint, args.backend.model_options()).await?;
        // Two tokens of any text first: a driver compiles then, which is no speed of the kernels'.
        let mut any = Text::new(other.session()?);
        any.push(&[0]);
        let two = GenerateOptions { max_tokens: 2, ignore_eos: true, ..options.clone() };
        generate(&mut any.generate(&tokenizer, two)?, &mut None).await?;
        options.max_tokens = count.min(options.max_tokens);
        let again = generate(&mut begin(&other)?.generate(&tokenizer, options.clone())?, &mut None).await?;
        finish = again.finish;
        if finish != FinishReason::Cancelled {
            let start = Start { saved: saved.as_ref(), prompt: &tokens, options: &options };
            let words = compare(count, &run.side(&model), &again.side(&other), &start, &tokenizer).await?;
            eprintln!("mamba-wgpu: {words}");
        }
    }
    Ok(match finish {
        FinishReason::Cancelled => ExitCode::from(130),
        _ => ExitCode::SUCCESS,
    })
}

impl Args {
    fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: self.max_tokens,
            params: SamplingParams {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed.unwrap_or_else(random_seed),
            },
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            prefill_chunk: self.backend.chunk,
            ..GenerateOptions::default()
        }
    }

    /// The prompt: the argument, or else stdin unless somebody sits at it.
    fn prompt(&self) -> anyhow::Result<String> {
        let prompt = match &self.prompt {
            Some(prompt) => prompt.clone(),
            // A pipe may stand open and empty for ever: with a state there is something to continue.
            None if self.state_in.is_some() => String::new(),
            None if io::stdin().is_terminal() => {
                return Err(misuse(
                    "no prompt: give one as an argument (mamba-wgpu generate \"Once upon\") or through stdin",
                ));
            }
            None => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).context("reading the prompt from stdin")?;
                let text = String::from_utf8(bytes)
                    .map_err(|error| misuse(format!("stdin: the prompt is not UTF-8 ({})", error.utf8_error())))?;
                // `echo` and editors end the last line, which is no part of the prompt.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                text.strip_suffix('\r').unwrap_or(text).to_string()
            }
        };
        match prompt.is_empty() && self.state_in.is_none() {
            true => Err(misuse("the prompt is empty: the model needs at least one token to continue from")),
            false => Ok(prompt),
        }
    }
}

/// 32 bits, so that it is short to type again; from the random keys that the standard library's hash maps get.
pub fn random_seed() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32
}

fn read_state(path: &Path, model: &ModelId) -> Result<SavedState, StateError> {
    let saved = SavedState::read(path)?;
    saved.check_model(&path.display().to_string(), model)?;
    Ok(saved)
}

/// A finished text.
struct Run {
    text: String,
    tokens: Vec<u32>,
    finish: FinishReason,
    stats: Stats,
    times: Times,
}

/// Wall-clock times since the prompt's first token went in.
pub struct Times {
    pub prefill: Duration,
    pub first_token: Option<Duration>,
    pub total: Duration,
}

impl Times {
    pub fn prefill_rate(&self, stats: &Stats) -> f64 {
        stats.prompt_tokens as f64 / self.prefill.as_secs_f64()
    }

    /// Tokens a second after the first one, which the prompt paid for; `None` where there is no second.
    pub fn decode_rate(&self, stats: &Stats) -> Option<f64> {
        let steps = stats.generated_tokens.checked_sub(1).filter(|&steps| steps > 0)?;
        Some(steps as f64 / (self.total - self.first_token?).as_secs_f64())
    }
}

/// Runs the generator to its end, writing each piece to `output` (if any) as it comes.
async fn generate(
    generator: &mut Generator<Text>,
    output: &mut Option<&mut io::StdoutLock<'static>>,
) -> anyhow::Result<Run> {
    let start = Instant::now();
    {
        let bar = Progress::tokens("reading the prompt");
        generator.prefill(&mut |done, total| bar.set(done as u64, total as u64)).await?;
    }
    let prefill = start.elapsed();
    let (mut text, mut tokens, mut first_token) = (String::new(), Vec::new(), None);
    while let Some(piece) = generator.next().await? {
        first_token.get_or_insert_with(|| start.elapsed());
        tokens.extend(piece.token);
        text += &piece.text;
        if let Some(output) = output {
            output.write_all(piece.text.as_bytes())?;
            output.flush()?;
        }
    }
    Ok(Run {
        text,
        tokens,
        // The generator has ended, so it knows why.
        finish: generator.finish_reason().unwrap_or(FinishReason::Cancelled),
        stats: generator.stats(),
        times: Times { prefill, first_token, total: start.elapsed() },
    })
}

impl Run {
    /// What `--verify` compares.
    fn side<'a>(&'a self, model: &'a LanguageModel) -> Side<'a> {
        Side { model, tokens: &self.tokens, rate: self.times.decode_rate(&self.stats) }
    }

    /// What `--stats` prints.
    fn report(&self, seed: u64, backend: &str, memory: Option<u64>) -> String {
        let Self { stats, times, finish, .. } = self;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let mut lines = vec![format!(
            "prompt:     {} tokens in {:.1} ms ({:.1} tokens/s)",
            stats.prompt_tokens,
            milliseconds(times.prefill),
            times.prefill_rate(stats)
        )];
        if let Some(first) = times.first_token {
            lines.push(format!("first token after {:.1} ms", milliseconds(first)));
        }
        let rate = times.decode_rate(stats).map_or_else(String::new, |rate| format!(" ({rate:.1} tokens/s)"));
        lines.push(format!("generated:  {} tokens{rate}, ended by {finish}", stats.generated_tokens));
        lines.push(format!("seed:       {seed}"));
        let memory =
            memory.map_or_else(String::new, |bytes| format!(", {:.1} MiB of its memory", bytes as f64 / 1048576.0));
        lines.push(format!("computed on {backend}{memory}"));
        lines.join("\n")
    }
}
