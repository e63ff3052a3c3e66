//! What the program says: figures that mean the same wherever they are printed, keys that --help names, errors that say what, which
//! file or flag, and nothing twice.

use assert_cmd::Command;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn mamba() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mamba-wgpu"));
    command.env("NO_COLOR", "1");
    command
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_slice(&mamba().args(arguments).assert().success().get_output().stdout).unwrap()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The smallest model that trains in a second.
const SMALL: [&str; 12] =
    ["--preset", "tiny", "--layers", "1", "--d-model", "16", "--d-state", "4", "--batch", "4", "--validate-every", "0"];

/// What a run of `task` says at its end, in `out`.
fn train(task: &str, out: &str, more: &[&str]) -> Value {
    json(&[&["train", "--json", "--task", task, "--out", out], &SMALL[..], more].concat())
}

/// The keys of an object.
fn keys(value: &Value) -> Vec<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// Holds the keys of a command's JSON against what --help says of --json.
fn documented(command: &[&str], keys: &[String]) {
    let help = mamba().args(command).arg("--help").assert().success();
    let help = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
    let (_, json) = help.split_once("Print one JSON object").unwrap_or_else(|| panic!("{command:?}: {help}"));
    // Up to the next flag.
    let json = json.split("\n  -").next().unwrap();
    let words: BTreeSet<&str> = json.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    for key in keys {
        assert!(words.contains(key.as_str()), "{command:?}: --help does not name the key {key}: {json}");
    }
}

/// The last validation in a run's log.
fn validation(out: &str) -> Value {
    let log = fs::read_to_string(Path::new(out).join("log.jsonl")).unwrap();
    let mut lines = log.lines().rev().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.find(|line| line.get("accuracy").is_some()).unwrap()
}

#[test]
fn what_training_prints_eval_prints() {
    let folder = tempfile::tempdir().unwrap();
    // Tasks that ask several times a sequence in training, and one that has several answers.
    for (task, length, answers) in
        [("induction-heads", "16", 1), ("associative-recall", "17", 1), ("selective-copying", "16", 4)]
    {
        let out = folder.path().join(task);
        let out = out.to_str().unwrap();
        let report = train(task, out, &["--length", length, "--steps", "30", "--validation-sequences", "150"]);
        let logged = validation(out);
        let eval = |more: &[&str]| {
            let arguments = ["eval", "--json", "--sequences", "150", "--model", out];
            json(&[&arguments[..], more].concat())["lengths"][0].clone()
        };
        // The one validation was of the last step, whose model is the best.
        let same = eval(&["--validation"]);
        let (right, asked) = (same["correct"].as_u64().unwrap(), same["targets"].as_u64().unwrap());
        assert_eq!(asked, 150 * answers, "{task}");
        assert!(0 < right && right < asked, "{task}: {same}");
        assert_eq!(same["accuracy"], logged["accuracy"], "{task}");
        assert_eq!(report["accuracy"], logged["accuracy"], "{task}");
        let loss = |value: &Value, key: &str| value[key].as_f64().unwrap();
        assert!((loss(&same, "loss") - loss(&logged, "validation_loss")).abs() < 1e-5, "{task}: {same}, {logged}");
        let told = report["validation"].as_str().unwrap();
        assert!(told.ends_with(&format!("({right} of {asked} answers)")), "{told}");
        // Other sequences: another figure, within what so many can tell.
        let other = eval(&[]);
        assert!((loss(&other, "loss") - loss(&same, "loss")).abs() > 1e-4, "{task}: {same}, {other}");
        assert!((loss(&other, "accuracy") - loss(&same, "accuracy")).abs() < 0.25, "{task}: {same}, {other}");
        // In pieces, with the state carried along, too.
        let pieces = eval(&["--validation", "--chunk", "10"]);
        assert_eq!(pieces["correct"], same["correct"], "{task}");
    }
    let out = folder.path().join("induction-heads");
    documented(&["train"], &keys(&train_again(&out)));
    let report = json(&["eval", "--json", "--sequences", "2", "--model", out.to_str().unwrap()]);
    documented(&["eval"], &[keys(&report), keys(&report["lengths"][0])].concat());
}

