//! `mamba-wgpu inspect-model`: what a checkpoint holds, without running it.

use std::process::ExitCode;

use mamba_wgpu::model::{Arch, Checkpoint};
use serde_json::json;

use crate::common::ModelArgs;
use crate::output::{print_json, print_line, size};

/// Show a checkpoint's dimensions, tensors and sizes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object: source, config, tokenizer, tensors, parameters, bytes, state_bytes
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let checkpoint = args.model.open()?;
    let value = describe(&checkpoint);
    if args.json {
        print_json(&value)?;
    } else {
        print_line(&in_words(&value))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(checkpoint: &Checkpoint) -> serde_json::Value {
    let config = checkpoint.config();
    let arch = match config.arch {
        Arch::Mamba1 => "mamba",
        Arch::FalconMamba => "falcon_mamba",
    };
    let mut tensors = Vec::new();
    let (mut parameters, mut bytes) = (0, 0);
    for tensor in checkpoint.tensors() {
        parameters += tensor.shape.iter().map(|&size| size as u64).product::<u64>();
        bytes += tensor.bytes;
        tensors.push(json!({
            "name": tensor.name, "dtype": tensor.dtype.to_string(), "shape": tensor.shape, "bytes": tensor.bytes,
            "file": tensor.file,
        }));
    }
    json!({
        "source": checkpoint.source(),
        "config": {
            "arch": arch, "d_model": config.d_model, "n_layer": config.n_layer, "vocab_size": config.vocab_size,
            "d_inner": config.d_inner, "d_state": config.d_state, "d_conv": config.d_conv, "dt_rank": config.dt_rank,
            "norm_eps": short(config.norm_eps), "tie_embeddings": config.tie_embeddings,
            "bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id,
        },
        "tokenizer": checkpoint.tokenizer_json().is_some(),
        "tensors": tensors,
        "parameters": parameters,
        "bytes": bytes,
        // f32, one text: the last d_conv inputs of the convolution and the state of the recurrence, in each layer.
        "state_bytes": 4 * config.n_layer * config.d_inner * (config.d_conv + config.d_state),
    })
}

/// The same, for people: dimensions, a line a tensor, and the sums.
fn in_words(value: &serde_json::Value) -> String {
    let mut lines = vec![value["source"].as_str().unwrap_or_default().to_string()];
    for (key, value) in value["config"].as_object().into_iter().flatten() {
        lines.push(format!("  {key:<16}{value}"));
    }
    lines.push(format!("  {:<16}{}", "tokenizer.json", if value["tokenizer"] == true { "yes" } else { "no" }));
    let tensors = value["tensors"].as_array().map_or(&[][..], Vec::as_slice);
    lines.push(format!("{} tensors", tensors.len()));
    for tensor in tensors {
        lines.push(format!(
            "  {:<52} {:<5} {:<18} {:>12}",
            tensor["name"].as_str().unwrap_or_default(),
            tensor["dtype"].as_str().unwrap_or_default(),
            tensor["shape"].to_string(),
            size(tensor["bytes"].as_u64().unwrap_or(0)),
        ));
    }
    lines.push(format!(
        "{} parameters, {} of weights, {} of state for each text",
        value["parameters"],
        size(value["bytes"].as_u64().unwrap_or(0)),
        size(value["state_bytes"].as_u64().unwrap_or(0)),
    ));
    lines.join("\n")
}

/// An f32 as its shortest decimal (1e-5), not with the digits that it has as an f64.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
