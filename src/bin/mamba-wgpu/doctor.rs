//! `mamba-wgpu doctor`: does this machine's GPU compute what the CPU computes?

use mamba_wgpu::checks::{self, Report};
use mamba_wgpu::gpu::{best_hardware, list_adapters, AdapterSummary, Gpu, GpuError};
use mamba_wgpu::model::Backend;
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{describe, gpu_options, BackendName};
use crate::errors::{gpu_error, misuse};
use crate::exit::ExitCode;
use crate::output::{print_json, print_line, Progress};

/// List the adapters, and check every kernel on the best one
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to check; `auto` takes the best GPU, one in software if there is no other, and goes without where there is none
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    backend: BackendName,
    /// Which of several adapters: a part of its name, or its number in `mamba-wgpu adapters`
    #[arg(long, value_name = "NAME|INDEX")]
    adapter: Option<String>,
    /// Print one JSON object: passed, adapters, auto, adapter, kernels, embedded_model
    #[arg(long)]
    json: bool,
    /// Spoil this kernel's arithmetic by one per cent, to see that it is found
    #[arg(long, value_name = "KERNEL", hide = true)]
    fault: Option<String>,
}

/// What was found; `None` where there was nothing to check.
struct Findings {
    adapters: Vec<AdapterSummary>,
    /// Whether those are all, so that the one that `auto` takes for a model is among them.
    all: bool,
    /// The adapter, and its kernels.
    gpu: Option<(String, Report)>,
    /// Backend, and what the embedded model got wrong on it.
    models: Vec<(String, Option<String>)>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let findings = examine(&args).await?;
    if args.json {
        print_json(&findings.json())?;
    } else {
        print_line(&findings.in_words())?;
    }
    Ok(if findings.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn examine(args: &Args) -> anyhow::Result<Findings> {
    let all = args.backend == BackendName::Auto;
    let mut findings = Findings { adapters: Vec::new(), all, gpu: None, models: Vec::new() };
    if args.backend == BackendName::Cpu {
        if let Some(adapter) = &args.adapter {
            return Err(misuse(format!("--adapter {adapter}: --backend cpu uses no adapter")));
        }
    } else {
        findings.adapters = list_adapters(args.backend.wgpu()).await;
        let mut options = gpu_options(args.backend, args.adapter.as_deref());
        options.fault = args.fault.clone();
        match Gpu::new(&options).await {
            Ok(gpu) => {
                let bar = Progress::count("checking kernels");
                let report = checks::run(&gpu, &mut |done, total| bar.set(done as u64, total as u64)).await;
                drop(bar);
                findings.gpu = Some((describe(&gpu), report.map_err(Error::from)?));
                // On the same device: what failed is switched off, and must not matter any more.
                findings.models.extend(model_check(describe(&gpu), &Backend::Gpu(gpu)).await?);
            }
            // Without a GPU there is nothing wrong: the CPU does it.
            Err(GpuError::NoAdapter { .. }) if args.backend == BackendName::Auto && args.adapter.is_none() => {}
            Err(error) => return Err(gpu_error(error)),
        }
    }
    findings.models.extend(model_check("cpu".into(), &Backend::Cpu).await?);
    Ok(findings)
}

/// The embedded model against its expected values; nothing in a program built without it.
pub async fn model_check(name: String, backend: &Backend) -> anyhow::Result<Option<(String, Option<String>)>> {
    #[cfg(feature = "embedded-model")]
    return Ok(Some((name, mamba_wgpu::model::golden::check(backend).await?)));
    #[cfg(not(feature = "embedded-model"))]
    return Ok(None);
}

impl Findings {
    fn passed(&self) -> bool {
        self.gpu.as_ref().is_none_or(|(_, report)| report.passed())
            && self.models.iter().all(|(_, difference)| difference.is_none())
    }

    /// What `auto` takes for a model.
    fn auto(&self) -> String {
        best_hardware(&self.adapters).map_or("cpu".into(), AdapterSummary::line)
    }

    fn json(&self) -> serde_json::Value {
        let models = self.models.iter().map(|(backend, difference)| {
            json!({ "backend": backend, "passed": difference.is_none(), "difference": difference })
        });
        json!({
            "passed": self.passed(),
            "adapters": self.adapters,
            "auto": self.all.then(|| self.auto()),
            "adapter": self.gpu.as_ref().map(|(name, _)| name),
            "kernels": self.gpu.as_ref().map(|(_, report)| &report.outcomes),
            "embedded_model": models.collect::<Vec<_>>(),
        })
    }

    fn in_words(&self) -> String {
        let mut lines = vec![match self.adapters.len() {
            0 => "adapters: none".to_string(),
            _ => "adapters:".to_string(),
        }];
        lines.extend(self.adapters.iter().map(crate::adapters::in_words));
        if self.all {
            lines.push(format!("without --backend and --adapter, models run on: {}", self.auto()));
        }
        if let Some((name, report)) = &self.gpu {
            lines.push(format!("kernels on {name}, against the CPU:"));
            for outcome in &report.outcomes {
                let result = outcome.failure.as_ref().map_or("pass".into(), |failure| format!("FAIL: {failure}"));
                lines.push(format!("  {}: {result}", outcome.name));
                if let Some(variant) = outcome.switched_off {
                    lines.push(format!("    {variant} is switched off, {} instead", variant.fallback()));
                }
            }
        }
        for (backend, difference) in &self.models {
            let result = difference.as_ref().map_or("pass".into(), |difference| format!("FAIL: {difference}"));
            lines.push(format!("embedded model on {backend}, against transformers: {result}"));
        }
        lines.push(if self.passed() { "all passed" } else { "something failed" }.to_string());
        lines.join("\n")
    }
}
