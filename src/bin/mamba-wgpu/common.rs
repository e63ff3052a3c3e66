//! What several subcommands share: which model, on what, and how it gets there.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use anyhow::{anyhow, Context};
use clap::ValueEnum;
use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::{ActivationDtype, Backend, Checkpoint, LanguageModel, ModelOptions, Scan, WeightDtype};
use mamba_wgpu::train::latest_checkpoint;
use mamba_wgpu::Error;

use crate::errors::misuse;
use crate::output::Progress;

#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Folder of a checkpoint (config.json, *.safetensors, tokenizer.json) or one .safetensors file beside them
    /// [default: the small model built into this program]
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct BackendArgs {
    /// What to compute on; `auto` takes a GPU where there is one and the CPU otherwise
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub backend: BackendName,
    /// Which of several adapters: a part of its name, or its number in `mamba-wgpu adapters`
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// How the recurrence over the prompt is computed; all three give the same
    #[arg(long, value_enum, default_value_t = ScanName::Fused)]
    pub scan: ScanName,
    /// How many tokens of the prompt go through the model together; more need more memory
    #[arg(long, value_name = "N", default_value = "2048", value_parser = at_least_one)]
    pub chunk: usize,
    /// How the GPU holds the weights; `auto` keeps what the checkpoint has where the GPU can
    #[arg(long, value_enum, default_value_t = WeightsName::Auto)]
    pub weights: WeightsName,
    /// How the GPU holds a prompt's activations; `auto` takes f16 where that is much faster and the weights are no finer
    #[arg(long, value_enum, default_value_t = WeightsName::Auto)]
    pub activations: WeightsName,
}

/// Which GPU, for what runs on nothing else.
#[derive(Debug, clap::Args)]
pub struct GpuArgs {
    /// Which API to reach the GPU through: auto, vulkan, metal, dx12 or gl
    #[arg(long, value_enum, default_value_t = BackendName::Auto, hide_possible_values = true)]
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

