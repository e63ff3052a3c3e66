//! `mamba-wgpu train`: a model from nothing or from another's weights, on a task of the paper or on a text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context};
use mamba_wgpu::files::{Kind, Output};
use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::model::{locate, Checkpoint, GenerationConfig, LoadError, Sidecars};
use mamba_wgpu::train::random::Purpose;
use mamba_wgpu::train::tasks::{train_tokenizer, TextData};
use mamba_wgpu::train::{
    latest_checkpoint, read_settings, remove_old, Batch, Data, Evaluation, Origin, Pretrained, Questions, RunFolder,
    Saved, Settings, Tape, Task, TextId, TrainError, Trainer, TrainerState,
};
use mamba_wgpu::Error;
use serde_json::json;

use crate::bench_report::charts::PICTURE;
use crate::common::{at_least_one, describe, open_model, read_text, GpuArgs, LoraArgs};
use crate::errors::misuse;
use crate::output::{lost, place, print_json, print_line, Progress};
use crate::signals;
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
    /// folder, a .safetensors file, or the folder of a run (its best checkpoint is taken, and with the same task its length, batch,
    /// steps and all else that flags may change)
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
    #[arg(long, value_name = "N", default_value = "10", value_parser = some_steps)]
    log_every: u64,
    /// Steps between validations; 0 for none but at the end [default: a twentieth of the steps]
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Sequences of a synthetic task to validate on, each asked once, at its end, as `eval` asks
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least_one)]
    validation_sequences: usize,
    /// Steps between checkpoints; 0 for none but at the end [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints to keep; the best is always kept
    #[arg(long, value_name = "N", default_value = "2", value_parser = at_least_one)]
    keep: usize,
    /// End after the first validation with this part of the answers right (of a text: of its tokens), e.g. 0.999
    #[arg(long, value_name = "PART", value_parser = part)]
    stop_at_accuracy: Option<f64>,
    /// Where the log goes; lines are added to what is there [default: log.jsonl in --out]
    #[arg(long, value_name = "FILE")]
    json_log: Option<PathBuf>,
    /// Where the loss curve goes, as PNG if its name ends so and as SVG otherwise [default: loss.svg in --out]
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Begin in a folder that is no run's, replace a file at --plot that is no picture of this program's
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print one JSON object at the end: task, steps, loss, validation, validation_loss, accuracy, best (of a text the lowest
    /// validation loss, of a task the smallest part of wrong answers), seconds, cancelled, out
    #[arg(long)]
    json: bool,
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

/// What a run learns from and is validated on.
struct Material {
    data: Arc<dyn Data>,
    validation: Option<TextData>,
    /// What goes along with the model: the tokenizer, and with --from all that was beside it.
    sidecars: Sidecars,
    /// The token before a text that is validated on.
    beginning: u32,
}

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
            (args.recipe.settings(task.kind(), pretrained, run.as_ref()), None, folder)
        }
        _ => {
            let settings = read_settings(&args.out).map_err(Error::from)?;
            let checkpoint = latest_checkpoint(&args.out, "checkpoint")
                .ok_or_else(|| TrainError::NoCheckpoint { path: args.out.display().to_string() })
                .map_err(Error::from)?;
            (settings, Some(checkpoint), RunFolder::go_on(&args.out).map_err(folder_error)?)
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
fn run_of(from: &Path, task: TaskName) -> Option<Settings> {
    let checkpoint = locate(from).ok()?;
    read_settings(&checkpoint.path).ok().filter(|settings| settings.task.kind() == task.kind())
}

/// What a folder is refused for, in the words of the command line.
fn folder_error(error: TrainError) -> anyhow::Error {
    match error {
        TrainError::Foreign { .. } => misuse(format!("--out {error} (--force begins there all the same)")),
        TrainError::Begun { .. } | TrainError::Locked { .. } => misuse(format!("--out {error}")),
        error => Error::from(error).into(),
    }
}

impl Args {
    /// Where the log and the curve go, both tried. In the run's own folder what is there is the run's.
    fn places(&self, resumed: bool) -> anyhow::Result<(Output, Output)> {
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
        if curve.file().is_some_and(|curve| log.is_same(curve)) {
            return Err(misuse("--plot and --json-log: they are one file"));
        }
        Ok((log, curve))
    }

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
                    return Err(misuse(format!("--{flag}: it goes with --task text only")));
                }
            }
            let (data, sidecars) = (Arc::new(settings.task.clone()), self.sidecars(resumed, from)?);
            return Ok(Material { data, validation: None, sidecars, beginning: 0 });
        };
        let read = |flag: &str, path: &Path| -> anyhow::Result<String> {
            read_text(&format!("--{flag} {}", path.display()), path)
        };
        if self.stop_at_accuracy.is_some() && self.validation_text.is_none() {
            return Err(misuse("--stop-at-accuracy: the task text needs --validation-text for it"));
        }
        let path =
            self.text.as_deref().ok_or_else(|| misuse("--text is needed: the task text is trained on a file"))?;
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
        let mut sidecars = self.sidecars(resumed, from)?;
        match (&self.tokenizer, resumed.is_some() || from.is_some()) {
            (Some(_), _) if resumed.is_some() => {
                return Err(misuse("--tokenizer: a run that is resumed has its own; leave it out"));
            }
            (Some(path), _) => {
                let json = std::fs::read(path).with_context(|| format!("--tokenizer {}", path.display()))?;
                sidecars = sidecars.with_tokenizer(json);
            }
            (None, true) => {}
            (None, false) => {
                let json = train_tokenizer(&text, *vocab_size)
                    .map_err(|error| Error::from(TrainError::from(error)))
                    .with_context(|| format!("--text {}", path.display()))?;
                sidecars = sidecars.with_tokenizer(json);
            }
        }
        let open = |vocab_size| -> anyhow::Result<Tokenizer> {
            let name = || match (&self.tokenizer, from) {
                (Some(path), _) => format!("--tokenizer {}", path.display()),
                (None, Some(model)) => model.source().to_owned(),
                (None, None) => resumed.unwrap_or(path).display().to_string(),
            };
            let tokenizer = Tokenizer::from_sidecars(&sidecars, vocab_size).map_err(Error::from).with_context(name)?;
            tokenizer.ok_or_else(|| match resumed {
                Some(checkpoint) => anyhow!("{}: the checkpoint's tokenizer is gone", checkpoint.display()),
                None => misuse("--tokenizer is needed: the model of --from has none"),
            })
        };
        if resumed.is_none() && from.is_none() {
            *vocab_size = open(usize::MAX)?.vocab_size();
        }
        let tokenizer = open(*vocab_size)?;
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
        let beginning = beginning(&tokenizer, &sidecars, settings.origin.as_ref()).map_err(Error::from)?;
        Ok(Material { data: Arc::new(data), validation, sidecars, beginning })
    }

    /// What is beside the model that a run begins with, or goes on from.
    fn sidecars(&self, resumed: Option<&Path>, from: Option<&Checkpoint>) -> anyhow::Result<Sidecars> {
        Ok(match (resumed, from) {
            (Some(checkpoint), _) => Sidecars::read(checkpoint).map_err(Error::from)?,
            (None, Some(model)) => model.sidecars().clone(),
            (None, None) => Sidecars::default(),
        })
    }

    fn every(given: Option<u64>, steps: u64, part: u64) -> u64 {
        given.unwrap_or((steps / part).max(1))
    }
}

/// The token before a text, as `mamba-wgpu score` puts it before one for the checkpoints of the run.
fn beginning(tokenizer: &Tokenizer, sidecars: &Sidecars, origin: Option<&Origin>) -> Result<u32, LoadError> {
    let stated = GenerationConfig::of(sidecars)?;
    // Models from nothing have 0 for both (Spec::config_json).
    let (bos, eos) = origin.map_or((Some(0), &[0][..]), |origin| (origin.bos_token_id, &origin.eos_token_id[..]));
    let eos = stated.eos_token_id.as_deref().unwrap_or(eos);
    let tokenizer = tokenizer.clone().with_ends(stated.bos_token_id.or(bos), eos);
    Ok(tokenizer.beginning_of_text().unwrap_or(0))
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
