//! `mamba-wgpu eval`: how well a trained model does its task, also at lengths that it never saw.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use mamba_wgpu::gpu::Gpu;
use mamba_wgpu::model::{locate, Backend, Checkpoint, LanguageModel, ModelOptions};
use mamba_wgpu::train::random::Purpose;
use mamba_wgpu::train::{
    read_settings, Batch, Evaluation, Parameters, Questions, RunFolder, Saved, Settings, Tape, Task, TaskKind,
    TrainError,
};
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{at_least_one, describe, one_of, one_to, sequences, GpuArgs};
use crate::errors::misuse;
use crate::exit::ExitCode;
use crate::output::{print_json, print_line, Progress};
use crate::signals;
use crate::train_recipe::setting_error;

/// Evaluate a model that `train` made on its task
///
/// At each length the task is asked as the paper asks it: only the answers at the end of a sequence count, as in `train`'s
/// validation. Sequences longer than --chunk go through the model in pieces, one sequence at a time, with its state carried along.
/// The time grows with --sequences times --length: on a software GPU a million tokens take minutes. Far beyond the length that a
/// model was trained at, most models only guess.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a run (its best checkpoint is taken), or of one of its checkpoints
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Refuse a run that was for another task than this one [default: take any]
    #[arg(long, value_parser = one_of(&TaskKind::ALL))]
    task: Option<TaskKind>,
    /// Tokens of a sequence: a number or a power of two such as 2^20, or several of them separated by commas [default: the training's]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = length)]
    length: Vec<usize>,
    /// Sequences of each length
    #[arg(long, value_name = "N", default_value = "64", value_parser = sequences)]
    sequences: usize,
    /// How many tokens go through the model together at most: of short sequences several side by side, of a longer one a piece
    #[arg(long, value_name = "N", default_value = "65536", value_parser = at_least_one)]
    chunk: usize,
    /// Which sequences: each seed has its own
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// The sequences that the run was validated on, not new ones: with `train`'s --validation-sequences as --sequences this gives
    /// the accuracy and the loss that `train` printed after the same step
    #[arg(long, conflicts_with = "seed")]
    validation: bool,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print one JSON object: task, model, lti, validation, lengths (each with length, sequences, targets, correct, accuracy, loss,
    /// seconds)
    #[arg(long)]
    json: bool,
}

/// Of a long sequence, more tokens at once are no faster.
const CHUNK: usize = 1 << 14;
/// Nor are more of short ones, which the host holds all at once.
const MAX_ROWS: usize = 1 << 18;

/// "4096" or "2^12".
fn length(text: &str) -> Result<usize, String> {
    let power = text.strip_prefix("2^").map(|power| match power.parse::<u32>() {
        Ok(power) if power <= Task::MAX_LENGTH.ilog2() => Ok(1 << power),
        _ => Err(format!("it must be a power of two up to 2^{}", Task::MAX_LENGTH.ilog2())),
    });
    power.unwrap_or_else(|| one_to(text, Task::MAX_LENGTH))
}

