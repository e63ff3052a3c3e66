//! The thread that owns the model and its text. It takes commands one after the other; a text being written ends at once when
//! the cancel flag of its options is set.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::Arc;
use std::time::Instant;

use mamba_wgpu::explain::{explain, ExplainOptions};
use mamba_wgpu::generate::{FinishReason, GenerateError, GenerateOptions, Generator, Text, Tokenizer};
use mamba_wgpu::gpu::{best_hardware, AdapterChoice, AdapterSummary, Gpu, GpuError, GpuOptions};
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelId, ModelOptions, SavedState};
use mamba_wgpu::{Error, Result};

use super::explain_state::{Explained, MOST};
use super::messages::{Command, Event, ModelInfo, Speed, Start};
use super::problem::{Problem, WayOn};
use super::settings::{Device, Source};
use crate::common;
use crate::generate::Times;

/// Tokens of a prompt that are read at a time: few, so that the window, which draws on the same device, waits for no more.
const CHUNK: usize = 256;
/// Tokens between the states kept for going back.
const KEEP_EVERY: usize = 64;

/// Tells the window, and wakes it.
#[derive(Clone)]
pub struct Events {
    pub to: Sender<Event>,
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

impl Events {
    pub fn send(&self, event: Event) {
        // A window that is gone needs to know nothing.
        let _ = self.to.send(event);
        (self.wake)();
    }
}

/// What there is to compute on.
pub struct Devices {
    list: Vec<AdapterSummary>,
    /// The device that the window draws with, if models can run on it.
    window: Option<Gpu>,
    /// Devices opened since.
    opened: Vec<(Device, Gpu)>,
}

impl Devices {
    pub fn new(list: Vec<AdapterSummary>, window: Option<Gpu>) -> Self {
        Self { list, window, opened: Vec::new() }
    }

    /// What a choice comes to; never [`Device::Auto`].
    pub fn resolve(&self, device: &Device) -> Device {
        // What the window draws on may stand in no list.
        let shown = self.window.as_ref().map(Gpu::adapter_summary).filter(|adapter| !adapter.software());
        match device {
            Device::Auto => best_hardware(&self.list).or(shown).map_or(Device::Cpu, of),
            chosen => chosen.clone(),
        }
    }

    /// The backend that a choice names, and whether it is the window's own device.
    async fn open(&mut self, device: &Device) -> Result<(Backend, bool), GpuError> {
        let device = self.resolve(device);
        if device == Device::Cpu {
            return Ok((Backend::Cpu, false));
        }
        if let Some(gpu) = self.window.as_ref().filter(|gpu| of(gpu.adapter_summary()) == device) {
            return Ok((Backend::Gpu(gpu.clone()), true));
        }
        if let Some((_, gpu)) = self.opened.iter().find(|(opened, _)| *opened == device) {
            return Ok((Backend::Gpu(gpu.clone()), false));
        }
        let gpu = open_alone(&self.list, &device).await?;
        self.opened.push((device, gpu.clone()));
        Ok((Backend::Gpu(gpu), false))
    }

    /// A lost device is of no use any more.
    fn forget(&mut self, device: &Device) {
        self.opened.retain(|(opened, _)| opened != device);
        if self.window.as_ref().is_some_and(|gpu| of(gpu.adapter_summary()) == *device) {
            self.window = None;
        }
    }
}

pub fn of(adapter: &AdapterSummary) -> Device {
    Device::Adapter { name: adapter.name.clone(), backend: adapter.backend.clone() }
}

/// Opens an adapter of the list on a device of its own.
pub async fn open_alone(list: &[AdapterSummary], device: &Device) -> Result<Gpu, GpuError> {
    let adapter = match device {
        Device::Auto | Device::Cpu => None,
        chosen => {
            let unknown = || GpuError::UnknownAdapter {
                wanted: chosen.to_string(),
                available: list.iter().map(AdapterSummary::line).collect(),
            };
            let found = list.iter().position(|adapter| of(adapter) == *chosen).ok_or_else(unknown)?;
            Some(AdapterChoice::Index(found))
        }
    };
    Gpu::new(&GpuOptions { adapter, ..GpuOptions::default() }).await
}

/// A model with its one text.
struct Loaded {
    model: LanguageModel,
    tokenizer: Tokenizer,
    id: ModelId,
    on: Device,
    /// None only while it is generated from.
    text: Option<Text>,
}

pub struct Worker {
    events: Events,
    devices: Devices,
    loaded: Option<Loaded>,
}

impl Worker {
    pub fn new(events: Events, devices: Devices) -> Self {
        Self { events, devices, loaded: None }
    }

