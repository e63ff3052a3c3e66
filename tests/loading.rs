//! Models as people have them: wrapped names, other layouts, caches, runs, broken downloads; and what is said of what cannot be
//! opened.

#[path = "common/make.rs"]
mod make;

use assert_cmd::Command;
use make::Model;
use mamba_wgpu::model::{Checkpoint, LoadError};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::{tempdir, TempDir};

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614\nsize 9114344\n";
const PAGE: &str = "<!DOCTYPE html><html><body>Access to this model is restricted</body></html>";

fn program(arguments: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.env_remove("RUST_LOG").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn austen(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/austen-4m").join(name)
}

/// A folder with the tiny model.
fn good() -> TempDir {
    let folder = tempdir().unwrap();
    Model::tiny().save(folder.path());
    folder
}

/// A folder with the tiny model and a tokenizer.
fn with_tokenizer() -> TempDir {
    let folder = good();
    fs::copy(austen("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    folder
}

fn error_of(path: &Path) -> String {
    Checkpoint::open(path).map(|_| ()).unwrap_err().to_string()
}

fn has(message: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in: {message}"));
}

#[test]
fn another_file_in_place_of_any() {
    let sharded = tempdir().unwrap();
    Model::tiny().save_sharded(sharded.path());
    for (folder, names) in [
        (good(), &["config.json", "model.safetensors"][..]),
        (sharded, &["model.safetensors.index.json", "model-00002-of-00002.safetensors"]),
    ] {
        for name in names {
            let path = folder.path().join(name);
            let right = fs::read(&path).unwrap();
            for (bytes, words) in [
                (POINTER.as_bytes(), ["git-lfs pointer", "9114344 bytes", "git lfs pull"]),
                (PAGE.as_bytes(), ["web page", "licence", "download it again"]),
                (b"{\"error\": \"Invalid credentials\"}", ["error message", "refused", "download it again"]),
                (b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0\0", ["gzip", "unpack", name]),
                (b"GGUF\x03\0\0\0\0\0\0\0\0", ["GGUF", "safetensors", name]),
                (b"PK\x03\x04\0\0\0\0\0\0\0\0\0", ["zip", "pytorch_model.bin", name]),
                (b"\xff\xfe{\0}\0\0\0\0\0", ["UTF-16", "UTF-8", name]),
            ] {
                fs::write(&path, bytes).unwrap();
                has(&error_of(folder.path()), &words);
                has(&error_of(folder.path()), &[name]);
            }
            fs::write(&path, right).unwrap();
        }
        Checkpoint::open(folder.path()).unwrap();
    }
    // The tokenizer is read when it is needed.
    let folder = with_tokenizer();
    for (bytes, words) in [(POINTER, ["git-lfs pointer", "git lfs pull"]), (PAGE, ["web page", "download it again"])] {
        fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
        let output = program(&["generate", "--backend", "cpu", "--model", folder.path().to_str().unwrap(), "x"]);
        assert_eq!(output.status.code(), Some(1));
        has(&text(&output.stderr), &[words[0], words[1], "tokenizer.json"]);
    }
    // An adapter's files.
    let folder = good();
    fs::write(folder.path().join("adapter_config.json"), POINTER).unwrap();
    has(&error_of(folder.path()), &["adapter_config.json", "git-lfs pointer"]);
    fs::write(folder.path().join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), POINTER).unwrap();
    has(&error_of(folder.path()), &["adapter_model.safetensors", "git-lfs pointer"]);
}

#[test]
fn files_that_were_cut_short() {
    let folder = good();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    has(&error_of(folder.path()), &["cut short by 100 bytes", "download it again"]);
    fs::write(&path, &bytes[..300]).unwrap();
    has(&error_of(folder.path()), &["cut short, download it again"]);
    fs::write(&path, vec![0; 5000]).unwrap();
    has(&error_of(folder.path()), &["nothing but zeros"]);
    fs::write(&path, &bytes).unwrap();
    fs::write(folder.path().join("config.json"), "{\"model_type\": \"mam").unwrap();
    has(&error_of(folder.path()), &["config.json", "cut short"]);
}

#[test]
fn names_in_wrappers() {
    let plain = Model::tiny().open().unwrap().fingerprint();
    for wrapper in [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "base_model.model.",
        "base_model.model.model.",
        "model.module._orig_mod.",
        "_forward_module.model.",
    ] {
        let mut model = Model::tiny();
        model.tensors.iter_mut().for_each(|t| t.name.insert_str(0, wrapper));
        let checkpoint = model.open().unwrap_or_else(|e| panic!("{wrapper}: {e}"));
        assert_eq!(checkpoint.fingerprint(), plain, "{wrapper}");
        assert!(checkpoint.warnings().is_empty(), "{:?}", checkpoint.warnings());
        // As they are stored.
        assert!(checkpoint.tensors().all(|t| t.name.starts_with(wrapper)));
    }
    let compiled_layers = Model::tiny().rename(".mixer.", "._orig_mod.mixer.").open().unwrap();
    assert_eq!(compiled_layers.fingerprint(), plain);
    // Both, and nothing that says which is meant.
    let mut twice = Model::tiny();
    twice.tensors.extend(Model::tiny().rename("backbone.", "module.backbone.").tensors);
    assert!(matches!(twice.open(), Err(LoadError::AmbiguousNames { .. })));
    // What is not known is listed.
    let other = Model::tiny().rename("backbone.", "policy.net.").open().unwrap_err().to_string();
    has(
        &other,
        &["is missing", "`policy.net.layers.N.mixer.A_log`", "`policy.net.embeddings.weight`", "tensors there"],
    );
}

#[test]
fn tensors_that_say_that_they_matter() {
    for (name, word) in [
        ("backbone.layers.0.mixer.in_proj.lora_A.weight", "LoRA"),
        ("backbone.layers.0.mixer.in_proj.lora_magnitude_vector", "DoRA"),
        ("backbone.layers.0.mixer.dt_norm.weight", "a norm"),
        ("backbone.layers.0.mixer.out_gate.bias", "a bias"),
        ("backbone.layers.0.mixer.in_proj.SCB", "quantised"),
        ("backbone.layers.0.mixer.in_proj.weight_scale", "quantised"),
        ("backbone.layers.0.mixer.in_proj.ia3_l", "(IA)3"),
    ] {
        let error = Model::tiny().add(name, &[3], 0.0).open().unwrap_err().to_string();
        has(&error, &[name, word]);
    }
}

#[test]
fn convolutions_as_mlx_stores_them() {
    let mut model = Model::tiny();
    for t in model.tensors.iter_mut().filter(|t| t.name.ends_with("conv1d.weight")) {
        assert_eq!(t.shape[1], 1);
        t.shape.swap(1, 2);
    }
    let checkpoint = model.open().unwrap();
    assert_eq!(checkpoint.fingerprint(), Model::tiny().open().unwrap().fingerprint());
    assert_eq!(
        checkpoint.weights().layers[1].get("mixer.conv1d.weight").unwrap().shape,
        Model::tiny().open().unwrap().weights().layers[1].get("mixer.conv1d.weight").unwrap().shape
    );
    has(&checkpoint.notes()[0], &["MLX"]);
}

fn mark(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, [b"\xef\xbb\xbf", &bytes[..]].concat()).unwrap();
}

#[test]
fn byte_order_marks_are_skipped() {
    let folder = tempdir().unwrap();
    Model::tiny().save_sharded(folder.path());
    mark(&folder.path().join("model.safetensors.index.json"));
    mark(&folder.path().join("config.json"));
    Checkpoint::open(folder.path()).unwrap();

    // A tokenizer; a prompt from stdin; a text: they make the same tokens, and the mark is no byte of the text.
    let folder = tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(austen(name), folder.path().join(name)).unwrap();
    }
    let model = folder.path().to_str().unwrap();
    mark(&folder.path().join("tokenizer.json"));
    let generate = |prompt: &[u8]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
        command.args([
            "generate",
            "--backend",
            "cpu",
            "--max-tokens",
            "1",
            "--temperature",
            "0",
            "--json",
            "--model",
            model,
        ]);
        let output = command.write_stdin(prompt).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let (with, without) = (generate("\u{feff}Emma was\n".as_bytes()), generate(b"Emma was\n"));
    assert_eq!((&with["prompt"], &with["prompt_tokens"]), (&without["prompt"], &without["prompt_tokens"]));
    let path = folder.path().join("text.txt");
    let score = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        program(&["score", "--backend", "cpu", "--model", model, "--text", path.to_str().unwrap(), "--json"])
    };
    assert_eq!(text(&score("\u{feff}Emma was".as_bytes()).stdout), text(&score(b"Emma was").stdout));
    let utf16: Vec<u8> = "\u{feff}Emma".encode_utf16().flat_map(u16::to_le_bytes).collect();
    has(&text(&score(&utf16).stderr), &["text.txt", "UTF-16", "UTF-8"]);
}

