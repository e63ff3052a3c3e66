//! `mamba-wgpu train`: a model from nothing or from another's weights, on a task of the paper or on a text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::model::Checkpoint;
use mamba_wgpu::train::random::Purpose;
use mamba_wgpu::train::tasks::{train_tokenizer, TextData};
use mamba_wgpu::train::{
    latest_checkpoint, read_settings, remove_old, Batch, Data, Evaluation, Pretrained, Saved, Settings, Tape, Task,
    TextId, TrainError, Trainer, TrainerState,
};
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{beginning_token, describe, end_on_ctrl_c, open_model, read_text, run_checkpoint, GpuArgs};
use crate::errors::misuse;
use crate::output::{print_json, print_line, Progress};
use crate::train_log::{plot, Log};
use crate::train_recipe::{setting_error, Recipe, TaskName};

/// Train a model
///
/// Everything goes into --out: checkpoints, each a folder that `generate --model` runs, the settings, a log (a JSON object a line)
/// and the loss curve. Ctrl-C writes a checkpoint and ends; `train --resume --out DIR` goes on from there as if nothing had
/// happened.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to train on
    #[arg(long, value_enum, required_unless_present = "resume", conflicts_with = "resume")]
    task: Option<TaskName>,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the newest checkpoint in --out
    #[arg(long)]
    resume: bool,
    /// Begin with the weights, the shape, the vocabulary and the tokenizer of a model, not from nothing: a Hugging Face or mamba-ssm
    /// folder, a .safetensors file, or the folder of a run (its best checkpoint is taken)
    #[arg(long, value_name = "MODEL", conflicts_with = "resume")]
    from: Option<PathBuf>,
    #[command(flatten)]
    recipe: Recipe,
    /// The text to train on, in UTF-8 (task text)
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// The text to validate on, in UTF-8 (task text)
    #[arg(long, value_name = "FILE")]
    validation_text: Option<PathBuf>,
    /// A tokenizer.json [default: that of --from; otherwise one is trained on --text, with --vocab entries]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Steps between lines of the log
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    log_every: u64,
    /// Steps between validations; 0 for none but at the end [default: a twentieth of the steps]
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Sequences of a synthetic task to validate on
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u64).range(1..))]
    validation_sequences: u64,
    /// Steps between checkpoints; 0 for none but at the end [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints to keep; the best is always kept
    #[arg(long, value_name = "N", default_value = "2", value_parser = crate::common::at_least_one)]
    keep: usize,
    /// End as soon as so many of the validation's targets are right, e.g. 0.999
    #[arg(long, value_name = "PART")]
    stop_at_accuracy: Option<f64>,
    /// Where the log goes [default: log.jsonl in --out]
    #[arg(long, value_name = "FILE")]
    json_log: Option<PathBuf>,
    /// Where the loss curve goes, as PNG if its name ends so and as SVG otherwise [default: loss.svg in --out]
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print one JSON object at the end: steps, loss, validation, seconds
    #[arg(long)]
    json: bool,
}

/// What a run learns from and is validated on.
struct Material {
    data: Arc<dyn Data>,
    validation: Option<TextData>,
    tokenizer_json: Option<Vec<u8>>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    args.gpu.check("training needs a GPU (a software one, such as Mesa's lavapipe, will do)")?;
    // Everything that can be refused is refused before the folder is touched.
    let mut from: Option<(Checkpoint, Pretrained)> = None;
    let (mut settings, resumed) = match (args.resume, args.task) {
        (false, Some(task)) => {
            let busy = ["checkpoint", "best"].iter().find_map(|kind| latest_checkpoint(&args.out, kind));
            if let Some(busy) = busy {
                let busy = busy.display();
                return Err(misuse(format!(
                    "--out: {busy} is there already: --resume goes on with it, another folder begins anew"
                )));
            }
            if let Some(path) = &args.from {
                let checkpoint = open_model(Some(&run_checkpoint(path).unwrap_or(path.clone())))?;
                let pretrained = Pretrained::new(&checkpoint)?;
                from = Some((checkpoint, pretrained));
            }
            (args.recipe.settings(task.kind(), from.as_ref().map(|(_, pretrained)| pretrained)), None)
        }
        _ => {
            let settings = read_settings(&args.out).map_err(Error::from)?;
            let checkpoint = latest_checkpoint(&args.out, "checkpoint")
                .ok_or_else(|| TrainError::NoCheckpoint { path: args.out.display().to_string() })
                .map_err(Error::from)?;
            (settings, Some(checkpoint))
        }
    };
    settings.check().map_err(setting_error)?;
    let material = args.material(&mut settings, resumed.as_deref(), from.as_ref().map(|(checkpoint, _)| checkpoint))?;
    let gpu = args.gpu.open().await?;
    let (trainer, best) = match &resumed {
        Some(checkpoint) => {
            let (state, best) = Saved::read(checkpoint).map_err(Error::from)?;
            (Trainer::resume(&gpu, &settings, material.data.as_ref(), &state)?, best)
        }
        None => {
            let data = material.data.as_ref();
            let trainer = match &from {
                Some((_, model)) => Trainer::from_pretrained(&gpu, &settings, data, model)?,
                None => Trainer::new(&gpu, &settings, data)?,
            };
            (trainer, None)
        }
    };
    drop(from); // as large as the model
    if resumed.is_none() {
        Saved::begin(&args.out, &settings).map_err(Error::from)?;
    }
    eprintln!(
        "mamba-wgpu: {} of {} parameters, step {} of {}, on {}",
        settings.task.kind(),
        trainer.parameters().count(),
        trainer.step(),
        settings.schedule.steps,
        describe(&gpu)
    );
    let log_path = args.json_log.clone().unwrap_or_else(|| args.out.join("log.jsonl"));
    let log = Log::open(&log_path, trainer.step())?;
    let cancel = Arc::new(AtomicBool::new(false));
    end_on_ctrl_c(cancel.clone())?;
    Run {
        args,
        settings,
        material,
        trainer,
        log,
        best,
        validation: None,
        judge: None,
        read: None,
        cancel,
        begin: Instant::now(),
    }
    .all()
    .await
}

