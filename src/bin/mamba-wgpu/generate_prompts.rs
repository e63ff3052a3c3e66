//! `mamba-wgpu generate --prompts FILE`: many texts, several at once.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context};
use mamba_wgpu::generate::{BatchGenerator, Event, FinishReason, GenerateOptions, Stats};
use mamba_wgpu::model::{GenerationConfig, LanguageModel};
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{tokenizer, utf8, without_bom};
use crate::errors::{flag_error, misuse};
use crate::exit::ExitCode;
use crate::generate::{prefill_chunk, random_seed, Args, Echo, Run, Said, Times};
use crate::output::{print_json, Progress};
use crate::placement::{backend_name, in_words, memory_peak};
use crate::signals;

/// Texts at once, unless asked for others.
const PARALLEL: usize = 8;

/// A text, from its prompt to its end.
struct Text {
    prompt: String,
    options: GenerateOptions,
    begun: Option<Instant>,
    read: Option<Duration>,
    first_token: Option<Duration>,
    text: String,
    tokens: Vec<u32>,
    over: Option<Result<Run, Error>>,
}

impl Text {
    fn new(prompt: String, options: GenerateOptions) -> Self {
        Self {
            prompt,
            options,
            begun: None,
            read: None,
            first_token: None,
            text: String::new(),
            tokens: Vec::new(),
            over: None,
        }
    }

    fn end(&mut self, finish: FinishReason, stats: Stats) {
        let total = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        let times = Times { prefill: self.read.unwrap_or(total), first_token: self.first_token, total };
        let (text, tokens) = (self.text.clone(), std::mem::take(&mut self.tokens));
        self.over = Some(Ok(Run { text, tokens, finish, stats, times }));
    }
}

/// A line's prompt: a JSON string, or what stands there.
fn prompt(line: &str) -> Result<String, String> {
    let quoted = line.trim_end();
    if !quoted.starts_with('"') {
        return Ok(without_bom(line).to_owned());
    }
    match serde_json::from_str(quoted) {
        Ok(prompt) => Ok(prompt),
        // A string by all appearances, with something wrong inside.
        Err(error) if quoted.len() > 1 && quoted.ends_with('"') && !ends_before(quoted) => {
            Err(format!("no JSON string, though it begins and ends as one: {error}"))
        }
        // A text may begin with a quotation mark too.
        Err(_) => Ok(line.to_owned()),
    }
}

/// Whether a quotation mark inside closes the one at the begin, as in `"No," he said, "never"`.
fn ends_before(quoted: &str) -> bool {
    let mut escaped = false;
    quoted[1..quoted.len() - 1].chars().any(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })
}

/// The prompts of a file, a line each.
fn prompts(path: &Path) -> anyhow::Result<Vec<String>> {
    let stdin = path == Path::new("-");
    let name = if stdin { "--prompts, from stdin".into() } else { format!("--prompts {}", path.display()) };
    let mut bytes = Vec::new();
    match stdin {
        true => io::stdin().lock().read_to_end(&mut bytes).map(|_| ()),
        false => std::fs::read(path).map(|read| bytes = read),
    }
    .with_context(|| name.clone())?;
    let text = utf8(&name, bytes)?;
    let mut prompts = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let prompt = prompt(line).map_err(|why| anyhow!("{name}: line {}: {why}", i + 1))?;
        if prompt.is_empty() {
            return Err(anyhow!("{name}: line {} is empty: a prompt needs at least one token", i + 1));
        }
        prompts.push(prompt);
    }
    match prompts.is_empty() {
        true => Err(anyhow!("{name}: there are no prompts in it, which would be a line each")),
        false => Ok(prompts),
    }
}