#[cfg(unix)]
#[test]
fn hugging_faces_cache() {
    use std::os::unix::fs::symlink;
    let cache = tempdir().unwrap();
    let root = cache.path().join("models--x--tiny");
    for folder in ["blobs", "refs", "snapshots/old", "snapshots/new"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("refs/main"), "old").unwrap();
    let model = good();
    for (blob, name) in [("c0", "config.json"), ("e1", "model.safetensors")] {
        fs::copy(model.path().join(name), root.join("blobs").join(blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), root.join("snapshots/old").join(name)).unwrap();
    }
    let snapshot = root.join("snapshots/old");
    for path in [cache.path(), &root, &root.join("snapshots"), &snapshot, &root.join("blobs/c0")] {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Path::new(checkpoint.source()), snapshot, "{}", path.display());
        assert_eq!(checkpoint.notes().len(), usize::from(path != snapshot));
    }
    let blob = Checkpoint::open(&root.join("blobs/e1")).unwrap();
    assert_eq!(Path::new(blob.source()), snapshot.join("model.safetensors"));
    // Without refs/main, the newest.
    fs::remove_file(root.join("refs/main")).unwrap();
    fs::copy(model.path().join("config.json"), root.join("snapshots/new/config.json")).unwrap();
    symlink("../../blobs/e2.incomplete", root.join("snapshots/new/model.safetensors")).unwrap();
    let error = error_of(&root);
    has(&error, &["snapshots/new/model.safetensors", "a link to", "e2.incomplete", "download"]);
    // Several models.
    fs::create_dir(cache.path().join("models--x--other")).unwrap();
    has(&error_of(cache.path()), &["models--x--tiny", "models--x--other"]);
}

