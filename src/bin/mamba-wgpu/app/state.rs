//! What the window shows and what its buttons do, without a window: events go in, commands come out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use mamba_wgpu::bench;
use mamba_wgpu::generate::{FinishReason, GenerateError};
use mamba_wgpu::gpu::AdapterSummary;
use mamba_wgpu::model::SavedState;

use super::bench_state::BenchState;
use super::document::Document;
use super::explain_state::ExplainState;
use super::messages::{Browse, Command, Event, ModelInfo, Speed, Start, Verdict};
use super::problem::{Problem, WayOn};
use super::settings::{Device, Settings, Source};
use super::worker::of;
use crate::generate::random_seed;

mod dialog;

pub use dialog::Dialog;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tab {
    Write,
    Explain,
    Device,
    Bench,
}

impl Tab {
    pub const ALL: [Tab; 4] = [Tab::Write, Tab::Explain, Tab::Device, Tab::Bench];
    pub fn name(self) -> &'static str {
        match self {
            Tab::Write => "Write",
            Tab::Explain => "Explain",
            Tab::Device => "Device",
            Tab::Bench => "Bench",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Model {
    /// None, after a failure.
    None,
    Loading {
        source: Source,
        done: u64,
        total: u64,
    },
    Ready(Box<ModelInfo>),
}

/// What the worker is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    Idle,
    Reading {
        done: usize,
        total: usize,
    },
    Writing,
    /// The cancel flag is set, the end not heard of yet.
    Stopping,
    /// Saving, opening, going back.
    Other(&'static str),
}

/// A point kept to come back to.
#[derive(Debug, Clone)]
pub struct Branch {
    pub name: String,
    pub state: Arc<SavedState>,
    /// The text as it was shown.
    pub text: Document,
}

/// What was found out about a device.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    Running {
        done: usize,
        total: usize,
    },
    /// `Err`: it could not be checked.
    Done(Result<Verdict, String>),
}

pub struct State {
    pub settings: Settings,
    pub tab: Tab,
    /// None while they are looked for.
    pub devices: Option<Vec<AdapterSummary>>,
    pub model: Model,
    pub activity: Activity,
    pub text: Document,
    /// Tokens of the text, once the worker told.
    pub tokens: usize,
    pub speed: Option<Speed>,
    pub finish: Option<FinishReason>,
    /// The seed of the text written last.
    pub seed: Option<u64>,
    pub branches: Vec<Branch>,
    pub checks: Vec<(Device, Check)>,
    pub bench: BenchState,
    pub explain: ExplainState,
    pub problem: Option<Problem>,
    /// A word on what went well.
    pub note: Option<String>,
    pub dialog: Option<Dialog>,
    /// Of the text being written.
    cancel: Arc<AtomicBool>,
    outbox: Vec<Command>,
    /// Branches named so far, by the first word of their names.
    named: HashMap<&'static str, usize>,
}

