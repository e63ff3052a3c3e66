//! `mamba-wgpu adapters`: what there is to compute on.

use mamba_wgpu::gpu::{list_adapters, AdapterSummary};
use serde_json::json;

use crate::common::{gpu_backends, BackendName};
use crate::errors::misuse;
use crate::exit::ExitCode;
use crate::output::{print_json, print_line};

/// List the GPUs (and software renderers) there are, best first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those of one API
    #[arg(long, value_parser = gpu_backends(), default_value = "auto")]
    backend: BackendName,
    /// Print one JSON object: adapters
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.backend == BackendName::Cpu {
        return Err(misuse("--backend cpu: the CPU backend has no adapters"));
    }
    let adapters = list_adapters(args.backend.wgpu()).await;
    if args.json {
        print_json(&json!({ "adapters": adapters }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if adapters.is_empty() {
        print_line("no adapters (`--backend cpu` needs none; Mesa's lavapipe is a Vulkan adapter in software)")?;
    }
    for adapter in &adapters {
        print_line(&in_words(adapter))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Three lines: which, what it can, how much.
pub fn in_words(adapter: &AdapterSummary) -> String {
    let [can, much] = details(adapter);
    format!("  {}\n     {can}\n     {much}", adapter.line())
}

/// What it can, and how much.
pub fn details(adapter: &AdapterSummary) -> [String; 2] {
    let features = [
        ("subgroups", adapter.subgroups),
        ("shader-f16", adapter.shader_f16),
        ("timestamps", adapter.timestamp_query),
        ("cooperative matrix", adapter.cooperative_matrix),
    ];
    let has: Vec<&str> = features.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    let can = format!(
        "{}, driver {} {}; {}{}",
        if adapter.software() { "in software" } else { &adapter.device_type },
        adapter.driver,
        adapter.driver_info,
        if adapter.compute { "" } else { "NO COMPUTE SHADERS; " },
        if has.is_empty() { "no optional features".to_string() } else { has.join(", ") },
    );
    let much = format!(
        "buffers up to {} MiB, bindings up to {} MiB, workgroups of up to {} invocations with {} KiB",
        adapter.max_buffer_size >> 20,
        adapter.max_storage_buffer_binding_size >> 20,
        adapter.max_compute_invocations_per_workgroup,
        adapter.max_compute_workgroup_storage_size >> 10,
    );
    [can, much]
}