impl Args {
    /// Reads the texts; trains a tokenizer where none is given. The vocabulary's size becomes the tokenizer's, unless there is a
    /// model to begin with, `from`, whose tokenizer is taken.
    fn material(
        &self,
        settings: &mut Settings,
        resumed: Option<&Path>,
        from: Option<&Checkpoint>,
    ) -> anyhow::Result<Material> {
        let Task::Text { length, vocab_size } = &mut settings.task else {
            for (flag, given) in
                [("text", &self.text), ("validation-text", &self.validation_text), ("tokenizer", &self.tokenizer)]
            {
                if given.is_some() {
                    return Err(misuse(format!("--{flag}: only the task text has one")));
                }
            }
            return Ok(Material { data: Arc::new(settings.task.clone()), validation: None, tokenizer_json: None });
        };
        let read = |flag: &str, path: &Path| -> anyhow::Result<String> {
            read_text(&format!("--{flag} {}", path.display()), path)
        };
        let path = self.text.as_deref().ok_or_else(|| misuse("--text is needed for the task text"))?;
        let text = read("text", path)?;
        let validation_text = match &self.validation_text {
            Some(path) => Some((path, read("validation-text", path)?)),
            None => None,
        };
        let known = |path: &Path, text: &str| TextId::of(&path.display().to_string(), text);
        let now = (known(path, &text), validation_text.as_ref().map(|(path, text)| known(path, text)));
        if resumed.is_none() {
            (settings.text, settings.validation_text) = (Some(now.0), now.1);
        } else {
            let other = |error: TrainError| misuse(error.to_string());
            match &settings.text {
                Some(began) => began.check("--text", &now.0).map_err(other)?,
                None => {
                    eprintln!("warning: --text: the run does not say which text it began with, so this may be another")
                }
            }
            match (&settings.validation_text, &now.1) {
                (Some(began), Some(now)) => began.check("--validation-text", now).map_err(other)?,
                (Some(began), None) => {
                    eprintln!("warning: nothing is validated: this run began with --validation-text {began}");
                }
                (None, _) => {}
            }
        }
        let given = match (&self.tokenizer, resumed) {
            (Some(path), None) => Some(path.clone()),
            (Some(_), Some(_)) => return Err(misuse("--tokenizer: a run that is resumed has its own")),
            (None, Some(checkpoint)) => Some(checkpoint.join("tokenizer.json")),
            (None, None) => None,
        };
        let json = match (given, from) {
            (Some(path), _) => std::fs::read(&path).with_context(|| format!("--tokenizer {}", path.display()))?,
            (None, Some(model)) => {
                let own = model.tokenizer_json();
                own.ok_or_else(|| misuse("--tokenizer is needed: the model of --from has none"))?.to_vec()
            }
            (None, None) => train_tokenizer(&text, *vocab_size).map_err(TrainError::from).map_err(Error::from)?,
        };
        let tokenizer = Tokenizer::from_bytes(&json, usize::MAX).map_err(Error::from)?;
        if resumed.is_none() && from.is_none() {
            *vocab_size = tokenizer.vocab_size();
        }
        let tokenizer = Tokenizer::from_bytes(&json, *vocab_size).map_err(Error::from)?;
        let tokens = |name: &Path, text: &str| {
            TextData::new(&name.display().to_string(), text, &tokenizer, *length)
                .map_err(TrainError::from)
                .map_err(Error::from)
        };
        let data = tokens(path, &text)?;
        let validation = validation_text.map(|(path, text)| tokens(path, &text)).transpose()?;
        eprintln!(
            "mamba-wgpu: {} tokens to train on, {} to validate on, a vocabulary of {}",
            data.tokens().len(),
            validation.as_ref().map_or(0, |v| v.tokens().len()),
            *vocab_size
        );
        Ok(Material { data: Arc::new(data), validation, tokenizer_json: Some(json) })
    }

