//! `mamba-wgpu train`: a model from nothing or from another's weights, on a task of the paper or on a text.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context};
use mamba_wgpu::files::Output;
use mamba_wgpu::model::{locate, Checkpoint};
use mamba_wgpu::train::random::Purpose;
use mamba_wgpu::train::{
    latest_checkpoint, read_settings, remove_old, Batch, Data, Evaluation, Pretrained, Questions, RunFolder, Saved,
    Settings, Tape, Task, TaskKind, TrainError, Trainer, TrainerState,
};
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{describe, open_model, LoraArgs};
use crate::errors::misuse;
use crate::exit::ExitCode;
use crate::output::{lost, print_json, print_line, Progress};
use crate::signals;
pub use crate::train_args::Args;
use crate::train_log::{plot, Log};
use crate::train_material::Material;
use crate::train_recipe::setting_error;

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    args.gpu.check("training needs a GPU (a software one, such as Mesa's lavapipe, will do)")?;
    // Everything that can be refused is refused before anything is written.
    let mut from: Option<(Checkpoint, Pretrained)> = None;
    let (mut settings, resumed, folder) = match (args.resume, args.task) {
        (false, Some(task)) => {
            let folder = RunFolder::begin(&args.out, args.force).map_err(folder_error)?;
            if let Some(path) = &args.from {
                let checkpoint = open_model(Some(path), &LoraArgs::default())?;
                let pretrained = Pretrained::new(&checkpoint)?;
                from = Some((checkpoint, pretrained));
            }
            let pretrained = from.as_ref().map(|(_, pretrained)| pretrained);
            let run = args.from.as_deref().and_then(|path| run_of(path, task));
            (args.recipe.settings(task, pretrained, run.as_ref()), None, folder)
        }
        _ => {
            let (folder, checkpoint) = RunFolder::go_on(&args.out).map_err(folder_error)?;
            (read_settings(&args.out).map_err(Error::from)?, Some(checkpoint), folder)
        }
    };
    settings.check().map_err(setting_error)?;
    let (log, curve) = args.places(resumed.is_some())?;
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
    // The same run once more, of which no checkpoint was left, writes the same lines.
    let again = read_settings(&args.out).is_ok_and(|before| before == settings);
    drop(from); // as large as the model
    if resumed.is_none() {
        Saved::begin(&args.out, &settings).map_err(Error::from)?;
    }
    eprintln!(
        "mamba-wgpu: training on {}, a model of {} parameters, {} of {} steps done, on {}",
        settings.task.kind(),
        trainer.parameters().count(),
        trainer.step(),
        settings.schedule.steps,
        describe(&gpu)
    );
    // A log somewhere else may be several runs'.
    let name = args.json_log.as_ref().map(|_| std::path::absolute(&args.out)).transpose()?;
    let name = name.map(|path| path.display().to_string());
    let log = match resumed.is_some() || again {
        true => Log::go_on(log, name, trainer.step())?,
        false => Log::new(log, name),
    };
    let cancel = Arc::new(AtomicBool::new(false));
    signals::ask(&cancel);
    Run {
        args,
        _folder: folder,
        curve,
        settings,
        material,
        trainer,
        log,
        best,
        validation: None,
        judge: None,
        read: None,
        cancel,
        unjudged: false,
        begin: Instant::now(),
    }
    .all()
    .await
}

/// How the model of `--from` was trained, where its folder says so and the task was the same.
fn run_of(from: &Path, task: TaskKind) -> Option<Settings> {
    let checkpoint = locate(from).ok()?;
    read_settings(&checkpoint.path).ok().filter(|settings| settings.task.kind() == task)
}

