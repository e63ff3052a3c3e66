//! What several subcommands share: which model, on what, and how it gets there.

use std::fmt::Display;
use std::num::IntErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{anyhow, Context};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::ValueEnum;
use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::gpu::{Gpu, GpuError, GpuOptions};
use mamba_wgpu::model::{
    ActivationDtype, Adapter, Backend, Checkpoint, LanguageModel, ModelOptions, Scan, WeightDtype,
};
use mamba_wgpu::train::Questions;
use mamba_wgpu::Error;

use crate::errors::{adapters_error, gpu_error, in_words, misuse};
use crate::output::Progress;
use crate::placement::{self, backend_name, GpuLayers, PlacementArgs};

#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Folder of a checkpoint (config.json, *.safetensors, tokenizer.json) or one .safetensors file beside them; also a run's
    /// folder of `train`, a trainer's output or a model in Hugging Face's cache [default: the small model built into this program]
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub lora: LoraArgs,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct LoraArgs {
    /// Merge a LoRA adapter in PEFT's format into the model, weighed with SCALE, which is 1 by default (may be given several times;
    /// one in the model's own folder is merged by itself)
    #[arg(long = "lora", value_name = "DIR[=SCALE]", value_parser = lora)]
    adapters: Vec<(PathBuf, f32)>,
}

/// "DIR" or "DIR=0.5". A folder whose name ends so is taken by its name.
fn lora(text: &str) -> Result<(PathBuf, f32), String> {
    let scaled = || {
        let (path, scale) = text.rsplit_once('=')?;
        Some((path, scale.parse::<f32>().ok()?))
    };
    match scaled() {
        Some(("", _)) => Err("there is no folder before the scale".into()),
        Some((_, scale)) if !scale.is_finite() => Err("the scale must be a finite number".into()),
        Some((path, scale)) if !Path::new(text).exists() => Ok((path.into(), scale)),
        Some(_) => Ok((text.into(), 1.0)),
        None => match text.rsplit_once('=') {
            Some((folder, scale)) if !Path::new(text).exists() && !scale.contains('/') => Err(format!(
                "{scale:?}, behind the folder {folder:?}, is no number to weigh it with, and no folder is called {text:?}"
            )),
            _ => Ok((text.into(), 1.0)),
        },
    }
}

#[derive(Debug, clap::Args)]
pub struct BackendArgs {
    /// What to compute on; `auto` takes a hardware GPU, or else the CPU, which is faster than a GPU in software: one of those is
    /// taken only if this flag or --adapter names it
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub backend: BackendName,
    /// Which of several adapters: a part of its name, or its number in `mamba-wgpu adapters`
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    /// How the recurrence over the prompt is computed; all three give the same
    #[arg(long, value_parser = one_of(&Scan::ALL), default_value_t)]
    pub scan: Scan,
    /// How many tokens of the prompt go through the model together; more need more memory
    #[arg(long, value_name = "N", default_value = "2048", value_parser = at_least_one)]
    pub chunk: usize,
    /// How the GPU holds the weights; `auto` keeps what the checkpoint has where the GPU can
    #[arg(long, value_parser = one_of(&WeightDtype::ALL), default_value_t)]
    pub weights: WeightDtype,
    /// How the GPU holds a prompt's activations; `auto` takes f16 where that is much faster and the weights are no finer
    #[arg(long, value_parser = one_of(&ActivationDtype::ALL), default_value_t)]
    pub activations: ActivationDtype,
}

/// Which GPU, for what runs on nothing else.
#[derive(Debug, clap::Args)]
pub struct GpuArgs {
    /// Which API to reach the GPU through; `auto` takes the best GPU, one in software if there is no other
    #[arg(long, value_parser = gpu_backends(), default_value = "auto")]
    backend: BackendName,
    /// Which of several adapters: a part of its name, or its number in `mamba-wgpu adapters`
    #[arg(long, value_name = "NAME|INDEX")]
    adapter: Option<String>,
}

impl GpuArgs {
    /// Refuses `--backend cpu`, before anything is done. `why` is what messages say.
    pub fn check(&self, why: &str) -> anyhow::Result<()> {
        match self.backend {
            BackendName::Cpu => Err(misuse(format!("--backend cpu: {why}"))),
            _ => Ok(()),
        }
    }

