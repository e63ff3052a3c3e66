//! What is given by mistake: other files under a tokenizer's names, names and addresses for paths, tokens and tokenizers that cannot be.

#[path = "common/beside.rs"]
mod beside;
mod common;

use beside::{mamba, model_with, template, write};
use serde_json::{json, Value};
use std::fs;
use tempfile::TempDir;

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9114344\n";
const PAGE: &[u8] = b"<!DOCTYPE html><html><body>Access to model is restricted</body></html>";
const UTF16: &[u8] = b"\xff\xfe{\0}\0";
const FOREIGN: [(&[u8], &str); 4] = [(LFS, "git-lfs"), (PAGE, "web page"), (UTF16, "UTF-16"), (b"", "empty")];

/// What `generate` says of a model that it refuses, with exit code 1.
fn refused(folder: &TempDir) -> String {
    let arguments = ["generate", "Emma", "--max-tokens", "1", "--backend", "cpu", "--model"];
    let refused = mamba().args(arguments).arg(folder.path()).assert().code(1);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(!said.contains("panicked") && said.contains("error: "), "{said}");
    said
}

#[test]
fn other_files_under_the_names_of_small_ones_are_called_what_they_are() {
    for name in
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"]
    {
        for (bytes, what) in FOREIGN {
            let folder = model_with(|_| {});
            fs::write(folder.path().join(name), bytes).unwrap();
            let said = refused(&folder);
            assert!(said.contains(name) || name == "tokenizer.json", "{name}: {said}");
            assert!(said.contains(what), "{name}: {said}");
        }
    }
    // The older kind of tokenizer, in several files.
    let slow = || {
        let folder = model_with(|_| {});
        let tokenizer: Value =
            serde_json::from_slice(&fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap();
        fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
        write(&folder, "vocab.json", &tokenizer["model"]["vocab"]);
        let pair = |merge: &Value| match merge {
            Value::String(pair) => pair.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        };
        let merges: Vec<String> = tokenizer["model"]["merges"].as_array().unwrap().iter().map(pair).collect();
        fs::write(folder.path().join("merges.txt"), merges.join("\n")).unwrap();
        write(&folder, "added_tokens.json", &json!({}));
        folder
    };
    let arguments = ["generate", "Emma", "--max-tokens", "1", "--backend", "cpu", "--model"];
    mamba().args(arguments).arg(slow().path()).assert().success();
    for name in ["vocab.json", "merges.txt", "added_tokens.json"] {
        for (bytes, what) in FOREIGN {
            let folder = slow();
            fs::write(folder.path().join(name), bytes).unwrap();
            let said = refused(&folder);
            assert!(said.contains(name) && said.contains(what), "{name}: {said}");
        }
    }
}

#[test]
fn names_of_models_and_addresses_get_a_hint() {
    let said = |command: &[&str]| {
        let refused = mamba().args(command).assert().code(1);
        String::from_utf8_lossy(&refused.get_output().stderr).into_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let run = run.to_str().unwrap();
    for command in [
        &["generate", "x", "--model"][..],
        &["inspect-model", "--model"],
        &["eval", "--model"],
        &["train", "--task", "induction-heads", "--out", run, "--from"],
        &["quantize", "--to", "q8", "/nowhere/out"],
    ] {
        let with = |name| match command[0] {
            "quantize" => [&command[..3], &[name], &command[3..]].concat(),
            _ => [command, &[name]].concat(),
        };
        for (name, repository) in [
            ("state-spaces/mamba-130m-hf", "hf download state-spaces/mamba-130m-hf --local-dir"),
            ("https://huggingface.co/state-spaces/mamba-130m-hf", "hf download state-spaces/mamba-130m-hf --local-dir"),
        ] {
            let said = said(&with(name));
            assert!(said.contains("no such file or folder") && said.contains(repository), "{said}");
        }
    }
    assert!(said(&["generate", "x", "--model", "embedded"]).contains("leave it out"));
    assert!(!said(&["generate", "x", "--model", "./no/such"]).contains("hf download"));
}

#[test]
fn values_that_cannot_be_are_noted_and_ignored() {
    let folder = model_with(|_| {});
    let odd = json!({ "eos_token_id": [0, 99999], "top_k": 1e20, "temperature": 1e-45, "repetition_penalty": 1e-45 });
    write(&folder, "generation_config.json", &odd);
    let arguments = ["generate", "Emma", "--max-tokens", "2", "--backend", "cpu", "--json", "--stats", "--model"];
    let done = mamba().args(arguments).arg(folder.path()).assert().success();
    let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert_eq!(said.matches("99999").count(), 1, "{said}");
    assert!(said.contains("`eos_token_id` names 99999, and the vocabulary has 4096 entries: ignored"), "{said}");
    assert!(said.contains("`top_k` is 1e20") || said.contains("`top_k` is 1e+20"), "{said}");
    assert!(said.contains("from 0 (all) to 4294967295") && !said.contains("0.000000"), "{said}");
    let value: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!(value["eos_token_id"], json!([0]));
    assert!(String::from_utf8_lossy(&done.get_output().stdout).contains("\"temperature\":1e-45"));
    // None is left: the config's own.
    write(&folder, "generation_config.json", &json!({ "eos_token_id": 4096 }));
    let done = mamba().args(arguments).arg(folder.path()).assert().success();
    let value: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!(value["eos_token_id"], json!([0]));
    let done = mamba().args(["generate", "x", "--repetition-penalty", "1e-45"]).assert().code(2);
    assert!(String::from_utf8_lossy(&done.get_output().stderr).contains("--repetition-penalty 1e-45: "));
}

#[test]
fn a_tokenizer_that_the_library_would_panic_at_is_refused_in_words() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 6] = [
        ("precompiled_charsmap", |t| {
            t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "CAAAAP//////////" });
        }),
        ("empty pattern", |t| {
            t["normalizer"] = json!({ "type": "Replace", "pattern": { "String": "" }, "content": "x" });
        }),
        ("FixedLength", |t| t["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 })),
        ("continuing_subword_prefix", |t| t["model"]["continuing_subword_prefix"] = json!("a prefix of some length")),
        ("template", |t| {
            t["post_processor"] = template(true, false);
            t["post_processor"]["special_tokens"] = json!({});
        }),
        // What nobody looks for before is caught: a Strip that takes more of a token than there is.
        ("tokenizers library", |t| {
            t["decoder"] = json!({ "type": "Strip", "content": "a", "start": 0, "stop": 9 });
            t["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "Regex": "a" }, "behavior": "Isolated",
                                         "invert": false });
        }),
    ];
    for (words, change) in changes {
        let folder = model_with(change);
        let said = refused(&folder);
        assert!(said.contains(words), "{words}: {said}");
    }
}