    /// Works until the window is gone.
    pub fn run(mut self, commands: &Receiver<Command>) {
        while let Ok(command) = commands.recv() {
            pollster::block_on(self.obey(command));
        }
    }

    pub async fn obey(&mut self, command: Command) {
        let (title, result) = match command {
            Command::Load { source, device } => return self.load(source, device).await,
            Command::SwitchOff { device, variants } => {
                if let Ok((Backend::Gpu(gpu), _)) = self.devices.open(&device).await {
                    variants.into_iter().for_each(|variant| gpu.switch_off(variant));
                }
                return;
            }
            Command::Generate { start, options } => {
                ("The text could not be continued", self.generate(start, *options).await)
            }
            Command::Fork(name) => ("The point could not be kept", self.fork(name).await),
            Command::Restore(state) => ("The text could not be brought back", self.restore(&state, None)),
            Command::Explain(text) => ("The text could not be explained", self.explain(&text).await),
            Command::Rewind(length) => ("The text could not be taken back", self.rewind(length).await),
            Command::SaveState(path) => ("The state was not saved", self.save(&path).await),
            Command::OpenState(path) => ("The state could not be opened", self.open_state(&path)),
            // Not the worker's.
            Command::Check(_) | Command::Bench { .. } | Command::SaveReport { .. } | Command::Browse(_) => return,
        };
        if let Err(error) = result {
            if matches!(error, Error::Gpu(GpuError::Lost { .. })) {
                if let Some(loaded) = self.loaded.take() {
                    self.devices.forget(&loaded.on);
                }
            }
            self.events.send(Event::Failed(Problem::of(title, &error)));
        }
    }

    async fn load(&mut self, source: Source, device: Device) {
        // The one before must go first: two may not fit.
        self.loaded = None;
        match self.try_load(&source, &device).await {
            Ok(info) => self.events.send(Event::Loaded(Box::new(info))),
            Err(problem) => self.events.send(Event::LoadFailed { source, problem }),
        }
    }

    async fn try_load(&mut self, source: &Source, device: &Device) -> Result<ModelInfo, Problem> {
        const TITLE: &str = "The model could not be loaded";
        let failed = |error: Error| Problem::of(TITLE, &error);
        let in_words = |error: anyhow::Error| {
            let ways = [WayOn::OpenAnother, WayOn::UseEmbedded];
            Problem::new(TITLE, format!("{error:#}")).with(&ways)
        };
        let path = match source {
            Source::Embedded => None,
            Source::Path(path) => Some(path.as_path()),
        };
        let checkpoint = common::open_model(path, &common::LoraArgs::default()).map_err(in_words)?;
        let tokenizer = common::tokenizer(&checkpoint).map_err(in_words)?;
        let mut warnings = checkpoint.warnings().to_vec();
        let mut on = self.devices.resolve(device);
        let software = self.devices.list.iter().find(|adapter| adapter.software());
        if let (Device::Auto, Device::Cpu, Some(software)) = (device, &on, software) {
            warnings.push(format!("It runs on the CPU, which is faster than {}, in software.", of(software)));
        }
        let loading = match self.devices.open(&on).await {
            Ok((backend, shared)) => self.bring(&checkpoint, &backend).await.map(|model| (model, shared)),
            Err(error) => Err(error.into()),
        };
        let (model, shared) = match loading {
            // Nobody asked for this very device.
            Err(Error::Gpu(error)) if *device == Device::Auto => {
                warnings.push(format!("It runs on the CPU: {error}"));
                on = Device::Cpu;
                (self.bring(&checkpoint, &Backend::Cpu).await.map_err(failed)?, false)
            }
            done => done.map_err(failed)?,
        };
        let text = Text::new(model.session().map_err(failed)?).keeping_states(KEEP_EVERY);
        let weights = checkpoint.weights();
        let id = ModelId::of(&checkpoint);
        let info = ModelInfo {
            source: source.clone(),
            description: id.description.clone(),
            parameters: weights.parameters(),
            weight_bytes: weights.total_bytes(),
            device: crate::placement::backend_name(&model),
            on: on.clone(),
            shared,
            memory: memory(&model),
            sampling: checkpoint.generation_config().settings.clone(),
            warnings,
        };
        self.loaded = Some(Loaded { model, tokenizer, id, on, text: Some(text) });
        Ok(info)
    }