    /// Opens it. Says on stderr where it is one in software that nobody has named.
    pub async fn open(&self) -> anyhow::Result<Gpu> {
        let gpu = Gpu::new(&gpu_options(self.backend, self.adapter.as_deref())).await.map_err(gpu_error)?;
        if self.backend == BackendName::Auto && self.adapter.is_none() && gpu.adapter_summary().software() {
            eprintln!("mamba-wgpu: there is no hardware GPU: {} will do, and is slow", describe(&gpu));
        }
        Ok(gpu)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    Auto,
    Cpu,
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

impl BackendName {
    /// The wgpu backend it stands for; `None` for `auto` (any) and `cpu` (none at all).
    pub fn wgpu(self) -> Option<wgpu::Backend> {
        match self {
            Self::Auto | Self::Cpu => None,
            Self::Vulkan => Some(wgpu::Backend::Vulkan),
            Self::Metal => Some(wgpu::Backend::Metal),
            Self::Dx12 => Some(wgpu::Backend::Dx12),
            Self::Gl => Some(wgpu::Backend::Gl),
        }
    }
}

/// For clap, where nothing but a GPU will do: `cpu` is understood, to be refused with the reason, and not offered.
pub fn gpu_backends() -> impl TypedValueParser<Value = BackendName> {
    let values = BackendName::value_variants().iter().filter_map(|backend| {
        let value = backend.to_possible_value()?;
        Some(value.hide(*backend == BackendName::Cpu))
    });
    PossibleValuesParser::new(values).try_map(|name| BackendName::from_str(&name, false))
}

/// One of a library's values, by the names that it gives them, for clap.
pub fn one_of<T: Display + Copy + Send + Sync>(all: &'static [T]) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(T::to_string)).try_map(move |name| {
        all.iter().copied().find(|value| value.to_string() == name).ok_or_else(|| format!("unknown {name}"))
    })
}

/// A whole number of 1 or more, for clap.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    one_to(text, usize::MAX)
}

/// How many sequences a model is asked, for clap.
pub fn sequences(text: &str) -> Result<usize, String> {
    one_to(text, Questions::MAX_SEQUENCES)
}

/// A whole number from 1 to `most`, for clap.
pub fn one_to(text: &str, most: usize) -> Result<usize, String> {
    match usize::from_str(text) {
        Ok(0) => Err("it must be a whole number, 1 or more".into()),
        Ok(number) if number <= most => Ok(number),
        Err(error) if *error.kind() != IntErrorKind::PosOverflow => Err("it must be a whole number, 1 or more".into()),
        _ => Err(format!("it must be at most {most}")),
    }
}

/// A token id or another number of 32 bits, for clap: of more than 64 it would not name the limit.
pub fn up_to_32_bits(text: &str) -> Result<u32, String> {
    u32::from_str(text).map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow => format!("it must be at most {}", u32::MAX),
        _ => "it must be a whole number, 0 or more".into(),
    })
}

impl ModelArgs {
    /// Opens the checkpoint that was asked for, or the embedded one.
    pub fn open(&self) -> anyhow::Result<Checkpoint> {
        open_model(self.model.as_deref(), &self.lora)
    }
}

/// Opens a checkpoint, or the embedded one, with adapters. Says on stderr what was found where the path was not the model's own, and which
/// adapters are merged. (Its warnings are logged, which `output::show_warnings` shows.)
pub fn open_model(path: Option<&Path>, lora: &LoraArgs) -> anyhow::Result<Checkpoint> {
    let mut checkpoint = match path {
        Some(path) => Checkpoint::open(path).map_err(Error::from)?,
        #[cfg(feature = "embedded-model")]
        None => mamba_wgpu::model::embedded::checkpoint().map_err(Error::from)?,
        #[cfg(not(feature = "embedded-model"))]
        None => return Err(misuse("--model is needed: this program was built without its own model")),
    };
    let in_its_folder: Vec<_> =
        checkpoint.adapters().filter_map(|a| Path::new(&a.source).canonicalize().ok()).collect();
    for (path, scale) in &lora.adapters {
        if path.canonicalize().is_ok_and(|path| in_its_folder.contains(&path)) {
            let path = path.display();
            return Err(misuse(format!("--lora {path}: it lies in the model's folder and is merged by itself")));
        }
        let adapter = Adapter::open(path).map_err(Error::from)?;
        checkpoint = checkpoint.with_adapter(adapter, *scale).map_err(Error::from)?;
    }
    checkpoint.notes().iter().for_each(|note| eprintln!("mamba-wgpu: {note}"));
    Ok(checkpoint)
}

/// A file's text, which is UTF-8. `name` is what messages call it.
pub fn read_text(name: &str, path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| name.to_owned())?;
    utf8(name, bytes)
}

/// A text given as an argument, without a byte order mark (of `"$(cat FILE)"`).
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Bytes that are UTF-8, with or without a byte order mark, which is no part of the text.
pub fn utf8(name: &str, mut bytes: Vec<u8>) -> anyhow::Result<String> {
    if [&b"\xff\xfe"[..], b"\xfe\xff"].iter().any(|mark| bytes.starts_with(mark)) {
        return Err(anyhow!("{name}: UTF-16, save it as UTF-8"));
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(.."\u{feff}".len());
    }
    String::from_utf8(bytes)
        .map_err(|error| anyhow!("{name}: not UTF-8 text (at byte {})", error.utf8_error().valid_up_to()))
}

/// The checkpoint's tokenizer.
pub fn tokenizer(checkpoint: &Checkpoint) -> anyhow::Result<Tokenizer> {
    let tokenizer = checkpoint.tokenizer().map_err(Error::from).with_context(|| checkpoint.source().to_owned())?;
    tokenizer.ok_or_else(|| anyhow!("{}: no tokenizer: {}", checkpoint.source(), checkpoint.tokenizer_advice()))
}

