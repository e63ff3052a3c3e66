//! What `quantize` and `train` write beside the weights: all that was there, and configs of the types that transformers declares.

#[path = "common/beside.rs"]
mod beside;
mod common;

use beside::{mamba, model_with, template, write, MODEL};
use common::repository;
use mamba_wgpu::model::synthetic::{Spec, PRESETS};
use mamba_wgpu::model::{Arch, Checkpoint};
use serde_json::{json, Value};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Every file that goes along with a model, with something in it.
fn with_everything() -> TempDir {
    let folder = model_with(|tokenizer| tokenizer["post_processor"] = template(true, false));
    write(&folder, "generation_config.json", &json!({ "eos_token_id": [0, 14] }));
    write(&folder, "tokenizer_config.json", &json!({ "eos_token": "<|endoftext|>" }));
    for name in ["special_tokens_map.json", "added_tokens.json", "vocab.json"] {
        write(&folder, name, &json!({}));
    }
    for name in ["merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    fs::write(folder.path().join("additional_chat_templates/tool_use.jinja"), "{{ tools }}").unwrap();
    folder
}

const ALONG: [&str; 11] = [
    "tokenizer.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
];

fn assert_along(from: &Path, to: &Path) {
    for name in ALONG {
        let read =
            |folder: &Path| fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{}/{name}: {e}", folder.display()));
        assert_eq!(read(to), read(from), "{name}");
    }
}

#[test]
fn quantising_takes_everything_along() {
    let (folder, out) = (with_everything(), tempfile::tempdir().unwrap());
    let out = out.path().join("q8");
    let quantize = |from: &Path, more: &[&str]| {
        mamba().arg("quantize").arg(from).arg(&out).args(["--to", "q8"]).args(more).assert()
    };
    quantize(folder.path(), &[]).success();
    assert_along(folder.path(), &out);
    assert_eq!(Checkpoint::open(&out).unwrap().tokenizer().unwrap().unwrap().end_of_text(), [0, 14]);
    // Another model in its place leaves nothing of the first.
    quantize(&repository(MODEL), &[]).failure().code(2);
    quantize(&repository(MODEL), &["--force"]).success();
    for name in ALONG {
        assert_eq!(out.join(name).exists(), name == "tokenizer.json", "{name}");
    }
}

/// A run of one step from a model, and its newest checkpoint.
fn trained(from: &Path, out: &Path, more: &[&str]) -> PathBuf {
    let text = out.with_extension("txt");
    fs::write(&text, "Emma was happy. She had nothing to regret, and much to hope for. ".repeat(20)).unwrap();
    let mut command = mamba();
    command.args(["train", "--task", "text", "--length", "16", "--batch", "1", "--steps", "1", "--warmup", "0"]);
    command.arg("--text").arg(&text).arg("--validation-text").arg(&text).arg("--from").arg(from).arg("--out").arg(out);
    command.args(more).assert().success();
    out.join("checkpoint-000001")
}

#[test]
fn training_takes_everything_along() {
    let (folder, out) = (with_everything(), tempfile::tempdir().unwrap());
    let run = out.path().join("run");
    let checkpoint = trained(folder.path(), &run, &[]);
    assert_along(folder.path(), &checkpoint);
    assert_along(folder.path(), &run.join("best-000001"));
    assert_typed(&checkpoint);
    // A run that is resumed has it from its checkpoint; the same model gives the same text's end.
    fs::remove_dir_all(run.join("best-000001")).unwrap();
    mamba()
        .args(["train", "--resume", "--text"])
        .arg(run.with_extension("txt"))
        .arg("--out")
        .arg(&run)
        .assert()
        .success();
    assert_along(folder.path(), &checkpoint);
    assert_eq!(Checkpoint::open(&checkpoint).unwrap().tokenizer().unwrap().unwrap().end_of_text(), [0, 14]);
    // Another tokenizer takes the place of all that is the old one's.
    let other = out.path().join("other");
    let tokenizer = repository(MODEL).join("tokenizer.json");
    let checkpoint = trained(folder.path(), &other, &["--tokenizer", tokenizer.to_str().unwrap()]);
    for name in ALONG {
        assert_eq!(
            checkpoint.join(name).exists(),
            ["tokenizer.json", "generation_config.json"].contains(&name),
            "{name}"
        );
    }
}

/// Holds a folder's config.json against the types that transformers' classes declare.
fn assert_typed(folder: &Path) {
    let path = folder.join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    if let Err(error) = typed(&config) {
        panic!("{}: {error}", path.display());
    }
}

fn typed(config: &Value) -> Result<(), String> {
    let table: Value =
        serde_json::from_slice(&fs::read(repository("tests/golden/config_types.json")).unwrap()).unwrap();
    let kind = |value: &Value| -> String {
        match value {
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::String(_) => "str".into(),
            Value::Number(n) if n.is_f64() => "float".into(),
            Value::Number(_) => "int".into(),
            Value::Array(list) if list.iter().all(Value::is_u64) => "list[int]".into(),
            // transformers writes what JSON has no number for as {"__float__": "Infinity"}.
            Value::Array(list) if list.iter().all(|x| x.is_f64() || x.get("__float__").is_some()) => {
                "list[float]".into()
            }
            Value::Array(_) => "list".into(),
            Value::Object(_) => "dict".into(),
        }
    };
    let fields = &table[config["model_type"].as_str().ok_or("no model_type")?];
    let fields = fields.as_object().ok_or("an unknown model_type")?;
    for (key, value) in config.as_object().ok_or("no object")? {
        // Of every class, and what the class computes from expand.
        let allowed = match key.as_str() {
            "model_type" | "dtype" | "transformers_version" => vec!["str"],
            "architectures" => vec!["list"],
            "intermediate_size" => vec!["int"],
            key => fields
                .get(key)
                .and_then(Value::as_array)
                .ok_or(format!("`{key}` is unknown"))?
                .iter()
                .filter_map(Value::as_str)
                .collect(),
        };
        if !allowed.contains(&kind(value).as_str()) {
            return Err(format!("`{key}` is {value}, a {}: {allowed:?} are allowed", kind(value)));
        }
    }
    let whole = |key: &str| config.get(key).and_then(Value::as_u64);
    let heads = || Some(whole("num_heads")? * whole("head_dim")?);
    match (whole("expand"), whole("hidden_size"), whole("intermediate_size").or_else(heads)) {
        (Some(expand), Some(width), Some(inner)) if expand * width == inner => Ok(()),
        sizes => Err(format!("expand, hidden_size and intermediate_size do not fit: {sizes:?}")),
    }
}

#[test]
fn every_config_that_is_written_has_the_declared_types() {
    let folder = tempfile::tempdir().unwrap();
    let golden = repository("tests/golden/checkpoints");
    // From nothing, from both layouts.
    let induction = folder.path().join("induction");
    let arguments = [
        "--length",
        "16",
        "--batch",
        "2",
        "--steps",
        "1",
        "--layers",
        "1",
        "--d-model",
        "8",
        "--validation-sequences",
        "2",
    ];
    mamba()
        .args(["train", "--task", "induction-heads"])
        .args(arguments)
        .arg("--out")
        .arg(&induction)
        .assert()
        .success();
    assert_typed(&induction.join("checkpoint-000001"));
    for name in ["f16", "original"] {
        let out = folder.path().join(name);
        let arguments = ["--length", "16", "--batch", "2", "--steps", "1", "--validation-sequences", "2", "--from"];
        mamba()
            .args(["train", "--task", "induction-heads"])
            .args(arguments)
            .arg(golden.join(name))
            .arg("--out")
            .arg(&out)
            .assert()
            .success();
        assert_typed(&out.join("checkpoint-000001"));
        assert_typed(&out.join("best-000001"));
    }
    // Quantised: of a config of its own, and of weights without one.
    let out = folder.path().join("q8");
    mamba().arg("quantize").arg(repository(MODEL)).arg(&out).args(["--to", "q8"]).assert().success();
    assert_typed(&out);
    let bare = folder.path().join("bare");
    fs::create_dir(&bare).unwrap();
    fs::copy(golden.join("f16/model.safetensors"), bare.join("only.safetensors")).unwrap();
    let out = folder.path().join("bare-q8");
    mamba().arg("quantize").arg(bare.join("only.safetensors")).arg(&out).args(["--to", "q8"]).assert().success();
    assert_typed(&out);
    // Of a config that says 2.0.
    let old = model_with(|_| {});
    let mut config: Value = serde_json::from_slice(&fs::read(old.path().join("config.json")).unwrap()).unwrap();
    config["expand"] = json!(2.0);
    write(&old, "config.json", &config);
    let out = folder.path().join("old-q8");
    mamba().arg("quantize").arg(old.path()).arg(&out).args(["--to", "q8"]).assert().success();
    assert_typed(&out);
    // What examples/make_random_model writes.
    for spec in PRESETS.map(|name| Spec::preset(name).unwrap()) {
        let families = match spec.arch {
            Arch::Mamba2 => vec![spec],
            _ => [Arch::Mamba1, Arch::FalconMamba].map(|arch| spec.clone().of(arch)).into(),
        };
        for spec in families {
            assert_eq!(typed(&serde_json::from_str(&spec.config_json()).unwrap()), Ok(()));
        }
    }
    // The check can fail.
    let good = json!({ "model_type": "mamba", "expand": 2, "hidden_size": 4, "intermediate_size": 8 });
    assert_eq!(typed(&good), Ok(()));
    for (key, bad) in [
        ("expand", json!(2.0)),
        ("use_bias", json!(0)),
        ("layer_norm_epsilon", json!(1)),
        ("expand", json!(3)),
        ("eos_token_id", json!("x")),
        ("d_model", json!(4)),
    ] {
        let mut config = good.clone();
        config[key] = bad;
        assert!(typed(&config).is_err(), "{config}");
    }
}
