//! `mamba-wgpu generate`: a prompt in, streamed text out.

use std::hash::{BuildHasher, Hasher};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use mamba_wgpu::generate::{FinishReason, GenerateOptions, Generator, SamplingParams, Stats, Text};
use mamba_wgpu::model::{GenerationConfig, LanguageModel, ModelId, SavedState, StateError};
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{at_least_one, tokenizer, utf8, without_bom, BackendArgs, ModelArgs};
use crate::errors::{flag_error, misuse};
use crate::exit::ExitCode;
use crate::output::{apart, lost, place, print_json, short, stdout_error, Progress};
use crate::placement::{backend_name, in_json, in_words, is_slow, memory_peak};
use crate::sampling_args::SamplingArgs;
use crate::signals;
use crate::special_tokens::SpecialTokens;
use crate::verify::{Comparison, Side, Start, VerifyArgs};

/// Continue a text
///
/// The prompt and its continuation go to stdout as they are computed; everything else goes to stderr. Ctrl-C ends the
/// text and keeps what there is.
///
/// Where a flag is not given, what the model's generation_config.json states counts (and nothing that it does not state), and else
/// the default that is named. `--stats` says what came from there.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The text to continue [default: what comes through stdin, without its last line break; with --state-in there need not be one, and
    /// stdin is not read]
    prompt: Option<String>,
    /// Continue many texts: each line of this file (- is stdin) is a prompt, as it stands or as a JSON string ("..."). What comes of
    /// them is printed in their order, with an empty line between two; with --json, as one object a line
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["prompt", "state_in", "state_out", "force", "count"]
    )]
    pub prompts: Option<PathBuf>,
    /// How many of the --prompts to continue at once, which is faster than one after the other and needs more memory
    /// [default: 8, or fewer where the device's limits allow no more]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub parallel: Option<usize>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub special: SpecialTokens,
    /// Same seed, same text; of --prompts the second text has the next seed, and so on [default: another one each time; --stats
    /// shows it]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Go on where the model ends its text
    #[arg(long)]
    pub ignore_eos: bool,
    /// Print the continuation without the prompt before it
    #[arg(long)]
    pub no_echo: bool,
    /// Go on from a text that --state-out or the browser saved; the prompt is added to it
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Save where the text ends to this file
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    /// Replace a file at --state-out that is no state
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub backend: BackendArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    /// Print speed, memory and the seed on stderr at the end
    #[arg(long)]
    pub stats: bool,
    /// Print one JSON object at the end instead of the text as it comes: prompt, text, tokens, prompt_tokens, generated_tokens,
    /// finish_reason, seed, temperature, top_k, top_p, min_p, repetition_penalty, eos_token_id, from_generation_config, backend,
    /// placed (of each backend its first_layer, layers and bytes of weights), prefill_seconds, time_to_first_token_seconds, total_seconds, prefill_tokens_per_second, decode_tokens_per_second,
    /// gpu_memory_peak_bytes
    #[arg(long)]
    pub json: bool,
}

/// Tokens of a prompt between two looks for a signal, where they are slow to compute.
const SLOW_CHUNK: usize = 256;