    pub async fn open(&self) -> anyhow::Result<Gpu> {
        Ok(Gpu::new(&gpu_options(self.backend, self.adapter.as_deref())).await.map_err(Error::from)?)
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScanName {
    Sequential,
    Blelloch,
    Fused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsName {
    Auto,
    F32,
    F16,
}

/// A whole number of 1 or more, for clap.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match usize::from_str(text) {
        Ok(0) => Err("it must be 1 or more".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

impl ModelArgs {
    /// Opens the checkpoint that was asked for, or the embedded one.
    pub fn open(&self) -> anyhow::Result<Checkpoint> {
        open_model(self.model.as_deref())
    }
}

/// Opens a checkpoint, or the embedded one, and shows its warnings.
pub fn open_model(path: Option<&Path>) -> anyhow::Result<Checkpoint> {
    let checkpoint = match path {
        Some(path) => Checkpoint::open(path).map_err(Error::from)?,
        #[cfg(feature = "embedded-model")]
        None => mamba_wgpu::model::embedded::checkpoint().map_err(Error::from)?,
        #[cfg(not(feature = "embedded-model"))]
        None => return Err(misuse("--model is needed: this program was built without its own model")),
    };
    for warning in checkpoint.warnings() {
        eprintln!("warning: {warning}");
    }
    Ok(checkpoint)
}

/// The best checkpoint in a run's folder, or the checkpoint itself.
pub fn run_checkpoint(path: &Path) -> Option<PathBuf> {
    match path.join("model.safetensors").exists() {
        true => Some(path.into()),
        false => latest_checkpoint(path, "best").or_else(|| latest_checkpoint(path, "checkpoint")),
    }
}

/// The token before a text that is scored, where a model says.
pub fn beginning_token(bos: Option<u32>, eos: &[u32]) -> Option<u32> {
    bos.or(eos.first().copied())
}

/// A file's text, which is UTF-8. `name` is what messages call it.
pub fn read_text(name: &str, path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| name.to_owned())?;
    String::from_utf8(bytes)
        .map_err(|error| misuse(format!("{name}: not UTF-8 (byte {})", error.utf8_error().valid_up_to())))
}

/// The checkpoint's tokenizer.
pub fn tokenizer(checkpoint: &Checkpoint) -> anyhow::Result<Tokenizer> {
    let json = checkpoint.tokenizer_json().ok_or_else(|| {
        anyhow!(
            "{}: no tokenizer.json beside the weights, so text cannot be turned into tokens (models published by \
             mamba-ssm use EleutherAI/gpt-neox-20b's: put that file there)",
            checkpoint.source()
        )
    })?;
    Tokenizer::from_bytes(json, checkpoint.config().vocab_size)
        .map_err(Error::from)
        .with_context(|| format!("{}, tokenizer.json", checkpoint.source()))
}

impl BackendArgs {
    /// Brings a checkpoint to the backend that was asked for. Says on stderr what `auto` picked.
    pub async fn load(&self, checkpoint: &Checkpoint) -> anyhow::Result<LanguageModel> {
        if self.backend == BackendName::Cpu {
            if let Some(adapter) = &self.adapter {
                return Err(misuse(format!("--adapter {adapter}: --backend cpu uses no adapter")));
            }
            return self.load_on(checkpoint, &Backend::Cpu).await;
        }
        match self.load_on_gpu(checkpoint).await {
            // A GPU that is not there or cannot hold the model is no reason to give up, unless it was asked for.
            Err(error) if self.backend == BackendName::Auto && self.adapter.is_none() && is_gpu_error(&error) => {
                eprintln!("mamba-wgpu: on the CPU ({error:#})");
                self.load_on(checkpoint, &Backend::Cpu).await
            }
            done => done,
        }
    }

    async fn load_on_gpu(&self, checkpoint: &Checkpoint) -> anyhow::Result<LanguageModel> {
        let gpu = Gpu::new(&gpu_options(self.backend, self.adapter.as_deref())).await.map_err(Error::from)?;
        let model = self.load_on(checkpoint, &Backend::Gpu(gpu.clone())).await?;
        if self.backend == BackendName::Auto {
            eprintln!("mamba-wgpu: on {}", describe(&gpu));
        }
        Ok(model)
    }

    async fn load_on(&self, checkpoint: &Checkpoint, backend: &Backend) -> anyhow::Result<LanguageModel> {
        let bar = Progress::bytes("loading");
        let mut progress = |done, total| bar.set(done, total);
        Ok(LanguageModel::load(checkpoint, backend, self.model_options(), &mut progress).await?)
    }

    fn model_options(&self) -> ModelOptions {
        ModelOptions {
            scan: match self.scan {
                ScanName::Sequential => Scan::Sequential,
                ScanName::Blelloch => Scan::Blelloch,
                ScanName::Fused => Scan::Fused,
            },
            chunk: self.chunk,
            weights: match self.weights {
                WeightsName::Auto => WeightDtype::Auto,
                WeightsName::F32 => WeightDtype::F32,
                WeightsName::F16 => WeightDtype::F16,
            },
            activations: match self.activations {
                WeightsName::Auto => ActivationDtype::Auto,
                WeightsName::F32 => ActivationDtype::F32,
                WeightsName::F16 => ActivationDtype::F16,
            },
        }
    }
}

/// How the GPU is to be opened.
pub fn gpu_options(backend: BackendName, adapter: Option<&str>) -> GpuOptions {
    // Any text is an adapter's number or name: nothing fails to parse.
    let adapter = adapter.and_then(|adapter| adapter.parse().ok());
    GpuOptions { backend: backend.wgpu(), adapter, ..GpuOptions::default() }
}

/// The first Ctrl-C asks for an end, the second one does not ask.
pub fn end_on_ctrl_c(cancel: Arc<AtomicBool>) -> anyhow::Result<()> {
    ctrlc::set_handler(move || {
        if cancel.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("waiting for Ctrl-C")
}

fn is_gpu_error(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Gpu(_)))
}

/// "llvmpipe (LLVM 19) (vulkan, in software)".
pub fn describe(gpu: &Gpu) -> String {
    let summary = gpu.adapter_summary();
    let software = if summary.device_type == "Cpu" { ", in software" } else { "" };
    format!("{} ({}{software})", summary.name, summary.backend)
}

/// What a model runs on, in words.
pub fn backend_name(model: &LanguageModel) -> String {
    model.gpu().map_or_else(|| "cpu".to_string(), describe)
}
