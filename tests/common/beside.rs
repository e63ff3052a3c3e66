//! Folders with the embedded model's weights, to put files beside.

use crate::common::repository;
use assert_cmd::Command;
use serde_json::{json, Value};
use std::fs;
use tempfile::TempDir;

pub const MODEL: &str = "models/austen-4m";

pub fn mamba() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mamba-wgpu"));
    command.env("NO_COLOR", "1");
    command
}

/// A folder with the embedded model's weights, config and tokenizer, the last as `change` leaves it.
pub fn model_with(change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = repository(MODEL);
    let weights = folder.path().join("model.safetensors");
    if fs::hard_link(from.join("model.safetensors"), &weights).is_err() {
        fs::copy(from.join("model.safetensors"), &weights).unwrap();
    }
    fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(from.join("tokenizer.json")).unwrap()).unwrap();
    change(&mut tokenizer);
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

pub fn write(folder: &TempDir, name: &str, value: &Value) {
    fs::write(folder.path().join(name), value.to_string()).unwrap();
}

/// A post-processor with tokens before and after: `<|endoftext|>` is 0, "." is 14.
pub fn template(before: bool, after: bool) -> Value {
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let special = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let mut single = vec![text.clone()];
    if before {
        single.insert(0, special("<|endoftext|>"));
    }
    if after {
        single.push(special("."));
    }
    json!({ "type": "TemplateProcessing", "single": single, "pair": [text], "special_tokens": {
        "<|endoftext|>": { "id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"] },
        ".": { "id": ".", "ids": [14], "tokens": ["."] },
    } })
}