/// What a folder is refused for, in the words of the command line.
fn folder_error(error: TrainError) -> anyhow::Error {
    match error {
        TrainError::Foreign { .. } => misuse(format!("--out {error} (--force begins there all the same)")),
        TrainError::Begun { .. } => misuse(format!("--out {error}")),
        TrainError::Locked { .. } => anyhow!("--out {error}"),
        error => Error::from(error).into(),
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
    /// Ours until the run has ended.
    _folder: RunFolder,
    curve: Output,
    settings: Settings,
    material: Material,
    trainer: Trainer,
    log: Log,
    /// How the best model so far did, the smaller the better: [`Run::validate`].
    best: Option<f64>,
    /// The last one.
    validation: Option<Evaluation>,
    judge: Option<Tape>,
    /// What the last checkpoint was written from: a step that makes the best model, too, reads it once.
    read: Option<TrainerState>,
    cancel: Arc<AtomicBool>,
    /// Whether a validation was given up for a signal.
    unjudged: bool,
    begin: Instant,
}

/// Bytes' share of a text's loss.
fn bits_per_byte(e: &Evaluation, bytes: usize) -> f64 {
    e.nll_sum / std::f64::consts::LN_2 / bytes.max(1) as f64
}

/// Windows of validation texts, as `mamba-wgpu score` has them.
const WINDOW: usize = 1024;
/// Tokens that are validated together, at least and at most: about as many as a step has, since a signal is looked for between them.
const ROWS: (usize, usize) = (1 << 10, 1 << 13);

impl Run {
    async fn all(mut self) -> anyhow::Result<ExitCode> {
        let outcome = self.steps().await;
        // Whatever ended it: what the log and the curve have is kept, and what there is to say is said.
        let log = self.log.flush().map_err(lost("json-log", "the end of the log"));
        let curve = plot(self.log.lines(), &self.curve);
        let printed = self.report(outcome.as_ref().copied().unwrap_or(false));
        // The worst first: a checkpoint that could not be written, not the curve on the same disk.
        let ended = match outcome {
            Err(error) => {
                for also in [log.err(), curve.err()].into_iter().flatten() {
                    eprintln!("warning: {also:#}");
                }
                return Err(error);
            }
            Ok(ended) => ended,
        };
        log?;
        curve.context("--plot: the curve is lost")?;
        printed?;
        Ok(if ended { signals::exit_code() } else { ExitCode::SUCCESS })
    }

    /// How far the run came.
    fn report(&self, ended: bool) -> std::io::Result<()> {
        let step = self.trainer.step();
        let seconds = self.begin.elapsed().as_secs_f64();
        let validation = self.validation.map(|e| self.describe(&e));
        if self.args.json {
            return print_json(&json!({
                "task": self.settings.task.kind(),
                "steps": step,
                "loss": self.log.last_loss(),
                "validation": validation,
                "validation_loss": self.validation.map(|e| e.loss()),
                "accuracy": self.validation.map(|e| e.accuracy()),
                "best": self.best,
                "seconds": seconds,
                "cancelled": ended,
                "out": self.args.out,
            }));
        }
        let loss = self.log.last_loss().map_or_else(String::new, |loss| format!(", training loss {loss:.4}"));
        print_line(&format!("step {step}{loss}, {seconds:.1} s, in {}", self.args.out.display()))?;
        if let Some(validation) = validation {
            print_line(&format!("validation: {validation}"))?;
        }
        if let Some(best) = latest_checkpoint(&self.args.out, "best") {
            print_line(&format!("best model: {}", best.display()))?;
        }
        Ok(())
    }

    /// All steps; whether a signal ended them.
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
                    self.log.step(record, rate * tokens_a_step);
                }
            }
            if let Some(last) = records.last() {
                bar.set(step, steps);
                bar.say(format!("loss {:.4}, {rate:.1} steps/s", last.loss));
                // Where no bar is drawn: a line now and then.
                let quiet = said.is_none_or(|said| said.elapsed() > Duration::from_secs(2));
                if (due(log_every) && quiet || step == steps) && !bar.shown() {
                    said = Some(Instant::now());
                    let (loss, norm) = (last.loss, last.gradient_norm);
                    eprintln!("step {step} of {steps}: loss {loss:.4}, gradient norm {norm:.3}, {rate:.2} steps/s");
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
        let cancelled = self.cancel.load(Ordering::Relaxed);
        if cancelled && self.trainer.step() < steps {
            self.trainer.records().await?;
            self.save().await?;
        }
        // Between the last step and the end there was a validation, which was not done.
        Ok(cancelled && (self.trainer.step() < steps || self.unjudged))
    }

    /// Writes a checkpoint.
    async fn save(&mut self) -> anyhow::Result<()> {
        self.write("checkpoint", self.args.keep).await
    }

    /// Writes the model as it is now, and keeps the newest `keep` of its kind.
    async fn write(&mut self, kind: &str, keep: usize) -> anyhow::Result<()> {
        let state = match self.read.take().filter(|state| state.step == self.trainer.step()) {
            Some(state) => state,
            None => self.trainer.state().await?,
        };
        let sidecars = &self.material.sidecars;
        let saved = Saved { settings: &self.settings, state: &state, sidecars, best: self.best };
        let written = saved.write(&self.args.out, kind).map_err(Error::from);
        written.with_context(|| {
            let newest = latest_checkpoint(&self.args.out, "checkpoint").map(|path| path.display().to_string());
            let newest = newest.map_or("no checkpoint".into(), |path| format!("{path} (--resume goes on from there)"));
            let kind = if kind == "best" { "best checkpoint" } else { kind };
            format!("the {kind} of step {} is lost, what is left is {newest}", state.step)
        })?;
        self.read = Some(state);
        Ok(remove_old(&self.args.out, kind, keep).map_err(Error::from)?)
    }

    /// Looks at data that is not trained on, and keeps the model if it is the best so far.
    async fn validate(&mut self, bar: &Progress) -> anyhow::Result<()> {
        bar.say("validating".into());
        let Some(e) = self.judge().await? else { return Ok(()) };
        let step = self.trainer.step();
        let text = self.describe(&e);
        self.log.validation(step, &e, self.material.validation.as_ref().map(|v| bits_per_byte(&e, v.bytes())));
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
            None => {
                let (accuracy, right, asked) = (100.0 * e.accuracy(), e.correct, e.counted);
                format!("loss {:.4}, accuracy {accuracy:.2}% ({right} of {asked} answers)", e.loss())
            }
        }
    }

    /// A text as `mamba-wgpu score` reads it, a task as `mamba-wgpu eval` asks it. `None`: there is nothing to validate on, or a
    /// signal came.
    async fn judge(&mut self) -> anyhow::Result<Option<Evaluation>> {
        let rows = (self.settings.micro_batch() * self.material.data.length()).clamp(ROWS.0, ROWS.1);
        let Some(text) = &self.material.validation else {
            if matches!(self.settings.task, Task::Text { .. }) {
                return Ok(None);
            }
            let (task, sequences) = (&self.settings.task, self.args.validation_sequences);
            let asked = Questions::new(task, task.nominal_length(), Purpose::Validation, self.settings.seed, sequences);
            let together = (rows / asked.length()).clamp(1, sequences);
            let tape = tape(&mut self.judge, &self.trainer, (together, asked.length()))?;
            let answers = asked.ask(tape, |_| !self.cancel.load(Ordering::Relaxed)).await?;
            self.unjudged |= answers.is_none();
            return Ok(answers);
        };
        let together = rows.div_ceil(WINDOW).max(1);
        let tape = tape(&mut self.judge, &self.trainer, (together, WINDOW))?;
        let mut all = Evaluation::default();
        let mut at = 0;
        while let Some(batch) = text.window(self.material.beginning, WINDOW, at, together) {
            if self.cancel.load(Ordering::Relaxed) {
                self.unjudged = true;
                return Ok(None);
            }
            all.add(&tape.evaluate(&batch).await?);
            at += together;
        }
        Ok(Some(all))
    }
}

/// The validation's tape, made for the first one.
fn tape<'a>(kept: &'a mut Option<Tape>, trainer: &Trainer, shape: (usize, usize)) -> anyhow::Result<&'a Tape> {
    let tape = match kept.take() {
        Some(tape) => tape,
        None => trainer.evaluation(shape.0, shape.1)?,
    };
    Ok(kept.insert(tape))
}