    fn every(given: Option<u64>, steps: u64, part: u64) -> u64 {
        given.unwrap_or((steps / part).max(1))
    }
}

/// Batches are made ahead, by another thread.
fn make_ahead(settings: &Settings, data: &Arc<dyn Data>, first: u64) -> Receiver<Vec<Batch>> {
    let (sender, receiver) = sync_channel(8);
    let (settings, data) = (settings.clone(), data.clone());
    std::thread::spawn(move || {
        for step in first..=settings.schedule.steps {
            // Nobody listens any more: the run has ended.
            if sender.send(Trainer::batches(&settings, data.as_ref(), step)).is_err() {
                break;
            }
        }
    });
    receiver
}

struct Run {
    args: Args,
    settings: Settings,
    material: Material,
    trainer: Trainer,
    log: Log,
    /// The best validation loss.
    best: Option<f64>,
    /// The last one.
    validation: Option<Evaluation>,
    judge: Option<Tape>,
    /// What the last checkpoint was written from: a step that makes the best model, too, reads it once.
    read: Option<TrainerState>,
    cancel: Arc<AtomicBool>,
    begin: Instant,
}

/// Bytes' share of a text's loss.
fn bits_per_byte(e: &Evaluation, bytes: usize) -> f64 {
    e.nll_sum / std::f64::consts::LN_2 / bytes.max(1) as f64
}

/// Windows of validation texts, as `mamba-wgpu score` has them.
const WINDOW: usize = 1024;
/// Tokens that are validated together.
const ROWS: usize = 1 << 16;

impl Run {
    async fn all(mut self) -> anyhow::Result<ExitCode> {
        let outcome = self.steps().await;
        // Whatever ended it: what the log and the curve have is kept.
        self.log.flush()?;
        let curve = self.args.plot.clone().unwrap_or_else(|| self.args.out.join("loss.svg"));
        plot(self.log.lines(), &curve)?;
        let ended = outcome?;
        let step = self.trainer.step();
        let seconds = self.begin.elapsed().as_secs_f64();
        let validation = self.validation.map(|e| self.describe(&e));
        if self.args.json {
            print_json(&json!({
                "task": self.settings.task.kind(),
                "steps": step,
                "loss": self.log.last_loss(),
                "validation": validation,
                "best": self.best,
                "seconds": seconds,
                "cancelled": ended,
                "out": self.args.out,
            }))?;
        } else {
            let loss = self.log.last_loss().map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
            print_line(&format!("step {step}{loss}, {seconds:.1} s, in {}", self.args.out.display()))?;
            if let Some(validation) = validation {
                print_line(&format!("validation: {validation}"))?;
            }
        }
        Ok(if ended { ExitCode::from(130) } else { ExitCode::SUCCESS })
    }

