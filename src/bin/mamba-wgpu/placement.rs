//! Which of a model's layers go where: `--gpu-layers`, `--adapters`, `--gpu-memory`.

use std::str::FromStr;

use mamba_wgpu::gpu::Gpu;
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelOptions, Part, Placed};
use serde_json::json;

use crate::common::describe;
use crate::errors::misuse;
use crate::output::size;

#[derive(Debug, clap::Args)]
pub struct PlacementArgs {
    /// How many of the model's last layers, as `inspect-model` counts them, to compute on the GPU, with its head, and the others on the
    /// CPU; `auto`: as many as there is room for [default: all]
    #[arg(long, value_name = "N|auto", alias = "n-gpu-layers")]
    pub gpu_layers: Option<GpuLayers>,
    /// Spread the layers over several adapters, each named as --adapter names one
    #[arg(
        id = "several-adapters",
        long = "adapters",
        value_name = "NAME|INDEX,...",
        value_delimiter = ',',
        conflicts_with = "adapter"
    )]
    pub adapters: Vec<String>,
    /// What `--gpu-layers auto` may take of each GPU's memory [default: what it gives when asked]
    #[arg(long, value_name = "GIB", value_parser = gibibytes)]
    pub gpu_memory: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLayers {
    Auto,
    Count(usize),
}

impl FromStr for GpuLayers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Count).map_err(|_| "it must be a whole number, 0 or more, or auto".into()),
        }
    }
}

/// "1.5", for clap: bytes.
fn gibibytes(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e6 => Ok((number * f64::from(1 << 30)) as u64),
        _ => Err("it must be a number of GiB above 0".into()),
    }
}

impl PlacementArgs {
    /// Whether anything is asked for.
    pub fn given(&self) -> bool {
        self.gpu_layers.is_some() || !self.adapters.is_empty() || self.gpu_memory.is_some()
    }

    /// The flag by which it is, for messages.
    fn flag(&self) -> String {
        match (self.gpu_layers, &self.adapters[..]) {
            (Some(GpuLayers::Auto), _) => "--gpu-layers auto".into(),
            (Some(GpuLayers::Count(count)), _) => format!("--gpu-layers {count}"),
            (None, adapters @ [_, ..]) => format!("--adapters {}", adapters.join(",")),
            (None, []) => "--gpu-memory".into(),
        }
    }

    /// Refuses what contradicts itself, before anything is done. `cpu`: whether that backend was asked for; `adapter`: what --adapter
    /// names.
    pub fn check(&self, cpu: bool, adapter: Option<&str>) -> anyhow::Result<()> {
        let none = self.gpu_layers == Some(GpuLayers::Count(0));
        if cpu && self.given() && !none {
            return Err(misuse(format!("{}: --backend cpu uses no GPU", self.flag())));
        }
        if self.gpu_memory.is_some() && self.gpu_layers != Some(GpuLayers::Auto) {
            return Err(misuse("--gpu-memory: only --gpu-layers auto asks how much there is"));
        }
        match (none, adapter, &self.adapters[..]) {
            (true, Some(adapter), _) => Err(misuse(format!("--adapter {adapter}: --gpu-layers 0 uses no GPU"))),
            (true, None, adapters @ [_, ..]) => {
                Err(misuse(format!("--adapters {}: --gpu-layers 0 uses no GPU", adapters.join(","))))
            }
            _ => Ok(()),
        }
    }

    /// Whether all is to be on the CPU.
    pub fn only_cpu(&self) -> bool {
        self.gpu_layers == Some(GpuLayers::Count(0))
    }

    /// What each of these GPUs and the CPU get.
    pub async fn parts(
        &self,
        checkpoint: &Checkpoint,
        options: &ModelOptions,
        gpus: &[Gpu],
    ) -> Result<Vec<Part>, mamba_wgpu::Error> {
        match self.gpu_layers {
            Some(GpuLayers::Auto) => Part::that_fit(checkpoint, options, gpus, self.gpu_memory).await,
            Some(GpuLayers::Count(count)) => Ok(Part::last_layers(checkpoint, options, gpus, count)),
            None => Ok(Part::last_layers(checkpoint, options, gpus, usize::MAX)),
        }
    }
}

/// "the CPU", or a GPU's name.
fn on(backend: &Backend) -> String {
    match backend {
        Backend::Cpu => "cpu".into(),
        Backend::Gpu(gpu) => describe(gpu),
    }
}

/// "27" or "0 to 26".
fn layers(placed: &Placed) -> String {
    let (first, last) = (placed.layers.start, placed.layers.end.saturating_sub(1));
    match first == last {
        true => format!("layer {first}"),
        false => format!("layers {first} to {last}"),
    }
}

/// What a model runs on, in words.
pub fn backend_name(model: &LanguageModel) -> String {
    match &model.placed()[..] {
        [whole] => on(&whole.backend),
        parts => {
            let part = |part: &Placed| format!("{} ({})", on(&part.backend), layers(part));
            parts.iter().map(part).collect::<Vec<_>>().join(" and ")
        }
    }
}

/// Where the layers are, with the bytes of their weights, a line.
pub fn in_words(model: &LanguageModel) -> String {
    let part = |part: &Placed| format!("{} on {} ({})", layers(part), on(&part.backend), size(part.bytes));
    model.placed().iter().map(part).collect::<Vec<_>>().join(", ")
}

/// The same for `--json`.
pub fn in_json(model: &LanguageModel) -> serde_json::Value {
    let part = |part: &Placed| {
        let count = part.layers.len();
        json!({ "backend": on(&part.backend), "first_layer": part.layers.start, "layers": count, "bytes": part.bytes })
    };
    model.placed().iter().map(part).collect()
}

/// The GPUs that a model is on.
pub fn gpus(model: &LanguageModel) -> Vec<Gpu> {
    let gpu = |part: Placed| match part.backend {
        Backend::Cpu => None,
        Backend::Gpu(gpu) => Some(gpu),
    };
    model.placed().into_iter().filter_map(gpu).collect()
}

/// The most bytes that were ever held on them, where there are any.
pub fn memory_peak(model: &LanguageModel) -> Option<u64> {
    let gpus = gpus(model);
    (!gpus.is_empty()).then(|| gpus.iter().map(|gpu| gpu.memory_bytes().1).sum())
}

/// Whether a prompt is slow to read: any part of it on the CPU, or by a GPU in software.
pub fn is_slow(model: &LanguageModel) -> bool {
    let slow = |part: &Placed| match &part.backend {
        Backend::Cpu => true,
        Backend::Gpu(gpu) => gpu.adapter_summary().software(),
    };
    model.placed().iter().any(slow)
}