/// A run that is there, resumed: nothing is left to do, and it says what it would have said.
fn train_again(out: &Path) -> Value {
    json(&["train", "--json", "--resume", "--out", out.to_str().unwrap()])
}

#[test]
fn a_run_from_a_run_has_its_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (first, again, preset, other) = (path("first"), path("again"), path("preset"), path("other"));
    train("induction-heads", &first, &["--length", "12", "--steps", "3", "--validation-sequences", "4"]);
    let from = |task: &str, out: &str, more: &[&str]| {
        let arguments = ["train", "--task", task, "--from", &first, "--out", out, "--validation-sequences", "4"];
        let done = mamba().args(arguments).args(more).assert().success();
        let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        let settings: Value = serde_json::from_slice(&fs::read(Path::new(out).join("training.json")).unwrap()).unwrap();
        (said, settings)
    };
    let (said, settings) = from("induction-heads", &again, &["--steps", "2"]);
    assert!(said.contains("length 12, batch 4"), "{said}");
    assert_eq!((&settings["task"]["length"], &settings["batch"]), (&12.into(), &4.into()));
    assert_eq!((&settings["task"]["occurrences"], &settings["schedule"]["steps"]), (&4.into(), &2.into()));
    // A tenth of the run's rate, which was the preset's.
    assert!((settings["schedule"]["peak"].as_f64().unwrap() - 8e-4).abs() < 1e-12, "{settings}");
    let (said, settings) = from("induction-heads", &preset, &["--preset", "tiny", "--steps", "1"]);
    assert!(!said.contains("as in the run"), "{said}");
    assert_eq!((&settings["task"]["length"], &settings["batch"]), (&24.into(), &16.into()));
    // Another task is none of that run's.
    let small = ["--length", "16", "--memorise", "2", "--batch", "2", "--steps", "1"];
    let (said, settings) = from("selective-copying", &other, &small);
    assert!(!said.contains("as in the run"), "{said}");
    assert_eq!(settings["schedule"]["peak"].as_f64().unwrap(), 1e-5);
}

#[test]
fn help_names_the_keys_of_the_json() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    fs::write(&text, "Emma Woodhouse").unwrap();
    let text = text.to_str().unwrap();
    let (golden, out) = (repository("tests/golden/checkpoints/f16"), folder.path().join("q8"));
    let (golden, out) = (golden.to_str().unwrap(), out.to_str().unwrap());
    let cpu = ["--backend", "cpu"];
    for (command, arguments) in [
        ("generate", [&["Emma", "--max-tokens", "2"], &cpu[..]].concat()),
        ("logits", [&["--tokens", "1,2,3"], &cpu[..]].concat()),
        ("score", [&["--text", text], &cpu[..]].concat()),
        ("explain", [&["--file", text], &cpu[..]].concat()),
        ("doctor", cpu.to_vec()),
        ("adapters", vec![]),
        ("quantize", vec![golden, out, "--to", "q8"]),
    ] {
        documented(&[command], &keys(&json(&[&[command, "--json"], &arguments[..]].concat())));
    }
}

/// A model's folder with one file of it replaced.
fn spoilt(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    for entry in fs::read_dir(repository("models/austen-4m")).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    fs::write(folder.join(name), bytes).unwrap();
    folder.into()
}

/// What an error consists of, between colons, semicolons and brackets.
fn clauses(message: &str) -> Vec<&str> {
    let parts = message.split([';', '(', ')', '\n']).flat_map(|part| part.split(": "));
    parts.map(str::trim).filter(|part| part.len() > 3).collect()
}

/// The clause that a message has twice.
fn repeated(message: &str) -> Option<&str> {
    let mut seen = BTreeSet::new();
    clauses(message).into_iter().find(|clause| !seen.insert(*clause))
}

