//! `mamba-wgpu eval`: how well a trained model does its task, also at lengths that it never saw.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use mamba_wgpu::gpu::Gpu;
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelOptions};
use mamba_wgpu::train::random::Purpose;
use mamba_wgpu::train::{
    read_settings, Batch, Data, Evaluation, Parameters, Saved, Settings, Tape, Task, TrainError, IGNORE,
};
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{at_least_one, describe, run_checkpoint, GpuArgs};
use crate::errors::misuse;
use crate::output::{print_json, print_line, Progress};
use crate::train_recipe::{setting_error, TaskName};

/// Evaluate a model that `train` made on its task
///
/// The task is the paper's at each length: only the answers at the end of a sequence count. Long sequences go through the model in
/// chunks, with its state carried along.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a run (its best checkpoint is taken), or of one of its checkpoints
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The task that the run must have been for [default: whatever it was for]
    #[arg(long, value_enum)]
    task: Option<TaskName>,
    /// Tokens of a sequence, several separated by commas; 2^20 is written 1048576 or 2^20 [default: the training's]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = length)]
    length: Vec<usize>,
    /// Sequences of each length
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    sequences: usize,
    /// Tokens that go through the model together at most: sequences side by side, or the chunks of a longer one
    #[arg(long, value_name = "N", default_value = "65536", value_parser = at_least_one)]
    chunk: usize,
    /// Other sequences than those of another seed
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print one JSON object: task, step, lengths (length, sequences, targets, correct, accuracy, loss, seconds)
    #[arg(long)]
    json: bool,
}

/// Of a long sequence, more tokens at once are no faster.
const CHUNK: usize = 1 << 14;

/// "4096" or "2^12".
fn length(text: &str) -> Result<usize, String> {
    let power = text.strip_prefix("2^").map(|power| match power.parse::<u32>() {
        Ok(power @ 0..=31) => Ok(1 << power),
        _ => Err("a power of two up to 2^31".to_string()),
    });
    power.unwrap_or_else(|| at_least_one(text))
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    args.gpu.check("evaluation needs a GPU (a software one, such as Mesa's lavapipe, will do)")?;
    let path = run_checkpoint(&args.model)
        .ok_or_else(|| TrainError::NoCheckpoint { path: args.model.display().to_string() })
        .map_err(Error::from)?;
    let settings = read_settings(&path).map_err(Error::from)?;
    let kind = settings.task.kind();
    if args.task.is_some_and(|task| task.kind() != kind) {
        return Err(misuse(format!("--task: the model in {} was trained on {kind}", path.display())));
    }
    if matches!(settings.task, Task::Text { .. }) {
        let path = path.display();
        return Err(misuse(format!(
            "{path} is a text model: `mamba-wgpu score --model {path} --text FILE` evaluates it"
        )));
    }
    let lengths = match args.length.is_empty() {
        true => vec![settings.task.nominal_length()],
        false => args.length.clone(),
    };
    let tasks: Vec<Task> = lengths.iter().map(|&length| settings.task.asked_once(length)).collect();
    tasks.iter().try_for_each(Task::check).map_err(setting_error)?;

    let gpu = args.gpu.open().await?;
    let tensors = Saved::read_parameters(&path).map_err(Error::from)?;
    let parameters = Parameters::new(&gpu, &settings.shape, settings.task.vocab_size(), &tensors)?;
    let judge =
        Judge { gpu, settings, parameters, path, chunk: args.chunk, seed: args.seed, sequences: args.sequences };
    let mut rows = Vec::new();
    if !args.json {
        print_line(&format!("{kind}, {}, on {}", judge.path.display(), describe(&judge.gpu)))?;
        print_line("    length  sequences  accuracy     loss  seconds")?;
    }
    for task in &tasks {
        let begin = Instant::now();
        let e = judge.length(task).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let (length, n) = (task.nominal_length(), args.sequences);
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
        print_json(&json!({ "task": kind, "model": judge.path, "lti": judge.settings.shape.lti, "lengths": rows }))?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Judge {
    gpu: Gpu,
    settings: Settings,
    parameters: Parameters,
    path: PathBuf,
    chunk: usize,
    seed: u64,
    sequences: usize,
}

impl Judge {
    async fn length(&self, task: &Task) -> anyhow::Result<Evaluation> {
        if task.length() > self.chunk && !self.settings.shape.lti {
            return self.long(task).await;
        }
        let together = (self.chunk / task.length()).clamp(1, self.sequences);
        let tape = Tape::evaluation(&self.gpu, &self.parameters, (together, task.length()))?;
        let bar = Progress::count("sequences");
        let mut all = Evaluation::default();
        for first in (0..self.sequences).step_by(together) {
            let mut batch = task.judged(self.seed, first as u64, together);
            // Of the last ones, those that are too many.
            batch.targets.iter_mut().skip((self.sequences - first) * batch.length).for_each(|t| *t = IGNORE);
            all.add(&tape.evaluate(&batch).await?);
            bar.set((first + together).min(self.sequences) as u64, self.sequences as u64);
        }
        Ok(all)
    }

    /// One sequence at a time, by chunks.
    async fn long(&self, task: &Task) -> anyhow::Result<Evaluation> {
        let checkpoint = Checkpoint::open(&self.path).map_err(Error::from)?;
        let options = ModelOptions { chunk: self.chunk.min(CHUNK), ..ModelOptions::default() };
        let backend = Backend::Gpu(self.gpu.clone());
        let model = LanguageModel::load(&checkpoint, &backend, options, &mut |_, _| {}).await?;
        let bar = Progress::tokens("reading");
        let mut session = model.session()?;
        let mut all = Evaluation::default();
        for sequence in 0..self.sequences {
            let Batch { tokens, targets, length, .. } = task.batch(self.seed, Purpose::Evaluation, sequence as u64, 1);
            let mut progress = |done: usize, _: usize| {
                bar.set((sequence * length + done) as u64, (self.sequences * length) as u64);
            };
            session.reset();
            session.prefill(&tokens[..task.prompt()], &mut progress).await?;
            let targets = &targets[task.prompt()..];
            let scores = session.score(&tokens[task.prompt()..], Some(targets), &mut |_, _| {}).await?;
            for ((argmax, nll), target) in scores.argmax.iter().zip(&scores.nll).zip(targets) {
                all.counted += 1;
                all.correct += u64::from(argmax == target);
                all.nll_sum += f64::from(*nll);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_numbers_or_powers() {
        assert_eq!((length("256"), length("2^20")), (Ok(256), Ok(1 << 20)));
        for bad in ["0", "2^", "2^40", "x", "-1", ""] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }
}
