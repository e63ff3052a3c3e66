//! Where models run, and what can be asked of it without one.

use super::error::{self, to_js as js_error};
use super::files::Files;
use super::model::{LoadOptions, Model};
use super::training::Training;
use super::{from_json, tell, to_js, Cancel};
use crate::bench::{self, Device, Shapes, Suite};
use crate::checks;
use crate::gpu::{Gpu, GpuOptions, LimitMode};
use js_sys::Function;
use serde::Deserialize;
use wasm_bindgen::prelude::*;
use web_time::Duration;

/// A device, or the CPU.
#[wasm_bindgen]
pub struct Backend(crate::model::Backend);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct DeviceOptions {
    /// WebGPU's default limits and no feature, whatever there is.
    baseline: bool,
    low_power: bool,
}

#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct BenchOptions {
    suites: Vec<Suite>,
    sizes: Vec<String>,
    time_limit: f64,
    chunk: usize,
    date: String,
}

impl Default for BenchOptions {
    fn default() -> Self {
        let suites = Suite::ALL.to_vec();
        Self { suites, sizes: vec!["130m".into()], time_limit: 60.0, chunk: 512, date: String::new() }
    }
}

#[wasm_bindgen]
impl Backend {
    /// The CPU: the twins, on one thread.
    pub fn cpu() -> Self {
        Self(crate::model::Backend::Cpu)
    }

    /// The browser's GPU.
    pub async fn gpu(options: String) -> Result<Backend, JsValue> {
        let options: DeviceOptions = from_json(&options)?;
        let options = GpuOptions {
            limits: if options.baseline { LimitMode::WebGpuDefaults } else { LimitMode::Full },
            power_preference: match options.low_power {
                true => wgpu::PowerPreference::LowPower,
                false => wgpu::PowerPreference::HighPerformance,
            },
            ..GpuOptions::default()
        };
        Ok(Self(crate::model::Backend::Gpu(Gpu::new(&options).await.map_err(js_error)?)))
    }

    /// The adapter, features and limits, as in a bench report; null for the CPU.
    pub fn device(&self) -> Result<JsValue, JsValue> {
        match &self.0 {
            crate::model::Backend::Cpu => Ok(JsValue::NULL),
            crate::model::Backend::Gpu(gpu) => to_js(&Device::of(gpu)),
        }
    }

    /// Bytes of buffers on the device, now and at most; null for the CPU.
    #[wasm_bindgen(js_name = memoryBytes)]
    pub fn memory_bytes(&self) -> Result<JsValue, JsValue> {
        self.gpu_or_none().map_or(Ok(JsValue::NULL), |gpu| to_js(&gpu.memory_bytes()))
    }

    /// Every kernel against its CPU twin. What fails is switched off where something can stand in for it.
    #[wasm_bindgen(js_name = selfTest)]
    pub async fn self_test(&self, progress: Function) -> Result<JsValue, JsValue> {
        let gpu = self.need_gpu()?;
        let report = checks::run(&gpu, &mut |done, total| tell(&progress, done as f64, total as f64)).await;
        to_js(&report.map_err(js_error)?)
    }

    /// `mamba-wgpu bench`, with the same report. `progress(done, total, row)`.
    pub async fn bench(&self, options: String, cancel: Cancel, progress: Function) -> Result<JsValue, JsValue> {
        let options: BenchOptions = from_json(&options)?;
        let gpu = self.need_gpu()?;
        let time_limit = Duration::try_from_secs_f64(options.time_limit);
        let mut shapes = Shapes::default();
        shapes.models.retain(|(name, _)| options.sizes.contains(name));
        let options = bench::Options {
            suites: options.suites,
            shapes,
            time_limit: time_limit.map_err(|e| error::with_code("options", &format!("timeLimit: {e}")))?,
            chunk: options.chunk,
            date: options.date,
            cancel: cancel.0,
            ..bench::Options::default()
        };
        let mut progress = |now: bench::Progress<'_>| {
            let row = format!("{} {} {}", now.row.suite, now.row.name, now.row.variant);
            // What it throws is its own affair.
            let _ = progress.call3(&JsValue::NULL, &(now.done as f64).into(), &(now.total as f64).into(), &row.into());
        };
        to_js(&bench::run(&gpu, &options, &mut progress).await)
    }

    /// A small model, to be trained from nothing.
    pub fn train(&self, options: &str) -> Result<Training, JsValue> {
        Training::new(&self.need_gpu()?, options)
    }

    /// Brings a checkpoint here. `source` is what messages call it; `progress` gets bytes done and in all.
    pub async fn load(
        &self,
        files: Files,
        source: String,
        options: String,
        progress: Function,
    ) -> Result<Model, JsValue> {
        let options: LoadOptions = from_json(&options)?;
        let checkpoint = files.open(&source).map_err(js_error)?;
        let mut progress = |done, total| tell(&progress, done as f64, total as f64);
        Model::load(&checkpoint, &self.0, &options, &mut progress).await.map_err(js_error)
    }
}

impl Backend {
    fn gpu_or_none(&self) -> Option<&Gpu> {
        match &self.0 {
            crate::model::Backend::Cpu => None,
            crate::model::Backend::Gpu(gpu) => Some(gpu),
        }
    }

    fn need_gpu(&self) -> Result<Gpu, JsValue> {
        self.gpu_or_none().cloned().ok_or_else(|| {
            error::with_code("needs-gpu", "the CPU is in use: measuring, checking and training need a GPU")
        })
    }
}