/// Runs a command that has to fail with a code, by an error with these words in it, and nothing twice.
fn fails(command: &str, arguments: &[&[&str]], code: i32, names: &[&str]) {
    let arguments = arguments.concat();
    let done = mamba().arg(command).args(&arguments).assert().code(code);
    let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    let case = format!("{command} {arguments:?}: {said}");
    let (_, message) = said.split_once("error: ").unwrap_or_else(|| panic!("{case}"));
    assert!(!message.contains("error: "), "{case}");
    for name in names {
        assert!(message.contains(name), "{name:?} is not named by {case}");
    }
    assert_eq!(repeated(message), None, "{case}");
}

#[test]
fn errors_name_the_flag_or_the_file_and_say_nothing_twice() {
    // The comparison can fail.
    assert_eq!(repeated("error: --text x: No such file (os error 2): No such file (os error 2)"), Some("No such file"));
    assert_eq!(repeated("error: --text x: No such file (os error 2)"), None);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (missing, empty, file, broken) = (path("missing"), path("empty.txt"), path("file"), path("broken"));
    fs::write(&empty, "").unwrap();
    fs::write(&file, "some text\n".repeat(40)).unwrap();
    let (below, out) = (format!("{file}/below"), path("out"));
    let tokenizer = spoilt(&folder.path().join("tokenizer"), "tokenizer.json", b"{\"a\": 1}");
    let tokenizer = tokenizer.to_str().unwrap();
    // Runs whose settings and whose moments are damaged.
    for name in ["settings", "moments"] {
        train("induction-heads", &path(name), &["--length", "12", "--steps", "1", "--validation-sequences", "4"]);
    }
    let (settings, moments) = (path("settings"), path("moments"));
    fs::write(Path::new(&settings).join("training.json"), "{").unwrap();
    fs::write(Path::new(&moments).join("checkpoint-000001/optimizer.safetensors"), "short").unwrap();
    fs::write(&broken, "{}").unwrap();
    let golden = repository("tests/golden/checkpoints/f16").to_str().unwrap().to_owned();
    let cpu = ["--backend", "cpu"];
    let task = ["--task", "induction-heads", "--out", &out];
    let text = ["--task", "text", "--preset", "tiny", "--out", &out, "--text"];
    // Numbers, in plain words.
    fails("generate", &[&["Emma", "--temperature", "hot"]], 2, &["--temperature", "'hot'", "a number"]);
    fails("generate", &[&["Emma", "--top-k", "1.5"]], 2, &["--top-k", "'1.5'", "a whole number"]);
    fails("generate", &[&["Emma", "--max-tokens", "0"]], 2, &["--max-tokens", "1 or more"]);
    fails("generate", &[&["Emma", "--top-p", "7"]], 2, &["--top-p 7", "it must be"]);
    fails("train", &[&task, &["--lr", "fast"]], 2, &["--lr", "'fast'", "a number"]);
    fails("train", &[&task, &["--log-every", "0"]], 2, &["--log-every", "1 or more"]);
    fails("train", &[&task, &["--stop-at-accuracy", "99"]], 2, &["--stop-at-accuracy", "between 0 and 1"]);
    fails("train", &[&task, &["--length", "2"]], 2, &["--length 2", "at least 3"]);
    fails("train", &[&task, &["--backend", "cpu"]], 2, &["--backend cpu", "GPU"]);
    fails("train", &[&task, &["--text", &file]], 2, &["--text", "--task text"]);
    fails("train", &[&text, &[&file, "--stop-at-accuracy", "0.5"]], 2, &["--stop-at-accuracy", "--validation-text"]);
    // Tokens and texts.
    fails("logits", &[&["--tokens", "1,99999"], &cpu], 2, &["--tokens", "99999", "4096"]);
    fails("logits", &[&["--tokens", "1,x"], &cpu], 2, &["--tokens", "\"x\"", "whole number"]);
    fails("logits", &[&["--tokens-file", &missing], &cpu], 1, &["--tokens-file", "missing"]);
    fails("score", &[&["--text", &empty], &cpu], 1, &["--text", "empty.txt"]);
    fails("score", &[&["--text", &missing], &cpu], 1, &["--text", "missing"]);
    fails("score", &[&["--text", &file, "--bos", "5000"], &cpu], 2, &["--bos 5000", "4096"]);
    fails("explain", &[&["--file", &file, "--max-tokens", "3"], &cpu], 2, &["--file", "too many", "(--max-tokens)"]);
    fails("explain", &[&["--text", "Emma", "--layer", "8"], &cpu], 2, &["--layer 8"]);
    // Devices.
    fails("generate", &[&["Emma", "--adapter", "abacus"]], 2, &["--adapter", "\"abacus\"", "there are"]);
    fails("eval", &[&["--model", &moments, "--adapter", "77"]], 2, &["--adapter", "number 77", "there are"]);
    fails("doctor", &[&["--adapter", "abacus"]], 2, &["--adapter", "\"abacus\""]);
    fails("bench", &[&["scan", "--backend", "cpu"]], 2, &["--backend cpu"]);
    // Files that are not there, not readable, not what they should be.
    fails("generate", &[&["Emma", "--model", &missing], &cpu], 1, &["missing"]);
    fails("generate", &[&["Emma", "--model", tokenizer], &cpu], 1, &["tokenizer.json", "published with the model"]);
    fails("generate", &[&["--state-in", &missing], &cpu], 1, &["missing"]);
    fails("generate", &[&["--state-in", &file], &cpu], 1, &["file", "not a state file"]);
    fails("quantize", &[&[&golden, &below, "--to", "q8"]], 1, &["below"]);
    fails("quantize", &[&[&golden, &file, "--to", "q8"]], 1, &["file", "not a folder"]);
    fails("train", &[&text, &[&missing]], 1, &["--text", "missing"]);
    fails("train", &[&text, &[&empty]], 1, &["empty.txt", "shorter length"]);
    fails("train", &[&text, &[&file, "--tokenizer", &broken]], 1, &["--tokenizer", "broken"]);
    fails("train", &[&task[..2], &["--preset", "tiny", "--out", &below]], 1, &["below"]);
    fails("train", &[&["--resume", "--out", &missing]], 1, &["missing", "not the folder of a run"]);
    fails("train", &[&["--resume", "--out", &settings]], 1, &["training.json", "cannot be understood"]);
    fails("train", &[&["--resume", "--out", &moments]], 1, &["optimizer.safetensors", "cannot be understood"]);
    fails("eval", &[&["--model", &missing]], 1, &["missing", "no such file or folder"]);
    fails("eval", &[&["--model", &moments, "--length", "1"]], 2, &["--length 1", "at least 3"]);
    fails("eval", &[&["--model", &moments, "--length", "2^40"]], 2, &["--length", "2^26"]);
    fails("eval", &[&["--model", &moments, "--task", "text"]], 2, &["--task", "induction-heads"]);
    fails("bench", &[&["report", &file, "--html", &out]], 1, &["file", "not a report"]);
    fails("bench", &[&["scan", "--json", &below]], 1, &["below"]);
    assert!(!Path::new(&out).exists());
}

