//! `mamba-wgpu quantize`: a smaller model from a checkpoint.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use mamba_wgpu::model::{quantise_to_folder, QuantiseError};
use mamba_wgpu::reference::Quant;
use mamba_wgpu::Error;
use serde_json::json;

use crate::common::{one_of, open_model, LoraArgs};
use crate::errors::misuse;
use crate::exit::ExitCode;
use crate::output::{print_json, print_line, size, Progress};
use crate::signals;

/// Make a smaller, faster model: its large matrices to 8 or 4 bits
///
/// OUT is a folder that other commands take as --model. How it is stored and what it costs is in docs/quantisation.md.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a checkpoint or one .safetensors file, or `embedded` for the small model built into this program
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The folder to write
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// 8 bits a weight (a little over half the size of f16, all but the same text) or 4 (a little over a quarter)
    #[arg(long, value_parser = one_of(&Quant::ALL))]
    to: Quant,
    #[command(flatten)]
    lora: LoraArgs,
    /// Replace the model in OUT
    #[arg(long)]
    force: bool,
    /// Print one JSON object: source, out, to, bytes_before, bytes_after, tensors (with their errors)
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let embedded = args.input.as_os_str() == "embedded" && !args.input.exists();
    let checkpoint = open_model((!embedded).then_some(args.input.as_path()), &args.lora)?;
    if let Err(error) = checkpoint.tokenizer() {
        eprintln!("warning: {}: {error}", checkpoint.source());
    }
    let cancel = Arc::new(AtomicBool::new(false));
    signals::ask(&cancel);
    let bar = Progress::bytes("quantising");
    let mut progress = |done, total| {
        bar.set(done, total);
        !cancel.load(Ordering::Relaxed)
    };
    let result = quantise_to_folder(&checkpoint, args.to, &args.out, args.force, &mut progress);
    drop(bar);
    let summary = match result {
        Ok(summary) => summary,
        Err(QuantiseError::Cancelled) => {
            eprintln!("mamba-wgpu: cancelled, {} is as it was", args.out.display());
            return Ok(signals::exit_code());
        }
        Err(error @ QuantiseError::Exists { .. }) if !args.force => {
            return Err(misuse(format!("{error} (--force replaces it)")));
        }
        Err(error @ QuantiseError::Source { .. }) => return Err(misuse(error.to_string())),
        Err(error) => return Err(Error::from(error).into()),
    };
    for tensor in summary.tensors.iter() {
        if let Some(largest) = tensor.beyond {
            let (name, kind, to) = (&tensor.name, args.to.tag(), &tensor.to);
            eprintln!("warning: tensor `{name}` stays {to}: its largest magnitude is {largest:e}, which no scale of {kind} holds");
        }
    }
    if args.json {
        print_json(&json!({
            "source": checkpoint.source(), "out": args.out, "to": args.to.tag(),
            "bytes_before": summary.bytes_before, "bytes_after": summary.bytes_after, "tensors": summary.tensors,
        }))?;
    } else {
        let quantised: Vec<_> = summary.tensors.iter().filter(|t| t.rms > 0.0).collect();
        let worst = quantised.iter().map(|t| t.rms_error / t.rms).fold(0.0, f64::max);
        print_line(&format!(
            "{}: {} instead of {}; {} of {} tensors are {}, off by {:.2} % (rms) at most",
            args.out.display(),
            size(summary.bytes_after),
            size(summary.bytes_before),
            quantised.len(),
            summary.tensors.len(),
            args.to.tag(),
            worst * 100.0,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