pub async fn run(args: &Args, path: &Path) -> anyhow::Result<ExitCode> {
    // Everything that can be refused is refused before the model is loaded.
    let seed = args.seed.unwrap_or_else(random_seed);
    args.options(&GenerationConfig::default(), seed).validate().map_err(flag_error)?;
    let prompts = prompts(path)?;
    let checkpoint = args.model.open()?;
    let tokenizer = tokenizer(&checkpoint)?;
    let cancel = GenerateOptions::default().cancel;
    let mut texts = Vec::new();
    let mut encoded = Vec::new();
    for (i, prompt) in prompts.into_iter().enumerate() {
        let tokens = args.special.encode(&tokenizer, &prompt)?;
        if tokens.is_empty() {
            return Err(anyhow!("--prompts: line {} has no tokens: a prompt needs at least one", i + 1));
        }
        let options = args.options(checkpoint.generation_config(), seed.wrapping_add(i as u64));
        texts.push(Text::new(prompt, GenerateOptions { cancel: cancel.clone(), ..options }));
        encoded.push(tokens);
    }
    let model = args.backend.load(&checkpoint).await?;
    let most = model.most_slots();
    let parallel = match args.parallel {
        Some(parallel) if parallel.min(texts.len()) > most => {
            let why = format!("at most {most} texts of this model fit into the bindings that the device allows");
            return Err(misuse(format!("--parallel {parallel}: {why}")));
        }
        parallel => parallel.unwrap_or(PARALLEL).min(texts.len()).min(most),
    };
    // Until here a signal ends the program as it does any other.
    signals::ask(&cancel);
    let from_model = args.sampling.stated_by(checkpoint.generation_config(), args.ignore_eos);
    let eos = tokenizer.end_of_text().to_vec();
    let mut generator = BatchGenerator::new(model.batch(parallel)?);
    for (text, tokens) in texts.iter_mut().zip(&encoded) {
        text.options.prefill_chunk = prefill_chunk(&model, &text.options);
        generator.push(&tokenizer, tokens, text.options.clone()).map_err(Error::from)?;
    }

    let mut printer = Printer {
        echo: Echo { stdout: (!args.json).then(|| io::stdout().lock()), failed: None },
        no_echo: args.no_echo,
        next: 0,
        printed: None,
    };
    let bar = Progress::count("texts");
    let start = Instant::now();
    while printer.echo.failed.is_none() {
        bar.set((texts.len() - generator.unfinished()) as u64, texts.len() as u64);
        let events = generator.next().await?;
        if events.is_empty() {
            break;
        }
        let now = Instant::now();
        for (number, event) in events {
            let text = &mut texts[number];
            match event {
                Event::Begun => text.begun = Some(now),
                Event::Read => text.read = text.begun.map(|begun| now - begun),
                Event::Piece(piece) => {
                    text.first_token = text.first_token.or(text.begun.map(|begun| now - begun));
                    text.tokens.extend(piece.token);
                    text.text += &piece.text;
                }
                Event::End(finish, stats) => text.end(finish, stats),
                Event::Failed(error) => text.over = Some(Err(error)),
            }
        }
        let memory = memory_peak(&model);
        printer.print(&texts, |text, run| {
            let params = text.options.params;
            let said = Said { seed: params.seed, params, eos: &eos, from_model: &from_model, model: &model, memory };
            run.json(&text.prompt, &said)
        });
    }
    drop(bar);
    drop(printer.echo.stdout);
    if args.stats {
        eprintln!("{}", report(&texts, parallel, start.elapsed(), &model, seed));
        if model.beyond_f16() {
            eprintln!("activations were beyond f16: prompts were read in f32 from there");
        }
        if !from_model.is_empty() {
            eprintln!("generation_config.json: {}", from_model.join(", "));
        }
    }
    if let Some(error) = printer.echo.failed {
        return Err(error.into());
    }
    let mut code = ExitCode::SUCCESS;
    for (i, text) in texts.iter().enumerate() {
        match &text.over {
            Some(Ok(run)) if run.finish == FinishReason::Cancelled => return Ok(signals::exit_code()),
            Some(Err(error)) => {
                eprintln!("error: --prompts, line {}: {error}", i + 1);
                code = ExitCode::FAILURE;
            }
            _ => {}
        }
    }
    Ok(code)
}

/// Prints texts in their order: the one whose turn it is as it comes (with `--json` once it is over), those behind it later.
struct Printer {
    echo: Echo,
    no_echo: bool,
    /// Whose turn it is.
    next: usize,
    /// Bytes of its text that are out; `None` before its prompt.
    printed: Option<usize>,
}

impl Printer {
    fn print(&mut self, texts: &[Text], json: impl Fn(&Text, &Run) -> serde_json::Value) {
        while let (Some(text), None) = (texts.get(self.next), &self.echo.failed) {
            // What was never begun, since a signal came, is not in the output.
            let begun = text.begun.is_some() || matches!(text.over, Some(Err(_)));
            match &text.over {
                _ if begun && self.echo.stdout.is_some() => self.print_text(text),
                Some(over) if begun => {
                    let object = match over {
                        Ok(run) => json(text, run),
                        Err(error) => json!({ "prompt": text.prompt, "error": error.to_string() }),
                    };
                    self.echo.failed = print_json(&object).err();
                }
                _ => {}
            }
            if text.over.is_none() {
                return;
            }
            self.next += 1;
            self.printed = None;
        }
    }

    fn print_text(&mut self, text: &Text) {
        if self.printed.is_none() {
            let separator = if self.next > 0 { "\n" } else { "" };
            let prompt = if self.no_echo { "" } else { &text.prompt };
            self.echo.write(&format!("{separator}{prompt}"));
        }
        self.echo.write(&text.text[self.printed.unwrap_or(0)..]);
        self.printed = Some(text.text.len());
        if text.over.is_some() {
            self.echo.write("\n");
        }
    }
}

/// What `--stats` prints.
fn report(texts: &[Text], parallel: usize, total: Duration, model: &LanguageModel, seed: u64) -> String {
    let runs = || texts.iter().filter_map(|text| text.over.as_ref()?.as_ref().ok());
    let (prompt, generated) = runs().fold((0, 0), |(prompt, generated), run| {
        (prompt + run.stats.prompt_tokens, generated + run.stats.generated_tokens)
    });
    let seconds = total.as_secs_f64();
    let (begun, cut) = (texts.iter().filter(|text| text.begun.is_some()).count(), |text: &&Text| {
        text.begun.is_some() && !matches!(&text.over, Some(Ok(run)) if run.finish != FinishReason::Cancelled)
    });
    let of_all = match texts.iter().filter(cut).count() {
        0 if begun == texts.len() => format!("{begun} texts"),
        cut => format!("{begun} of {} texts ({cut} of them cut short)", texts.len()),
    };
    [
        format!("{of_all}, {parallel} at once, in {seconds:.2} s"),
        format!("prompts:    {prompt} tokens"),
        format!("generated:  {generated} tokens ({:.1} tokens/s)", generated as f64 / seconds),
        format!("seed:       {seed}, and those after it"),
        format!("computed on {}", backend_name(model)),
        format!("weights:    {}", in_words(model)),
    ]
    .join("\n")
}