/// A signal is looked for between the pieces of a prompt: without a GPU in hardware a chunk of them takes seconds.
pub fn prefill_chunk(model: &LanguageModel, options: &GenerateOptions) -> usize {
    match is_slow(model) {
        true => options.prefill_chunk.min(SLOW_CHUNK),
        false => options.prefill_chunk,
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(prompts) = &args.prompts {
        return crate::generate_prompts::run(&args, prompts).await;
    }
    if args.parallel.is_some() {
        return Err(misuse("--parallel is of --prompts: one text is written alone"));
    }
    // Everything that can be refused is refused before the model is loaded.
    let seed = args.seed.unwrap_or_else(random_seed);
    args.options(&GenerationConfig::default(), seed).validate().map_err(flag_error)?;
    let prompt = args.prompt()?;
    let state_out = args.state_out.as_deref();
    let state_out = state_out.map(|path| place("state-out", path, SavedState::KIND, args.force)).transpose()?;
    apart(args.json, state_out.iter().map(|output| ("state-out", output)))?;
    let checkpoint = args.model.open()?;
    let tokenizer = tokenizer(&checkpoint)?;
    let mut options = args.options(checkpoint.generation_config(), seed);
    // What is added to a text that has begun has nothing before it.
    let tokens = match args.state_in.is_some() {
        true => tokenizer.encode(&prompt)?,
        false => args.special.encode(&tokenizer, &prompt)?,
    };
    let mut id = ModelId::of(&checkpoint);
    if args.state_in.is_some() || args.state_out.is_some() {
        id = id.with_tokenizer(&tokenizer);
    }
    let saved = args.state_in.as_ref().map(|path| read_state(path, &id)).transpose().map_err(Error::from)?;
    if tokens.is_empty() && saved.as_ref().is_none_or(|saved| saved.pending().is_empty()) {
        return Err(misuse("the prompt has no tokens: the model needs at least one to continue from"));
    }
    let model = args.backend.load(&checkpoint).await?;
    options.prefill_chunk = prefill_chunk(&model, &options);
    // Until here a signal ends the program as it does any other.
    signals::ask(&options.cancel);

    let from_model = args.sampling.stated_by(checkpoint.generation_config(), args.ignore_eos);
    let (params, eos) = (options.params, tokenizer.end_of_text().to_vec());
    let begin = |model: &LanguageModel| -> Result<Text, Error> {
        let mut text = Text::new(model.session()?);
        if let Some(saved) = &saved {
            text.restore(saved)?;
        }
        text.push(&tokens);
        Ok(text)
    };
    let mut generator = begin(&model)?.generate(&tokenizer, options.clone())?;
    let mut echo = Echo { stdout: (!args.json).then(|| io::stdout().lock()), failed: None };
    if !args.no_echo {
        if let (Some(saved), false) = (&saved, tokens.is_empty()) {
            // A character that the text before ended within has no end now.
            let (all, so_far) = (tokenizer.decode(&saved.tokens)?, tokenizer.decode_so_far(&saved.tokens)?);
            echo.write(all.strip_prefix(&so_far).unwrap_or_default());
        }
        echo.write(&prompt);
    }
    let result = generate(&mut generator, &mut echo).await;
    // After an error too: the message starts on a line of its own.
    echo.write("\n");
    let echoed = echo.failed.map_or(Ok(()), Err);
    drop(echo.stdout);
    let run = result?;
    if let unknown @ 1.. = run.stats.unknown_tokens {
        let (entries, are) = (tokenizer.vocab_size(), if unknown == 1 { "token is" } else { "tokens are" });
        eprintln!("mamba-wgpu: {unknown} {are} unknown to the tokenizer, which has {entries} entries: without text");
    }
    // Whether anybody still reads the text or not: the state was asked for by itself.
    let written = match &state_out {
        Some(output) => output.write(&Text::from_generator(generator).save(&id).await?.to_bytes()),
        None => Ok(()),
    };

    let memory = memory_peak(&model);
    let mut printed = echoed;
    if args.json {
        let said = Said { seed, params, eos: &eos, from_model: &from_model, model: &model, memory };
        printed = print_json(&run.json(&prompt, &said));
    }
    if args.stats {
        eprintln!("{}", run.report(seed, &model, memory));
        if model.beyond_f16() {
            eprintln!("activations were beyond f16: the prompt was read in f32 from there");
        }
        if !from_model.is_empty() {
            eprintln!("generation_config.json: {}", from_model.join(", "));
        }
    }
    written.map_err(lost("state-out", "the state"))?;
    printed?;
    if let Some(count) = args.verify.count.filter(|_| run.finish != FinishReason::Cancelled) {
        let other = args.verify.load(&model, &checkpoint, args.backend.model_options()).await?;
        // Two tokens of any text first: a driver compiles then, which is no speed of the kernels'.
        let mut any = Text::new(other.session()?);
        any.push(&[0]);
        let two = GenerateOptions { max_tokens: 2, ignore_eos: true, ..options.clone() };
        let mut silent = Echo { stdout: None, failed: None };
        generate(&mut any.generate(&tokenizer, two)?, &mut silent).await?;
        options.max_tokens = count.min(options.max_tokens);
        let start = Start { saved: saved.as_ref(), prompt: &tokens, options: &options };
        let mut comparison = Comparison::new(run.side(&model), &start);
        // From the begin, and once more from each tie on.
        while let Some(written) = comparison.after() {
            let mut text = begin(&other)?;
            text.push(written);
            let rest = GenerateOptions { max_tokens: options.max_tokens - written.len(), ..options.clone() };
            let again = generate(&mut text.generate(&tokenizer, rest)?, &mut silent).await?;
            if again.finish == FinishReason::Cancelled {
                return Ok(signals::exit_code());
            }
            comparison.add(&again.side(&other), &tokenizer).await?;
        }
        eprintln!("mamba-wgpu: {}", comparison.in_words());
    }
    Ok(match run.finish {
        FinishReason::Cancelled => signals::exit_code(),
        _ => ExitCode::SUCCESS,
    })
}

impl Args {
    pub fn options(&self, model: &GenerationConfig, seed: u64) -> GenerateOptions {
        GenerateOptions {
            ignore_eos: self.ignore_eos,
            to_be_continued: self.state_out.is_some(),
            continues: self.state_in.is_some() && self.prompt.is_none(),
            prefill_chunk: self.backend.chunk,
            ..self.sampling.options(model, seed)
        }
    }

    /// The prompt: the argument, or else stdin unless somebody sits at it.
    fn prompt(&self) -> anyhow::Result<String> {
        let prompt = match &self.prompt {
            Some(prompt) => without_bom(prompt).to_owned(),
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
                let text = utf8("the prompt from stdin", bytes)?;
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
pub struct Run {
    pub text: String,
    pub tokens: Vec<u32>,
    pub finish: FinishReason,
    pub stats: Stats,
    pub times: Times,
}

/// What was asked for, and on what it ran.
pub struct Said<'a> {
    pub seed: u64,
    pub params: SamplingParams,
    pub eos: &'a [u32],
    pub from_model: &'a [String],
    pub model: &'a LanguageModel,
    pub memory: Option<u64>,
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

/// Where the text goes as it comes, if anywhere.
pub struct Echo {
    pub stdout: Option<io::StdoutLock<'static>>,
    /// Why no more goes there.
    pub failed: Option<io::Error>,
}

impl Echo {
    pub fn write(&mut self, text: &str) {
        if let (Some(stdout), None) = (&mut self.stdout, &self.failed) {
            let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            self.failed = written.map_err(stdout_error).err();
        }
    }
}

/// Runs the generator to its end, or until nobody reads it any more.
async fn generate(generator: &mut Generator<Text>, echo: &mut Echo) -> anyhow::Result<Run> {
    let start = Instant::now();
    {
        let bar = Progress::tokens("reading the prompt");
        generator.prefill(&mut |done, total| bar.set(done as u64, total as u64)).await?;
    }
    let prefill = start.elapsed();
    let (mut text, mut tokens, mut first_token) = (String::new(), Vec::new(), None);
    while echo.failed.is_none() {
        let Some(piece) = generator.next().await? else { break };
        first_token.get_or_insert_with(|| start.elapsed());
        tokens.extend(piece.token);
        text += &piece.text;
        echo.write(&piece.text);
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
    /// What `--json` prints.
    pub fn json(&self, prompt: &str, said: &Said<'_>) -> serde_json::Value {
        let (times, params) = (&self.times, said.params);
        json!({
            "prompt": prompt,
            "text": self.text,
            "tokens": self.tokens,
            "prompt_tokens": self.stats.prompt_tokens,
            "generated_tokens": self.stats.generated_tokens,
            "finish_reason": self.finish,
            "seed": said.seed,
            "temperature": short(params.temperature),
            "top_k": params.top_k,
            "top_p": short(params.top_p),
            "min_p": short(params.min_p),
            "repetition_penalty": short(params.repetition_penalty),
            "eos_token_id": said.eos,
            "from_generation_config": said.from_model,
            "backend": backend_name(said.model),
            "placed": in_json(said.model),
            "prefill_seconds": times.prefill.as_secs_f64(),
            "time_to_first_token_seconds": times.first_token.map(|time| time.as_secs_f64()),
            "total_seconds": times.total.as_secs_f64(),
            "prefill_tokens_per_second": times.prefill_rate(&self.stats),
            "decode_tokens_per_second": times.decode_rate(&self.stats),
            "gpu_memory_peak_bytes": said.memory,
        })
    }

    /// What `--verify` compares.
    fn side<'a>(&'a self, model: &'a LanguageModel) -> Side<'a> {
        Side { model, tokens: &self.tokens, rate: self.times.decode_rate(&self.stats) }
    }

    /// What `--stats` prints.
    fn report(&self, seed: u64, model: &LanguageModel, memory: Option<u64>) -> String {
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
        lines.push(format!("computed on {}{memory}", backend_name(model)));
        lines.push(format!("weights:    {}", in_words(model)));
        lines.join("\n")
    }
}