#[test]
fn runs_and_trainers_folders() {
    let folder = tempdir().unwrap();
    let save = |name: &str| {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        Model::tiny().save(&folder.path().join(name));
    };
    let source = |path: &Path| Checkpoint::open(path).unwrap().source().to_owned();
    let expect = |name: &str| assert_eq!(Path::new(&source(folder.path())), folder.path().join(name));
    save("checkpoint-500");
    save("checkpoint-1000");
    fs::create_dir(folder.path().join("checkpoint-2000")).unwrap(); // nothing in it
    fs::write(folder.path().join("checkpoint-1000/optimizer.pt"), "PK").unwrap();
    expect("checkpoint-1000");
    save("best-000300");
    expect("best-000300");
    // What it says, and that every command takes it.
    let path = folder.path().to_str().unwrap();
    let output = program(&["logits", "--backend", "cpu", "--tokens", "1,2", "--model", path]);
    assert!(output.status.success());
    has(&text(&output.stderr), &["mamba-wgpu: ", "best-000300"]);
    let output = program(&["inspect-model", "--model", path]);
    assert!(output.status.success() && text(&output.stdout).contains("best-000300"));
    // A file beside the weights stands for its folder.
    let config = folder.path().join("best-000300/config.json");
    assert_eq!(Path::new(&source(&config)), config.parent().unwrap());
    // A model at a place that is not known is pointed at.
    let outer = tempdir().unwrap();
    fs::create_dir(outer.path().join("weights")).unwrap();
    Model::tiny().save(&outer.path().join("weights"));
    has(&error_of(outer.path()), &["there is a model in", "weights: give that"]);
}

