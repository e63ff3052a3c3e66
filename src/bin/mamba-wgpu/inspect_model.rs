//! `mamba-wgpu inspect-model`: what a checkpoint holds, without running it.

use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::model::blocks::Weights;
use mamba_wgpu::model::{Checkpoint, Contents, FileInfo, Listed, TensorView};
use serde_json::json;

use crate::common::ModelArgs;
use crate::exit::ExitCode;
use crate::output::{print_json, print_line, short, size};

/// Show a checkpoint's dimensions, tensors and sizes
///
/// Of what cannot be opened as a model, it lists the files and tensors that are there and says why not.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object: source, config, tokenizer, tensors, parameters, bytes, layer_bytes (of each layer's
    /// weights), state_bytes, token_bytes
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let checkpoint = match (args.model.open(), &args.model.model) {
        (Ok(checkpoint), _) => checkpoint,
        (Err(error), None) => return Err(error),
        (Err(error), Some(path)) => {
            // What is there is listed all the same, unless there is nothing.
            if let Ok(contents) = Contents::of(path) {
                match args.json {
                    true => print_json(&unopened(&contents, &format!("{error:#}")))?,
                    false => print_line(&unopened_in_words(&contents))?,
                }
            }
            return Err(error);
        }
    };
    let tokenizer = checkpoint.tokenizer().unwrap_or_else(|error| {
        eprintln!("warning: {}: {error}", checkpoint.source());
        None
    });
    let value = describe(&checkpoint, tokenizer.as_ref());
    if args.json {
        print_json(&value)?;
    } else {
        print_line(&in_words(&value))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(checkpoint: &Checkpoint, tokenizer: Option<&Tokenizer>) -> serde_json::Value {
    let config = checkpoint.config();
    let arch = config.arch.to_string();
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
    let mut dimensions = json!({
        "arch": arch, "d_model": config.d_model, "n_layer": config.n_layer(), "vocab_size": config.vocab_size,
        "norm_eps": short(config.norm_eps), "tie_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id,
    });
    if config.layers.len() != config.n_layer() {
        dimensions["blocks"] = json!(config.layers.len());
    }
    let kinds = config.kinds();
    for (count, layer) in &kinds {
        let mut of_kind = json!({});
        for (name, size) in layer.dimensions() {
            of_kind[name] = json!(size);
        }
        for (name, value) in layer.options() {
            of_kind[name] = value;
        }
        // Of a model with one kind of layers, beside its other dimensions.
        if let ([_], Some(of_kind)) = (&kinds[..], of_kind.as_object()) {
            of_kind.iter().for_each(|(name, value)| dimensions[name] = value.clone());
        } else {
            of_kind["layers"] = json!(count);
            dimensions[layer.kind()] = of_kind;
        }
    }
    json!({
        "source": checkpoint.source(),
        "config": dimensions,
        "generation_config": checkpoint.generation_config().stated(),
        "tokenizer": tokenizer.is_some(),
        "end_of_text": tokenizer.map(Tokenizer::end_of_text),
        "tokens_before": tokenizer.map(Tokenizer::tokens_before),
        "tokens_after": tokenizer.map(Tokenizer::tokens_after),
        "files_beside": checkpoint.sidecars().iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "adapters": checkpoint.adapters().map(|adapter| json!({
            "source": adapter.source, "ranks": adapter.ranks, "alpha": adapter.alpha, "targets": adapter.targets,
            "matrices": adapter.matrices, "replaced": adapter.replaced, "scale": adapter.scale,
        })).collect::<Vec<_>>(),
        "tensors": tensors,
        "parameters": parameters,
        "bytes": bytes,
        // As they are stored, by the layers that --gpu-layers counts.
        "layer_bytes": layer_bytes(checkpoint),
        // f32, one text: the last d_conv inputs of the convolution and the state of the recurrence, in each layer.
        "state_bytes": config.state_bytes(),
        // And of attention keys and values of every token.
        "token_bytes": config.token_bytes(),
    })
}

/// Bytes of each layer's weights.
fn layer_bytes(checkpoint: &Checkpoint) -> Vec<u64> {
    let blocks = checkpoint.weights().layers;
    let layer = |blocks: &[Weights<TensorView<'_>>]| {
        let mut bytes = 0;
        blocks.iter().for_each(|block| block.for_each(&mut |_, tensor| bytes += tensor.bytes()));
        bytes
    };
    blocks.chunks(checkpoint.config().arch.blocks_per_layer()).map(layer).collect()
}

/// The same, for people: dimensions, a line a tensor, and the sums.
fn in_words(value: &serde_json::Value) -> String {
    let mut lines = vec![value["source"].as_str().unwrap_or_default().to_string()];
    for (key, value) in value["config"].as_object().into_iter().flatten() {
        let of_kind = value.as_object().map(|sizes| {
            let count = &sizes["layers"];
            let sizes = sizes.iter().filter(|(name, _)| *name != "layers").map(|(name, size)| format!("{name} {size}"));
            format!("{count} layers: {}", sizes.collect::<Vec<_>>().join(", "))
        });
        lines.push(format!("  {key:<16}{}", of_kind.unwrap_or_else(|| value.to_string())));
    }
    lines.push(format!("  {:<16}{}", "tokenizer", if value["tokenizer"] == true { "yes" } else { "no" }));
    if value["tokenizer"] == true {
        lines.push(format!("  {:<16}{}", "texts end with", value["end_of_text"]));
        lines.push(format!("  {:<16}{} before, {} after", "texts get", value["tokens_before"], value["tokens_after"]));
    }
    for (key, value) in value["generation_config"].as_object().into_iter().flatten() {
        lines.push(format!("  {key:<16}{value} (generation_config.json)"));
    }
    for adapter in value["adapters"].as_array().into_iter().flatten() {
        let list = |key: &str| adapter[key].as_array().into_iter().flatten().map(word).collect::<Vec<_>>().join(", ");
        lines.push(format!(
            "  {:<16}{}: rank {}, alpha {}, on {} matrices ({}), {} whole tensors, scale {}",
            "LoRA adapter",
            word(&adapter["source"]),
            list("ranks"),
            adapter["alpha"],
            adapter["matrices"],
            list("targets"),
            adapter["replaced"],
            adapter["scale"],
        ));
    }
    lines.extend(tensor_lines(value));
    let of_layers: Vec<_> = value["layer_bytes"].as_array().into_iter().flatten().filter_map(|b| b.as_u64()).collect();
    if let (Some(least), Some(most)) = (of_layers.iter().min(), of_layers.iter().max()) {
        let each = match least == most {
            true => size(*least),
            false => format!("{} to {}", size(*least), size(*most)),
        };
        let rest = value["bytes"].as_u64().unwrap_or(0).saturating_sub(of_layers.iter().sum());
        let count = of_layers.len();
        lines.push(format!("{count} layers of {each} of weights each, and {} of embedding and head", size(rest)));
    }
    lines.push(format!(
        "{} parameters, {} of weights, {} of state for each text{}",
        value["parameters"],
        size(value["bytes"].as_u64().unwrap_or(0)),
        size(value["state_bytes"].as_u64().unwrap_or(0)),
        match value["token_bytes"].as_u64() {
            None | Some(0) => String::new(),
            Some(bytes) => format!(", and {} of keys and values for each of its tokens", size(bytes)),
        },
    ));
    lines.join("\n")
}

/// "N tensors", and a line for each.
fn tensor_lines(value: &serde_json::Value) -> Vec<String> {
    let tensors = value["tensors"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |tensor: &serde_json::Value| {
        format!(
            "  {:<52} {:<5} {:<18} {:>12}",
            tensor["name"].as_str().unwrap_or_default(),
            tensor["dtype"].as_str().unwrap_or_default(),
            tensor["shape"].to_string(),
            size(tensor["bytes"].as_u64().unwrap_or(0)),
        )
    };
    std::iter::once(format!("{} tensors", tensors.len())).chain(tensors.iter().map(line)).collect()
}

/// What is at a path that is no model which could be opened.
fn unopened(contents: &Contents, error: &str) -> serde_json::Value {
    let file = |f: &FileInfo| json!({ "name": f.name, "bytes": f.bytes, "remark": f.remark });
    let tensor =
        |t: &Listed| json!({ "name": t.name, "dtype": t.dtype, "shape": t.shape, "bytes": t.bytes, "file": t.file });
    json!({
        "source": contents.source,
        "error": error,
        "files": contents.files.iter().map(file).collect::<Vec<_>>(),
        "tensors": contents.tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn unopened_in_words(contents: &Contents) -> String {
    let mut lines = vec![contents.source.clone(), format!("{} files", contents.files.len())];
    for FileInfo { name, bytes, remark } in &contents.files {
        let remark = remark.as_ref().map_or(String::new(), |remark| format!("  {remark}"));
        lines.push(format!("  {name:<52} {:>12}{remark}", size(*bytes)));
    }
    lines.extend(tensor_lines(&unopened(contents, "")));
    lines.join("\n")
}

/// A string without its quotes; anything else as JSON.
fn word(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