/// What needs no tokenizer: golden checkpoints have none.
#[test]
fn token_ids_in_place_of_a_text() {
    let golden = repository("tests/golden/mamba2/ssm-no-norm");
    let model = ["--model", golden.to_str().unwrap(), "--backend", "cpu"];
    let logits = json(&[&["logits", "--json", "--tokens", "3,1,4,1,5"], &model[..]].concat());
    let scored = |more: &[&str]| json(&[&["score", "--json"], more, &model[..]].concat());
    let score = scored(&["--tokens", "3,1,4,1,5"]);
    assert_eq!(keys(&score), ["nll_per_token", "tokens"]);
    let nats = |score: &Value| score["tokens"].as_f64().unwrap() * score["nll_per_token"].as_f64().unwrap();
    assert_eq!(score["tokens"], 4);
    assert!((nats(&score) - logits["nll_sum"].as_f64().unwrap()).abs() < 1e-5, "{score} {logits}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids.txt");
    fs::write(&file, "1 4\n1 5\n").unwrap();
    assert_eq!(scored(&["--tokens-file", file.to_str().unwrap(), "--bos", "3"]), score);
    assert_ne!(scored(&["--tokens", "1,4,1,5", "--bos", "2"]), score);
    let words = mamba().args(["score", "--tokens", "3,1,4"]).args(model).assert().success();
    let words = String::from_utf8_lossy(&words.get_output().stdout).into_owned();
    assert!(words.starts_with("2 tokens, on ") && words.contains("nats a token") && !words.contains("bits"), "{words}");

    fails("score", &[&["--tokens", "3"], &model], 2, &["--tokens", "--bos", "nothing to score"]);
    fails("score", &[&["--tokens", "3,99"], &model], 2, &["--tokens", "99", "position 1"]);
    fails("score", &[&["--tokens", "3,1", "--bos", "99"], &model], 2, &["--bos 99"]);
    fails("score", &[&["--tokens", "3,1", "--text", "x"], &model], 2, &["cannot be used with"]);
    for command in ["score", "logits"] {
        fails(command, &[&["--tokens", "1,,2"], &model], 2, &["--tokens", "an entry is empty"]);
    }
    // One token has no likelihood, which is 0 and not -0.
    let one = mamba().args(["logits", "--tokens", "0"]).args(model).assert().success();
    let one = String::from_utf8_lossy(&one.get_output().stdout).into_owned();
    assert!(one.contains("likelihood: 0.000000 (sum over 0 predictions)"), "{one}");
}