    async fn bring(&self, checkpoint: &Checkpoint, backend: &Backend) -> Result<LanguageModel> {
        let options = ModelOptions { chunk: CHUNK, ..ModelOptions::default() };
        let mut told = Instant::now();
        let mut progress = |done, total| {
            if done == total || told.elapsed().as_millis() > 30 {
                told = Instant::now();
                self.events.send(Event::Loading { done, total });
            }
        };
        LanguageModel::load(checkpoint, backend, options, &mut progress).await
    }

    async fn generate(&mut self, start: Start, mut options: GenerateOptions) -> Result<()> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        options.prefill_chunk = CHUNK;
        // All that can be refused is refused before the text is touched.
        options.validate()?;
        let added = match &start {
            // As transformers' tokenizer(text): what is added later has nothing before it.
            Start::Prompt(prompt) => loaded.tokenizer.encode_with_special_tokens(prompt)?,
            Start::Add(added) => loaded.tokenizer.encode(added)?,
            Start::Continue => Vec::new(),
        };
        let mut text = loaded.take_text()?;
        let ready = prepare(&mut text, &start, &added).await;
        let before = ready.and_then(|()| Ok(loaded.tokenizer.decode_so_far(text.tokens())?));
        let before = match before {
            Ok(before) => before,
            Err(error) => {
                loaded.text = Some(text);
                return Err(error);
            }
        };
        self.events.send(Event::Began { text: before, seed: options.params.seed });
        // It took the text along, so a refusal (there is none left) would cost it: the next text begins anew.
        let mut generator = text.generate(&loaded.tokenizer, options)?;
        let result = write(&mut generator, &loaded.model, &self.events).await;
        let text = Text::from_generator(generator);
        let tokens = text.tokens().len();
        loaded.text = Some(text);
        let (reason, speed) = result?;
        self.events.send(Event::Finished { reason, speed, tokens });
        Ok(())
    }