/// A length at which the run's task cannot be asked, in the words of this command line.
fn length_error(asked: &Questions, error: TrainError) -> anyhow::Error {
    match error {
        TrainError::Setting { what, value, expected } if what != "length" => {
            let length = asked.task().nominal_length();
            misuse(format!("--length {length}: the run's {what}, {value}, must be {expected}"))
        }
        other => setting_error(other),
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    args.gpu.check("evaluation needs a GPU (a software one, such as Mesa's lavapipe, will do)")?;
    let located = locate(&args.model).map_err(Error::from)?;
    located.note.iter().for_each(|note| eprintln!("mamba-wgpu: {note}"));
    let path = located.path;
    if !path.join("model.safetensors").exists() {
        return Err(Error::from(RunFolder::no_model(&args.model)).into());
    }
    let settings = read_settings(&path).map_err(Error::from)?;
    let kind = settings.task.kind();
    if args.task.is_some_and(|task| task != kind) {
        return Err(misuse(format!("--task: the model in {} was trained on {kind}", path.display())));
    }
    if matches!(settings.task, Task::Text { .. }) {
        let path = path.display();
        return Err(anyhow!("{path} is a text model: `mamba-wgpu score --model {path} --text FILE` evaluates it"));
    }
    let lengths = match args.length.is_empty() {
        true => vec![settings.task.nominal_length()],
        false => args.length.clone(),
    };
    let (purpose, seed) = match args.validation {
        true => (Purpose::Validation, settings.seed),
        false => (Purpose::Evaluation, args.seed),
    };
    let questions: Vec<Questions> =
        lengths.iter().map(|&length| Questions::new(&settings.task, length, purpose, seed, args.sequences)).collect();
    questions.iter().try_for_each(|asked| asked.task().check().map_err(|error| length_error(asked, error)))?;

    let gpu = args.gpu.open().await?;
    let tensors = Saved::read_parameters(&path).map_err(Error::from)?;
    let parameters = Parameters::new(&gpu, &settings.shape, settings.task.vocab_size(), &tensors)?;
    let cancel = Arc::new(AtomicBool::new(false));
    signals::ask(&cancel);
    let judge = Judge { gpu, settings, parameters, path, chunk: args.chunk, cancel };
    let mut rows = Vec::new();
    if !args.json {
        print_line(&format!("{kind}, {}, on {}", judge.path.display(), describe(&judge.gpu)))?;
        print_line("    length  sequences  accuracy     loss  seconds")?;
    }
    for asked in &questions {
        let begin = Instant::now();
        let Some(e) = judge.ask(asked).await? else { return Ok(signals::exit_code()) };
        let seconds = begin.elapsed().as_secs_f64();
        let (length, n) = (asked.task().nominal_length(), args.sequences);
        if !args.json {
            let (accuracy, loss) = (100.0 * e.accuracy(), e.loss());
            print_line(&format!("{length:>10}  {n:>9}  {accuracy:>7.2}%  {loss:>7.4}  {seconds:>7.2}"))?;
        }
        rows.push(json!({
            "length": length, "sequences": n, "targets": e.counted, "correct": e.correct,
            "accuracy": e.accuracy(), "loss": e.loss(), "seconds": seconds,
        }));
    }
    if args.json {
        let lti = judge.settings.shape.layer.lti;
        let validation = args.validation;
        print_json(&json!({
            "task": kind, "model": judge.path, "lti": lti, "validation": validation, "lengths": rows,
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Judge {
    gpu: Gpu,
    settings: Settings,
    parameters: Parameters,
    path: PathBuf,
    chunk: usize,
    cancel: Arc<AtomicBool>,
}

impl Judge {
    /// `None` after a signal.
    async fn ask(&self, asked: &Questions) -> anyhow::Result<Option<Evaluation>> {
        if asked.length() > self.chunk.min(MAX_ROWS) && !self.settings.shape.layer.lti {
            return self.ask_long(asked).await;
        }
        let together = (self.chunk.min(MAX_ROWS) / asked.length()).clamp(1, asked.sequences());
        let tape = Tape::evaluation(&self.gpu, &self.parameters, (together, asked.length()))?;
        let bar = Progress::count("sequences");
        let progress = |done| {
            bar.set(done as u64, asked.sequences() as u64);
            !self.cancel.load(Ordering::Relaxed)
        };
        Ok(asked.ask(&tape, progress).await?)
    }

    /// One sequence at a time, by chunks.
    async fn ask_long(&self, asked: &Questions) -> anyhow::Result<Option<Evaluation>> {
        let checkpoint = Checkpoint::open(&self.path).map_err(Error::from)?;
        let options = ModelOptions { chunk: self.chunk.min(CHUNK), ..ModelOptions::default() };
        let backend = Backend::Gpu(self.gpu.clone());
        let model = LanguageModel::load(&checkpoint, &backend, options, &mut |_, _| {}).await?;
        let bar = Progress::tokens("reading");
        let mut session = model.session()?;
        let mut all = Evaluation::default();
        let prompt = asked.task().prompt();
        for sequence in 0..asked.sequences() {
            let Batch { tokens, targets, length, .. } = asked.batch(sequence, 1);
            let total = (asked.sequences() * length) as u64;
            session.reset();
            for (i, part) in tokens[..prompt].chunks(options.chunk).enumerate() {
                if self.cancel.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                session.prefill(part, &mut |_, _| {}).await?;
                bar.set((sequence * length + i * options.chunk + part.len()) as u64, total);
            }
            let targets = &targets[prompt..];
            let scores = session.score(&tokens[prompt..], Some(targets), &mut |_, _| {}).await?;
            for ((argmax, nll), target) in scores.argmax.iter().zip(&scores.nll).zip(targets) {
                all.counted += 1;
                all.correct += u64::from(argmax == target);
                all.nll_sum += f64::from(*nll);
            }
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_numbers_or_powers() {
        assert_eq!((length("256"), length("2^20")), (Ok(256), Ok(1 << 20)));
        for bad in ["0", "2^", "2^40", "2^4294967296", "x", "-1", ""] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }
}