#[test]
fn a_mamba2_is_inspected_with_what_its_config_decides() {
    let inspect = |name: &str| {
        let model = repository(&format!("tests/golden/mamba2/{name}"));
        json(&["inspect-model", "--json", "--model", model.to_str().unwrap()])["config"].clone()
    };
    for (name, limits, norm, d_has_hdim) in [
        ("ssm-no-norm", serde_json::json!([0.05, 0.6]), "none", true),
        ("ssm-norm-first", serde_json::json!([0, "Infinity"]), "norm first", false),
        ("dt-floor", serde_json::json!([0.3, "Infinity"]), "gate first", false),
    ] {
        let config = inspect(name);
        let options = (&config["dt_limit"], &config["gated_norm"], &config["D_has_hdim"]);
        assert_eq!(options, (&limits, &norm.into(), &d_has_hdim.into()), "{name}");
    }
    let model = repository("tests/golden/mamba2/dt-limit");
    let words = mamba().args(["inspect-model", "--model"]).arg(model).assert().success();
    let words = String::from_utf8_lossy(&words.get_output().stdout).into_owned();
    assert!(
        words.contains("  dt_limit        [0.1,0.6]\n  ") && words.contains("  gated_norm      \"gate first\"\n"),
        "{words}"
    );
}

/// Said once and on a line of its own, not within the text.
#[test]
fn tokens_that_the_tokenizer_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let spec = mamba_wgpu::model::synthetic::Spec::new(1, 16, 3 * 4096);
    spec.write_safetensors(&mut fs::File::create(folder.path().join("model.safetensors")).unwrap(), &mut |_, _| {})
        .unwrap();
    fs::write(folder.path().join("config.json"), spec.config_json()).unwrap();
    fs::copy(repository("models/austen-4m/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let model = folder.path().to_str().unwrap();
    let generate = ["generate", "Emma", "--model", model, "--max-tokens", "20", "--seed", "1", "--backend", "cpu"];
    let output = mamba().args(generate).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("unknown")).collect();
    let ended = "tokens are unknown to the tokenizer, which has 4096 entries: without text";
    assert!(lines.len() == 1 && lines[0].starts_with("mamba-wgpu: ") && lines[0].ends_with(ended), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("unknown"));
}

#[test]
fn what_cannot_be_trained_is_said_beforehand() {
    let help = mamba().args(["train", "--help"]).assert().success();
    let help = String::from_utf8_lossy(&help.get_output().stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("of a Mamba-1 model, not from nothing (Falcon-Mamba and Mamba-2 models cannot be trained yet)"),
        "{help}"
    );
    let golden = repository("tests/golden/mamba2/odd-dims");
    let folder = tempfile::tempdir().unwrap();
    let (from, out) = (golden.to_str().unwrap(), folder.path().join("run"));
    let train = ["--task", "induction-heads", "--from", from, "--out", out.to_str().unwrap()];
    fails("train", &[&train], 1, &["cannot be trained", "mamba2"]);
}