impl BackendArgs {
    /// Brings a checkpoint to the backend that was asked for. Says on stderr what `auto` picked, and what it passed over.
    pub async fn load(&self, checkpoint: &Checkpoint) -> anyhow::Result<LanguageModel> {
        let cpu = self.backend == BackendName::Cpu;
        self.placement.check(cpu, self.adapter.as_deref())?;
        if cpu || self.placement.only_cpu() {
            if let Some(adapter) = &self.adapter {
                return Err(misuse(format!("--adapter {adapter}: --backend cpu uses no adapter")));
            }
            return load_on(checkpoint, &Backend::Cpu, self.model_options()).await;
        }
        match self.load_on_gpus(checkpoint).await {
            // A GPU that is not there or cannot hold the model is no reason to give up, unless it was asked for.
            Err(error) if self.backend == BackendName::Auto && !self.names_gpus() && is_gpu_error(&error) => {
                eprintln!("mamba-wgpu: on the CPU ({})", why_cpu(&error));
                load_on(checkpoint, &Backend::Cpu, self.model_options()).await
            }
            Err(error) if is_only_software(&error) => {
                Err(anyhow!("--gpu-layers: there is no GPU in hardware: {}", why_cpu(&error)))
            }
            Err(error) if is_no_adapter(&error) => Err(anyhow!("{error} (--backend cpu needs none)")),
            done => done,
        }
    }

    /// Whether it was asked for a GPU in so many words, whatever there is.
    fn names_gpus(&self) -> bool {
        let some_layers = matches!(self.placement.gpu_layers, Some(GpuLayers::Count(_)));
        some_layers || self.adapter.is_some() || !self.placement.adapters.is_empty()
    }

    async fn load_on_gpus(&self, checkpoint: &Checkpoint) -> anyhow::Result<LanguageModel> {
        let named = self.placement.adapters.iter().chain(&self.adapter).map(|adapter| Some(adapter.as_str()));
        let named: Vec<_> = if self.names_adapters() { named.collect() } else { vec![None] };
        let mut gpus = Vec::new();
        for adapter in named {
            let mut options = gpu_options(self.backend, adapter);
            options.software = self.backend != BackendName::Auto || adapter.is_some();
            gpus.push(Gpu::new(&options).await.map_err(|error| match self.placement.adapters.is_empty() {
                true => gpu_error(error),
                false => adapters_error(error),
            })?);
        }
        let options = self.model_options();
        let parts = self.placement.parts(checkpoint, &options, &gpus).await?;
        let bar = Progress::bytes("loading");
        let model =
            LanguageModel::load_parts(checkpoint, &parts, options, &mut |done, total| bar.set(done, total)).await?;
        drop(bar);
        if self.placement.given() {
            eprintln!("mamba-wgpu: {}", placement::in_words(&model));
        } else if self.backend == BackendName::Auto {
            eprintln!("mamba-wgpu: on {}", backend_name(&model));
        }
        Ok(model)
    }

    fn names_adapters(&self) -> bool {
        self.adapter.is_some() || !self.placement.adapters.is_empty()
    }

    pub fn model_options(&self) -> ModelOptions {
        ModelOptions { scan: self.scan, chunk: self.chunk, weights: self.weights, activations: self.activations }
    }
}

/// Brings a checkpoint to a backend, with a progress bar.
pub async fn load_on(
    checkpoint: &Checkpoint,
    backend: &Backend,
    options: ModelOptions,
) -> anyhow::Result<LanguageModel> {
    let bar = Progress::bytes("loading");
    Ok(LanguageModel::load(checkpoint, backend, options, &mut |done, total| bar.set(done, total)).await?)
}

/// How the GPU is to be opened.
pub fn gpu_options(backend: BackendName, adapter: Option<&str>) -> GpuOptions {
    // Any text is an adapter's number or name: nothing fails to parse.
    let adapter = adapter.and_then(|adapter| adapter.parse().ok());
    GpuOptions { backend: backend.wgpu(), adapter, ..GpuOptions::default() }
}

/// Why no GPU is used, and how one that was passed over can be.
fn why_cpu(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(Error::Gpu(GpuError::NoAdapter { .. })) => "there is no GPU".into(),
        Some(Error::Gpu(GpuError::OnlySoftware { index, adapter })) => {
            format!("{adapter} is a GPU in software, and slower; --adapter {index} takes it all the same")
        }
        _ => in_words(error),
    }
}

fn is_gpu_error(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Gpu(_)))
}

fn is_only_software(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Gpu(GpuError::OnlySoftware { .. })))
}

fn is_no_adapter(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Gpu(GpuError::NoAdapter { .. })))
}

/// "llvmpipe (LLVM 19) (vulkan, in software)".
pub fn describe(gpu: &Gpu) -> String {
    let summary = gpu.adapter_summary();
    let software = if summary.software() { ", in software" } else { "" };
    format!("{} ({}{software})", summary.name, summary.backend)
}