    /// All steps; whether Ctrl-C ended them.
    async fn steps(&mut self) -> anyhow::Result<bool> {
        let steps = self.settings.schedule.steps;
        let log_every = self.args.log_every;
        let validate_every = Args::every(self.args.validate_every, steps, 20);
        let checkpoint_every = Args::every(self.args.checkpoint_every, steps, 10);
        let batches = make_ahead(&self.settings, &self.material.data, self.trainer.step() + 1);
        let bar = Progress::count("training");
        let tokens_a_step = (self.settings.batch * self.material.data.length()) as f64;
        let (mut since, mut steps_since) = (Instant::now(), 0u64);
        let mut said: Option<Instant> = None;
        while self.trainer.step() < steps && !self.cancel.load(Ordering::Relaxed) {
            let batch = batches.recv().context("making batches")?;
            self.trainer.submit(batch)?;
            steps_since += 1;
            let step = self.trainer.step();
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            let (validate, save) = (due(validate_every), due(checkpoint_every));
            let slow = since.elapsed() > Duration::from_millis(500);
            if !(validate || save || step == steps || due(log_every) || slow || self.trainer.room() == 0) {
                continue;
            }
            let records = self.trainer.records().await?;
            let rate = steps_since as f64 / since.elapsed().as_secs_f64();
            for record in &records {
                if record.step.is_multiple_of(log_every) || record.step == steps || record.step == 1 {
                    self.log.step(record, rate * tokens_a_step)?;
                }
            }
            if let Some(last) = records.last() {
                bar.set(step, steps);
                bar.say(format!("loss {:.4}, {rate:.1} steps/s", last.loss));
                // Where no bar is drawn: a line now and then.
                let quiet = said.is_none_or(|said| said.elapsed() > Duration::from_secs(2));
                if (due(log_every) && quiet || step == steps) && !bar.shown() {
                    said = Some(Instant::now());
                    eprintln!("step {step}: loss {:.4}, norm {:.3}, {rate:.2} steps/s", last.loss, last.gradient_norm);
                }
            }
            if validate || step == steps {
                self.validate(&bar).await?;
            }
            if save || step == steps {
                self.save().await?;
            }
            let reached = self.args.stop_at_accuracy.zip(self.validation);
            if validate && reached.is_some_and(|(wanted, e)| e.accuracy() >= wanted) {
                self.save().await?;
                return Ok(false);
            }
            self.read = None; // three times the parameters' memory
            (since, steps_since) = (Instant::now(), 0);
        }
        if self.cancel.load(Ordering::Relaxed) && self.trainer.step() < steps {
            self.trainer.records().await?;
            self.save().await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Writes a checkpoint and the log up to it.
    async fn save(&mut self) -> anyhow::Result<()> {
        self.log.flush()?;
        self.write("checkpoint", self.args.keep).await
    }

    /// Writes the model as it is now, and keeps the newest `keep` of its kind.
    async fn write(&mut self, kind: &str, keep: usize) -> anyhow::Result<()> {
        let state = match self.read.take().filter(|state| state.step == self.trainer.step()) {
            Some(state) => state,
            None => self.trainer.state().await?,
        };
        let tokenizer_json = self.material.tokenizer_json.as_deref();
        let saved = Saved { settings: &self.settings, state: &state, tokenizer_json, best: self.best };
        saved.write(&self.args.out, kind).map_err(Error::from)?;
        self.read = Some(state);
        Ok(remove_old(&self.args.out, kind, keep).map_err(Error::from)?)
    }

    /// Looks at data that is not trained on, and keeps the model if it is the best so far.
    async fn validate(&mut self, bar: &Progress) -> anyhow::Result<()> {
        let Some(e) = self.judge().await? else { return Ok(()) };
        let step = self.trainer.step();
        let text = self.describe(&e);
        self.log.validation(step, &e, self.material.validation.as_ref().map(|v| bits_per_byte(&e, v.bytes())))?;
        bar.println(&format!("step {step}: validation {text}"));
        self.validation = Some(e);
        // Of a text the loss counts. Of a task what is wrong, whatever the loss says: with smoothed labels it is lowest where the
        // model is too sure. Of equals the later one: what is still being learnt does not show any more.
        let measure = match self.settings.task {
            Task::Text { .. } => e.loss(),
            _ => 1.0 - e.accuracy(),
        };
        if self.best.is_none_or(|best| measure <= best) {
            self.best = Some(measure);
            self.write("best", 1).await?;
        }
        Ok(())
    }

    fn describe(&self, e: &Evaluation) -> String {
        match &self.material.validation {
            Some(text) => {
                format!("loss {:.4} nats a token, {:.4} bits a byte", e.loss(), bits_per_byte(e, text.bytes()))
            }
            None => format!("loss {:.4}, accuracy {:.2}%", e.loss(), 100.0 * e.accuracy()),
        }
    }

    /// `None`: there is nothing to validate on.
    async fn judge(&mut self) -> anyhow::Result<Option<Evaluation>> {
        let length = self.material.data.length();
        let micro = self.settings.micro_batch();
        let text = matches!(self.settings.task, Task::Text { .. });
        if text && self.material.validation.is_none() {
            return Ok(None);
        }
        let (sequences, length) = match text {
            true => ((micro * length).div_ceil(WINDOW).max(1), WINDOW),
            false => ((ROWS / length).clamp(1, self.args.validation_sequences as usize), length),
        };
        if self.judge.is_none() {
            self.judge = Some(self.trainer.evaluation(sequences, length)?);
        }
        let mut all = Evaluation::default();
        let Some(tape) = &self.judge else { return Ok(None) };
        if let Some(text) = &self.material.validation {
            let origin = self.settings.origin.as_ref();
            let beginning = origin.and_then(|o| beginning_token(o.bos_token_id, &o.eos_token_id)).unwrap_or(0);
            let mut at = 0;
            while let Some(batch) = text.window(beginning, length, at, sequences) {
                all.add(&tape.evaluate(&batch).await?);
                at += sequences;
            }
        } else {
            let mut first = 0;
            while first < self.args.validation_sequences {
                let batch = self.settings.task.batch(self.settings.seed, Purpose::Validation, first, sequences);
                all.add(&tape.evaluate(&batch).await?);
                first += sequences as u64;
            }
        }
        Ok(Some(all))
    }
}