impl State {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            tab: Tab::Write,
            devices: None,
            model: Model::None,
            activity: Activity::Idle,
            text: Document::default(),
            tokens: 0,
            speed: None,
            finish: None,
            seed: None,
            branches: Vec::new(),
            checks: Vec::new(),
            bench: BenchState::default(),
            explain: ExplainState::default(),
            problem: None,
            note: None,
            dialog: None,
            cancel: Arc::default(),
            outbox: Vec::new(),
            named: HashMap::new(),
        }
    }

    /// Commands to be carried out, oldest first.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.outbox)
    }

    /// Hardware GPUs, the CPU, and then what computes in software; None while they are looked for.
    pub fn devices_best_first(&self) -> Option<Vec<(Device, Option<AdapterSummary>)>> {
        let adapters = self.devices.as_ref()?;
        let of_kind = |software| {
            let these = adapters.iter().filter(move |adapter| adapter.software() == software);
            these.map(|adapter| (of(adapter), Some(adapter.clone())))
        };
        Some(of_kind(false).chain([(Device::Cpu, None)]).chain(of_kind(true)).collect())
    }

    pub fn info(&self) -> Option<&ModelInfo> {
        match &self.model {
            Model::Ready(info) => Some(info),
            _ => None,
        }
    }

    pub fn idle(&self) -> bool {
        self.activity == Activity::Idle
    }

    /// Whether a new text, or more of this one, can be asked for now.
    pub fn can_generate(&self) -> bool {
        self.info().is_some() && self.idle()
    }

    pub fn can_continue(&self) -> bool {
        self.can_generate() && !self.text.is_empty()
    }

    // What the user does:

    pub fn open(&mut self, source: Source) {
        self.stop();
        self.dialog = None;
        self.problem = None;
        self.note = None;
        self.model = Model::Loading { source: source.clone(), done: 0, total: 0 };
        self.outbox.push(Command::Load { source, device: self.settings.device.clone() });
    }

    /// As [`State::open`], at the start: what is to be said about the settings stays.
    pub fn open_keeping_problem(&mut self, source: Source) {
        let problem = self.problem.take();
        self.open(source);
        self.problem = problem;
    }

    pub fn choose_device(&mut self, device: Device) {
        if self.settings.device != device {
            self.settings.device = device;
            self.reload();
        }
    }

    pub fn reload(&mut self) {
        let source = match &self.model {
            Model::Ready(info) => info.source.clone(),
            Model::Loading { source, .. } => source.clone(),
            Model::None => self.settings.source(),
        };
        self.open(source);
    }

    pub fn generate(&mut self) {
        self.begin(Start::Prompt(self.settings.prompt.clone()));
    }

    pub fn continue_text(&mut self) {
        if self.can_continue() {
            self.begin(Start::Continue);
        }
    }

    pub fn add_prompt(&mut self) {
        if self.can_continue() {
            self.begin(Start::Add(self.settings.prompt.clone()));
        }
    }

    fn begin(&mut self, start: Start) {
        if !self.can_generate() {
            return;
        }
        let mut options = self.settings.sampling.options(random_seed());
        if let Err(error) = options.validate() {
            self.problem = Some(Problem::new("The sampling's values cannot be used", in_words(&error)));
            return;
        }
        // A new flag each time: one set too late must not end the next text.
        self.cancel = Arc::default();
        options.cancel = self.cancel.clone();
        (self.problem, self.note, self.finish, self.speed) = (None, None, None, None);
        self.activity = Activity::Reading { done: 0, total: 0 };
        self.outbox.push(Command::Generate { start, options: Box::new(options) });
    }

    /// Ends what is being written, or measured on the bench's tab.
    pub fn stop(&mut self) {
        if matches!(self.activity, Activity::Reading { .. } | Activity::Writing) {
            self.cancel.store(true, Ordering::Relaxed);
            self.activity = Activity::Stopping;
        }
    }

    /// Escape: closes what is in front, or else stops what goes on.
    pub fn escape(&mut self) {
        if self.dialog.take().is_some() {
            return;
        }
        match self.activity {
            Activity::Reading { .. } | Activity::Writing => self.stop(),
            _ if self.tab == Tab::Bench && self.bench.running() => self.bench.stop(),
            _ => self.problem = None,
        }
    }

    pub fn fork(&mut self) {
        if self.can_continue() {
            let name = self.name("Branch");
            self.other("Keeping this point", Command::Fork(name));
        }
    }

    pub fn restore(&mut self, index: usize) {
        if !self.can_generate() {
            return;
        }
        if let Some(branch) = self.branches.get(index) {
            let (text, state) = (branch.text.clone(), branch.state.clone());
            self.other("Going back", Command::Restore(state));
            self.text = text;
        }
    }

    /// Explains the text, or the prompt where there is none yet.
    pub fn explain_text(&mut self) {
        if self.can_generate() {
            let text = if self.text.is_empty() { self.settings.prompt.clone() } else { self.text.whole() };
            self.explain.progress = Some((0, 0));
            self.other("Explaining", Command::Explain(text));
        }
    }

    pub fn rewind(&mut self, tokens: usize) {
        if self.can_continue() && tokens < self.tokens {
            self.other("Going back", Command::Rewind(tokens));
        }
    }

    fn other(&mut self, what: &'static str, command: Command) {
        (self.problem, self.note) = (None, None);
        self.activity = Activity::Other(what);
        self.outbox.push(command);
    }

    /// "Branch 1", "Branch 2", ...
    fn name(&mut self, what: &'static str) -> String {
        let count = self.named.entry(what).or_default();
        *count += 1;
        format!("{what} {count}")
    }

    pub fn take(&mut self, way: WayOn) {
        self.problem = None;
        match way {
            WayOn::OpenAnother => self.ask(Browse::ModelFolder),
            WayOn::UseEmbedded => self.open(Source::Embedded),
            WayOn::Reload => self.reload(),
            WayOn::UseCpu => {
                self.settings.device = Device::Cpu;
                self.reload();
            }
        }
    }

    // Checks:

    pub fn check_of(&self, device: &Device) -> Option<&Check> {
        self.checks.iter().find(|(checked, _)| checked == device).map(|(_, check)| check)
    }

    pub fn check(&mut self, device: &Device) {
        if !matches!(self.check_of(device), Some(Check::Running { .. })) {
            self.set_check(device.clone(), Check::Running { done: 0, total: 0 });
            self.outbox.push(Command::Check(device.clone()));
        }
    }

    fn set_check(&mut self, device: Device, check: Check) {
        self.checks.retain(|(checked, _)| *checked != device);
        self.checks.push((device, check));
    }

    fn checked(&mut self, device: Device, verdict: Result<Verdict, String>) {
        if let Ok(Verdict { switched_off, usable, words, .. }) = &verdict {
            let in_use = self.info().is_some_and(|info| info.on == device);
            if !switched_off.is_empty() {
                let variants = switched_off.clone();
                self.outbox.push(Command::SwitchOff { device: device.clone(), variants });
                if in_use {
                    // What is loaded uses them.
                    self.reload();
                }
            }
            if in_use && !usable {
                let title = format!("{device} cannot be relied on");
                self.problem = Some(Problem::new(&title, words.clone()).with(&[WayOn::UseCpu]));
            }
        }
        self.set_check(device, Check::Done(verdict));
    }

    // The bench:

    pub fn start_bench(&mut self, date: String) {
        let device = match (&self.settings.device, self.info()) {
            (_, Some(info)) if info.on != Device::Cpu => info.on.clone(),
            _ => Device::Auto,
        };
        if let Some(options) = self.bench.start(date) {
            self.outbox.push(Command::Bench { device, options: Box::new(options) });
        }
    }

    // What is heard:

    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Devices(devices) => self.devices = Some(devices),
            Event::Loading { done, total } => {
                if let Model::Loading { done: d, total: t, .. } = &mut self.model {
                    (*d, *t) = (done, total);
                }
            }
            Event::Loaded(info) => self.loaded(info),
            Event::LoadFailed { source, problem } => {
                // Another may be on its way already.
                if matches!(&self.model, Model::Loading { source: asked, .. } if *asked == source) {
                    self.model = Model::None;
                    self.activity = Activity::Idle;
                    self.problem = Some(problem);
                }
            }
            Event::Began { text, seed } => {
                self.seed = Some(seed);
                self.text.show(text);
            }
            Event::Reading { done, total } => {
                if matches!(self.activity, Activity::Reading { .. }) {
                    self.activity = Activity::Reading { done, total };
                }
            }
            Event::Piece { text, speed } => {
                if self.activity != Activity::Stopping {
                    self.activity = Activity::Writing;
                }
                self.text.push(&text, true);
                self.speed = Some(speed);
            }
            Event::Finished { reason, speed, tokens } => {
                (self.activity, self.finish) = (Activity::Idle, Some(reason));
                (self.speed, self.tokens) = (Some(speed), tokens);
            }
            Event::Text { text, tokens, note } => {
                self.text.show(text);
                (self.tokens, self.note, self.activity) = (tokens, note, Activity::Idle);
                (self.finish, self.speed) = (None, None);
            }
            Event::Forked { name, state } => {
                self.note = Some(format!("{name} is kept: the text can go back to it."));
                self.branches.push(Branch { name, state, text: self.text.clone() });
                self.activity = Activity::Idle;
            }
            Event::Saved(path) => {
                self.note = Some(format!("Saved {}", path.display()));
                if matches!(self.activity, Activity::Other(_)) {
                    self.activity = Activity::Idle;
                }
            }
            Event::Explaining { done, total } => self.explain.progress = Some((done, total)),
            Event::Explained(explained) => {
                self.explain.show(explained);
                self.activity = Activity::Idle;
            }
            Event::Failed(problem) => {
                self.explain.progress = None;
                self.problem = Some(problem);
                self.activity = Activity::Idle;
            }
            Event::Checking { device, done, total } => self.set_check(device, Check::Running { done, total }),
            Event::Checked { device, verdict } => self.checked(device, verdict),
            Event::Measuring { done, total, what, rows } => self.bench.measuring(done, total, what, rows),
            Event::Measured(report) => self.bench.measured(report),
            Event::BenchFailed(problem) => {
                self.bench.failed();
                self.problem = Some(problem);
            }
            Event::Browsed { what, path: Some(path) } => {
                self.dialog = None;
                self.chosen(what, path);
            }
            Event::Browsed { path: None, .. } => {
                if let Some(dialog) = &mut self.dialog {
                    dialog.browsed = true;
                }
            }
        }
    }

    fn loaded(&mut self, info: Box<ModelInfo>) {
        // An older one than what was asked for last.
        if !matches!(&self.model, Model::Loading { source, .. } if *source == info.source) {
            return;
        }
        self.settings.opened(&info.source);
        self.settings.sampling.take(&info.sampling);
        self.note = info.warnings.first().cloned();
        self.activity = Activity::Idle;
        self.text = Document::default();
        self.explain.shown = None;
        self.explain.progress = None;
        (self.tokens, self.speed, self.finish, self.seed) = (0, None, None, None);
        let on = info.on.clone();
        self.model = Model::Ready(info);
        if self.settings.check && self.check_of(&on).is_none() {
            self.check(&on);
        }
    }

    /// Reports that are worth a file.
    pub fn report(&self) -> Option<&bench::Report> {
        self.bench.report.as_deref()
    }
}

/// The library's words, with the names of the window's fields.
fn in_words(error: &GenerateError) -> String {
    match error {
        GenerateError::InvalidParameter { parameter, value, expected } => {
            format!("{} is {value}: it must be {expected}.", parameter.replace('_', " "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
