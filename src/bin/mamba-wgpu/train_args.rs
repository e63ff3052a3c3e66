//! `train`'s flags, but for those of what it computes (`train_recipe.rs`).

use std::path::PathBuf;

use mamba_wgpu::files::{Kind, Output};
use mamba_wgpu::train::TaskKind;

use crate::bench_report::charts::PICTURE;
use crate::common::{at_least_one, one_of, sequences, GpuArgs};
use crate::errors::misuse;
use crate::output::{apart, place};
use crate::train_recipe::Recipe;

/// Train a model
///
/// Everything goes into --out: checkpoints, each a folder that `generate --model` runs, the settings, a log (a JSON object a line)
/// and the loss curve. Ctrl-C writes a checkpoint and ends; `train --resume --out DIR` goes on from there as if nothing had
/// happened.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to train on
    #[arg(long, value_parser = one_of(&TaskKind::ALL), required_unless_present = "resume", conflicts_with = "resume")]
    pub task: Option<TaskKind>,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on from the newest checkpoint in --out
    #[arg(long)]
    pub resume: bool,
    /// Begin with the weights, the shape, the vocabulary and the tokenizer of a Mamba-1 model, not from nothing (Falcon-Mamba and Mamba-2
    /// models cannot be trained yet): a Hugging Face or mamba-ssm folder, a .safetensors file, or the folder of a run (its best checkpoint is taken, and with the same task its length, batch,
    /// steps and all else that flags may change)
    #[arg(long, value_name = "MODEL", conflicts_with = "resume")]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub recipe: Recipe,
    /// The text to train on, in UTF-8 (task text)
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// The text to validate on, in UTF-8 (task text)
    #[arg(long, value_name = "FILE")]
    pub validation_text: Option<PathBuf>,
    /// A tokenizer.json [default: that of --from; otherwise one is trained on --text, with --vocab entries]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Steps between lines of the log
    #[arg(long, value_name = "N", default_value = "10", value_parser = some_steps)]
    pub log_every: u64,
    /// Steps between validations; 0 for none but at the end [default: a twentieth of the steps]
    #[arg(long, value_name = "N")]
    pub validate_every: Option<u64>,
    /// Sequences of a synthetic task to validate on, each asked once, at its end, as `eval` asks
    #[arg(long, value_name = "N", default_value = "256", value_parser = sequences)]
    pub validation_sequences: usize,
    /// Steps between checkpoints; 0 for none but at the end [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints to keep; the best is always kept
    #[arg(long, value_name = "N", default_value = "2", value_parser = at_least_one)]
    pub keep: usize,
    /// End after the first validation with this part of the answers right (of a text: of its tokens), e.g. 0.999
    #[arg(long, value_name = "PART", value_parser = part)]
    pub stop_at_accuracy: Option<f64>,
    /// Where the log goes; lines are added to what is there [default: log.jsonl in --out]
    #[arg(long, value_name = "FILE")]
    pub json_log: Option<PathBuf>,
    /// Where the loss curve goes, as PNG if its name ends so and as SVG otherwise [default: loss.svg in --out]
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Begin in a folder that is no run's, replace a file at --plot that is no picture of this program's
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub gpu: GpuArgs,
    /// Print one JSON object at the end: task, steps, loss, validation, validation_loss, accuracy, best (of a text the lowest
    /// validation loss, of a task the smallest part of wrong answers), seconds, cancelled, out
    #[arg(long)]
    pub json: bool,
}

/// A number of steps that is not 0, for clap.
fn some_steps(text: &str) -> Result<u64, String> {
    Ok(at_least_one(text)? as u64)
}

/// Between 0 and 1, for clap.
fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "it must be a number between 0 and 1".into())
}

impl Args {
    /// Where the log and the curve go, both tried. In the run's own folder what is there is the run's.
    pub fn places(&self, resumed: bool) -> anyhow::Result<(Output, Output)> {
        let own = |name| self.out.join(name);
        let (log, curve) = (own("log.jsonl"), own("loss.svg"));
        let log = place("json-log", self.json_log.as_ref().unwrap_or(&log), Kind::TEXT, self.force)?;
        let force = self.force || resumed && self.plot.is_none();
        let curve = place("plot", self.plot.as_ref().unwrap_or(&curve), PICTURE, force)?;
        let read = [("text", &self.text), ("validation-text", &self.validation_text), ("tokenizer", &self.tokenizer)];
        for (flag, path) in read.iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?))) {
            if log.is_same(path) {
                return Err(misuse(format!("--json-log {}: it is the file of --{flag}", path.display())));
            }
        }
        apart(self.json, [("plot", &curve), ("json-log", &log)])?;
        Ok((log, curve))
    }

    /// The steps between what is done now and then: those given, or a part of all.
    pub fn every(given: Option<u64>, steps: u64, part: u64) -> u64 {
        given.unwrap_or((steps / part).max(1))
    }
}