    /// The begin of a text, if it is long, on a session of its own.
    async fn explain(&mut self, text: &str) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let mut tokens = loaded.tokenizer.encode_with_special_tokens(text)?;
        let left_out = tokens.len().saturating_sub(MOST);
        tokens.truncate(MOST);
        let progress = &mut |done, total| self.events.send(Event::Explaining { done, total });
        let explanation = explain(&loaded.model, &tokens, &ExplainOptions::default(), progress).await?;
        let pieces = loaded.tokenizer.pieces(&tokens)?;
        self.events.send(Event::Explained(Arc::new(Explained { pieces, explanation, left_out })));
        Ok(())
    }

    async fn fork(&mut self, name: String) -> Result<()> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let state = Arc::new(loaded.save().await?);
        self.events.send(Event::Forked { name, state });
        Ok(())
    }

    async fn save(&mut self, path: &Path) -> Result<()> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        loaded.save().await?.write(path)?;
        self.events.send(Event::Saved(path.into()));
        Ok(())
    }

    fn open_state(&mut self, path: &Path) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let state = SavedState::read(path)?;
        state.check_model(&path.display().to_string(), &loaded.states_id())?;
        self.restore(&state, Some(format!("Opened {}", path.display())))
    }

    fn restore(&mut self, state: &SavedState, note: Option<String>) -> Result<()> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        // A branch may be older than the model that is open now.
        state.check_model("this branch", &loaded.states_id())?;
        let mut text = loaded.take_text()?;
        let result = text.restore(state);
        loaded.text = Some(text);
        result?;
        self.show(note)
    }

    async fn rewind(&mut self, length: usize) -> Result<()> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let mut text = loaded.take_text()?;
        let result = text.rewind(length.max(1)).await;
        if result.is_err() {
            text.clear();
        }
        loaded.text = Some(text);
        let shown = self.show(None);
        result.and(shown)
    }

    /// Shows the text as it is.
    fn show(&self, note: Option<String>) -> Result<()> {
        let Some(Loaded { tokenizer, text: Some(text), .. }) = &self.loaded else { return Ok(()) };
        let tokens = text.tokens();
        let (text, tokens) = (tokenizer.decode(tokens)?, tokens.len());
        self.events.send(Event::Text { text, tokens, note });
        Ok(())
    }
}

impl Loaded {
    /// The text, to be put back; a new one where an error had taken it.
    fn take_text(&mut self) -> Result<Text> {
        match self.text.take() {
            Some(text) => Ok(text),
            None => Ok(Text::new(self.model.session()?).keeping_states(KEEP_EVERY)),
        }
    }

    /// What its states say of it.
    fn states_id(&self) -> ModelId {
        self.id.clone().with_tokenizer(&self.tokenizer)
    }

    async fn save(&mut self) -> Result<SavedState> {
        let mut text = self.take_text()?;
        let saved = match text.tokens().is_empty() {
            true => Err(GenerateError::EmptyPrompt.into()),
            false => text.save(&self.states_id()).await,
        };
        self.text = Some(text);
        saved
    }
}

/// Leaves the text with a token to feed.
async fn prepare(text: &mut Text, start: &Start, added: &[u32]) -> Result<()> {
    let nothing = match start {
        Start::Prompt(_) => added.is_empty(),
        Start::Add(_) | Start::Continue => text.tokens().is_empty() && added.is_empty(),
    };
    if nothing {
        return Err(GenerateError::EmptyPrompt.into());
    }
    if matches!(start, Start::Prompt(_)) {
        text.clear();
    }
    text.push(added);
    if text.pending().is_empty() {
        // The model ended this text: its last token is drawn after again.
        text.rewind(text.tokens().len()).await?;
    }
    Ok(())
}

fn memory(model: &LanguageModel) -> Option<u64> {
    model.gpu().map(|gpu| gpu.memory_bytes().0)
}

/// Runs a generator to its end.
async fn write(
    generator: &mut Generator<Text>,
    model: &LanguageModel,
    events: &Events,
) -> Result<(FinishReason, Speed)> {
    let start = Instant::now();
    generator.prefill(&mut |done, total| events.send(Event::Reading { done, total })).await?;
    let mut times = Times { prefill: start.elapsed(), first_token: None, total: start.elapsed() };
    let speed = |times: &Times, generator: &Generator<Text>| {
        let stats = generator.stats();
        Speed {
            stats,
            first_token: times.first_token,
            prefill_rate: (stats.prompt_tokens > 0).then(|| times.prefill_rate(&stats)),
            decode_rate: times.decode_rate(&stats),
            memory: memory(model),
        }
    };
    while let Some(piece) = generator.next().await? {
        times.total = start.elapsed();
        times.first_token.get_or_insert(times.total);
        events.send(Event::Piece { text: piece.text, speed: speed(&times, generator) });
    }
    // The generator has ended, so it knows why.
    let reason = generator.finish_reason().unwrap_or(FinishReason::Cancelled);
    Ok((reason, speed(&times, generator)))
}