#[test]
fn what_is_there_is_listed_though_it_cannot_be_opened() {
    let folder = good();
    Model::tiny().rename("backbone.", "policy.").save(folder.path());
    fs::write(folder.path().join("tokenizer.json"), POINTER).unwrap();
    let path = folder.path().to_str().unwrap();
    let output = program(&["inspect-model", "--model", path]);
    assert_eq!(output.status.code(), Some(1));
    has(&text(&output.stdout), &["policy.layers.1.mixer.in_proj.weight", "[52,13]", "git-lfs pointer", "config.json"]);
    has(&text(&output.stderr), &["error: ", "is missing"]);
    let output = program(&["inspect-model", "--json", "--model", path]);
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value["error"].as_str().unwrap().contains("is missing"));
    assert_eq!(value["tensors"].as_array().unwrap().len(), Model::tiny().tensors.len());
    // Also where the weights are fine and the config is not, and where there are no weights.
    fs::write(folder.path().join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    has(&text(&program(&["inspect-model", "--model", path]).stdout), &["policy.embeddings.weight"]);
    fs::write(folder.path().join("model.safetensors"), PAGE).unwrap();
    has(&text(&program(&["inspect-model", "--model", path]).stdout), &["model.safetensors", "a web page", "0 tensors"]);
}

#[test]
fn pickles_come_with_a_recipe() {
    let folder = tempdir().unwrap();
    let shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    shards.iter().for_each(|name| fs::write(folder.path().join(name), "PK").unwrap());
    let recipe = |path: &Path| {
        let error = error_of(path);
        let lines: Vec<&str> = error.lines().skip_while(|l| !l.contains("<<'END'")).skip(1).collect();
        let end = lines.iter().position(|line| line.trim() == "END").unwrap();
        lines[..end].iter().map(|line| format!("{}\n", &line[4..])).collect::<String>()
    };
    let without_index = recipe(folder.path());
    fs::write(folder.path().join(shards[1]), POINTER).unwrap();
    has(&error_of(folder.path()), &[shards[1], "git lfs pull"]);
    fs::write(folder.path().join(shards[1]), "PK").unwrap();
    let map = r#"{"metadata": {}, "weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}"#;
    let index = folder.path().join("pytorch_model.bin.index.json");
    fs::write(&index, map).unwrap();
    for path in [folder.path(), &index, &folder.path().join(shards[0])] {
        assert_eq!(recipe(path), without_index);
        has(&without_index, &[shards[0], shards[1], "-of-00002.safetensors", "weight_map", "weights_only=True"]);
    }
    // It is Python, where there is one to ask.
    let script = folder.path().join("convert.py");
    fs::write(&script, &without_index).unwrap();
    if let Ok(output) = std::process::Command::new("python3").args(["-m", "py_compile"]).arg(&script).output() {
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[test]
fn other_formats_and_tokenizers_have_a_way_on() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("mamba.Q4_K_M.gguf"), b"GGUF\x03\0\0\0").unwrap();
    has(&error_of(folder.path()), &["mamba.Q4_K_M.gguf", "GGUF is not read yet"]);
    has(&error_of(&folder.path().join("mamba.Q4_K_M.gguf")), &["GGUF is not read yet"]);
    let folder = good();
    let generate =
        || text(&program(&["generate", "--backend", "cpu", "--model", folder.path().to_str().unwrap(), "x"]).stderr);
    has(&generate(), &["no tokenizer.json", "37 entries"]);
    fs::write(folder.path().join("tokenizer.model"), b"\n\x0e\n\x05<unk>").unwrap();
    has(&generate(), &["tokenizer.model", "SentencePiece", "save_pretrained"]);
    assert!(!generate().contains("gpt-neox"));
}

#[test]
fn nothing_is_said_twice() {
    let folder = good();
    // A warning, once and in the program's style.
    let m = Model::tiny().add("something.else", &[3], 0.0);
    m.save(folder.path());
    let path = folder.path().to_str().unwrap();
    let said = text(&program(&["inspect-model", "--model", path]).stderr);
    assert_eq!((said.matches("something.else").count(), said.matches("warning: ").count()), (1, 1), "{said}");
    assert!(!said.contains("WARN"), "{said}");
    // The system's reason, once.
    let output = program(&["generate", "--backend", "cpu", "--max-tokens", "1", "--state-in", path, "x"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let missing = folder.path().join("none");
    let output = program(&["generate", "--backend", "cpu", "--state-in", missing.to_str().unwrap()]);
    assert_eq!(text(&output.stderr).matches("No such file").count(), 1, "{}", text(&output.stderr));
}
