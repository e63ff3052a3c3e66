//! The program as a user meets it: what is on stdout, what is on stderr, and which exit code.
//!
//! Everything but the last part runs on `--backend cpu`, so that no adapter's speed or absence matters.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

const PROMPT: &str = "It is a truth universally acknowledged, that";

fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
    command
}

/// Runs a subcommand that computes, on the CPU.
fn cpu(arguments: &[&str]) -> Output {
    program().args(arguments).args(["--backend", "cpu"]).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(output: Output) -> Output {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

/// Exit code and a message that names what is wrong; nothing on stdout, no panic.
fn fails(output: &Output, code: i32, names: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for name in names {
        assert!(message.contains(name), "{name:?} is not named in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(stdout(output), "");
}

/// stdout as one JSON object and nothing else.
fn json(output: &Output) -> Value {
    let text = stdout(output);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in: {text}"));
    assert!(value.is_object(), "{text}");
    value
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/austen-4m").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(data("expected.json")).unwrap()).unwrap()
}

fn file(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_string()
}

// ---- generate

#[test]
fn greedy_text_and_tokens_are_those_of_transformers() {
    for prompt in expected()["prompts"].as_array().unwrap() {
        let text = prompt["prompt"].as_str().unwrap();
        let greedy = ["generate", text, "--temperature", "0", "--max-tokens", "64"];
        let streamed = succeeds(cpu(&greedy));
        assert_eq!(stdout(&streamed), format!("{}\n", prompt["greedy_text"].as_str().unwrap()));

        let output = succeeds(cpu(&[&greedy[..], &["--json", "--seed", "7"]].concat()));
        let result = json(&output);
        assert_eq!(result["tokens"], prompt["greedy_tokens"]);
        assert_eq!(result["prompt"], prompt["prompt"]);
        assert_eq!(
            [text, result["text"].as_str().unwrap()].concat(),
            prompt["greedy_text"].as_str().unwrap(),
            "prompt and text"
        );
        assert_eq!(result["prompt_tokens"], prompt["tokens"].as_array().unwrap().len());
        assert_eq!(result["generated_tokens"], 64);
        assert_eq!(result["finish_reason"], "length");
        assert_eq!(result["seed"], 7);
        assert_eq!(result["backend"], "cpu");
        for key in ["prefill_seconds", "time_to_first_token_seconds", "total_seconds", "decode_tokens_per_second"] {
            assert!(result[key].as_f64().is_some_and(|seconds| seconds > 0.0), "{key}: {result}");
        }
    }
}

#[test]
fn every_scan_and_chunk_gives_the_same_text() {
    let prompt = &expected()["prompts"][1];
    for (scan, chunk) in [("sequential", "1"), ("blelloch", "7"), ("fused", "7"), ("fused", "100000")] {
        let output = succeeds(cpu(&[
            "generate",
            prompt["prompt"].as_str().unwrap(),
            "--temperature",
            "0",
            "--max-tokens",
            "16",
            "--json",
            "--scan",
            scan,
            "--chunk",
            chunk,
        ]));
        let tokens = &prompt["greedy_tokens"].as_array().unwrap()[..16];
        assert_eq!(json(&output)["tokens"].as_array().unwrap(), tokens, "{scan} {chunk}");
    }
}

#[test]
fn same_seed_same_text() {
    let run = |seed: &str| {
        let flags =
            ["--max-tokens", "24", "--temperature", "1.2", "--top-k", "200", "--top-p", "0.98", "--min-p", "0.01"];
        let rest = ["--repetition-penalty", "1.1", "--seed", seed];
        stdout(&succeeds(cpu(&[&["generate", PROMPT][..], &flags, &rest].concat())))
    };
    let first = run("42");
    assert!(first.starts_with(PROMPT) && first.ends_with('\n'));
    assert_eq!(first, run("42"));
    assert_ne!(first, run("43"));
    assert_ne!(first, run("18446744073709551615"));
}

#[test]
fn without_a_seed_texts_differ_and_the_seed_is_told() {
    let run = || json(&succeeds(cpu(&["generate", PROMPT, "--max-tokens", "2", "--json"])))["seed"].as_u64().unwrap();
    assert_ne!(run(), run());
}

#[test]
fn the_prompt_comes_from_stdin_without_its_last_line_break() {
    let run = |input: &str| {
        let output = program()
            .args(["generate", "--backend", "cpu", "--temperature", "0", "--max-tokens", "8", "--json"])
            .write_stdin(input)
            .output()
            .unwrap();
        json(&succeeds(output))
    };
    let argument = json(&succeeds(cpu(&["generate", PROMPT, "--temperature", "0", "--max-tokens", "8", "--json"])));
    for end in ["", "\n", "\r\n"] {
        let result = run(&format!("{PROMPT}{end}"));
        assert_eq!((&result["prompt"], &result["tokens"]), (&argument["prompt"], &argument["tokens"]));
    }
    assert_eq!(run("Emma\n\n")["prompt"], "Emma\n");
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let prompt = &expected()["prompts"][0];
    let text = prompt["greedy_text"].as_str().unwrap();
    let stop = "much in";
    let flags = ["--temperature", "0", "--max-tokens", "64", "--stop", "never there", "--stop", stop];
    let generate = [&["generate", PROMPT][..], &flags].concat();
    let until = &text[..text.find(stop).unwrap()];
    assert_eq!(stdout(&succeeds(cpu(&generate))), format!("{until}\n"));
    let result = json(&succeeds(cpu(&[&generate[..], &["--json"]].concat())));
    assert_eq!(result["finish_reason"], "stop");
    assert_eq!([PROMPT, result["text"].as_str().unwrap()].concat(), until);
}

#[test]
fn no_echo_and_stats() {
    let greedy =
        ["generate", PROMPT, "--temperature", "0", "--max-tokens", "4", "--no-echo", "--stats", "--seed", "11"];
    let output = succeeds(cpu(&greedy));
    assert_eq!(stdout(&output), " the young man who\n");
    for part in ["12 tokens", "4 tokens", "tokens/s", "first token", "11", "cpu"] {
        assert!(stderr(&output).contains(part), "{part} in: {}", stderr(&output));
    }
    let quiet = succeeds(cpu(&["generate", PROMPT, "--max-tokens", "1"]));
    assert_eq!(stderr(&quiet), "", "no progress where stderr is no terminal");
}

#[test]
fn emoji_and_accents_come_out_whole() {
    let output =
        succeeds(cpu(&["generate", "Élodie 🦀 naïve", "--temperature", "2", "--max-tokens", "40", "--seed", "1"]));
    assert!(stdout(&output).starts_with("Élodie 🦀 naïve"));
}

#[test]
fn generate_misuse() {
    let misuse = |flags: &[&str], names: &[&str]| fails(&cpu(&[&["generate"][..], flags].concat()), 2, names);
    misuse(&[""], &["prompt is empty"]);
    misuse(&["x", "--max-tokens", "0"], &["--max-tokens", "1 or more"]);
    misuse(&["x", "--max-tokens", "many"], &["--max-tokens", "many"]);
    misuse(&["x", "--temperature", "NaN"], &["--temperature NaN"]);
    misuse(&["x", "--temperature", "inf"], &["--temperature inf"]);
    misuse(&["x", "--temperature", "-1"], &["--temperature -1"]);
    misuse(&["x", "--temperature", "warm"], &["--temperature", "warm"]);
    misuse(&["x", "--top-p", "0"], &["--top-p 0"]);
    misuse(&["x", "--top-p", "1.5"], &["--top-p 1.5"]);
    misuse(&["x", "--top-k", "-3"], &["-3"]);
    misuse(&["x", "--min-p", "-0.1"], &["--min-p -0.1"]);
    misuse(&["x", "--repetition-penalty", "0"], &["--repetition-penalty 0"]);
    misuse(&["x", "--stop", ""], &["--stop", "empty"]);
    misuse(&["x", "--seed", "-1"], &["-1"]);
    misuse(&["x", "--scan", "magic"], &["--scan", "magic", "blelloch"]);
    misuse(&["x", "--chunk", "0"], &["--chunk", "1 or more"]);
    misuse(&["x", "--weights", "f8"], &["--weights", "f8"]);
    misuse(&["x", "--adapter", "0"], &["--adapter 0", "cpu"]);
    misuse(&["x", "--no-such-flag"], &["--no-such-flag"]);
}

#[test]
fn an_empty_or_broken_stdin_is_misuse() {
    let run = |input: &[u8]| program().args(["generate", "--backend", "cpu"]).write_stdin(input).output().unwrap();
    fails(&run(b""), 2, &["prompt is empty"]);
    fails(&run(b"\n"), 2, &["prompt is empty"]);
    fails(&run(b"caf\xe9 au lait"), 1, &["stdin", "UTF-8"]);
}

#[test]
fn a_model_that_is_not_there_is_a_failure_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no-such-model");
    let missing = missing.to_str().unwrap();
    fails(&cpu(&["generate", "x", "--model", missing]), 1, &["no-such-model"]);
    fails(&cpu(&["logits", "--tokens", "1", "--model", missing]), 1, &["no-such-model"]);
    let output = program().args(["inspect-model", "--model", missing]).output().unwrap();
    fails(&output, 1, &["no-such-model"]);
    // A folder that is no model.
    fails(&cpu(&["generate", "x", "--model", folder.path().to_str().unwrap()]), 1, &[folder.path().to_str().unwrap()]);
}

#[test]
fn a_model_without_a_tokenizer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/austen-4m");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    fails(&cpu(&["generate", "x", "--model", path]), 1, &["tokenizer.json", path]);
    // Token ids need none.
    succeeds(cpu(&["logits", "--tokens", "1,2", "--model", path]));
    // And one that is no tokenizer.
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    fails(&cpu(&["generate", "x", "--model", path]), 1, &["tokenizer.json", path]);
}

// ---- logits

#[test]
fn logits_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for prompt in expected()["prompts"].as_array().unwrap() {
        let ids: Vec<String> = prompt["tokens"].as_array().unwrap().iter().map(Value::to_string).collect();
        let list = ids.join(",");
        let result = json(&succeeds(cpu(&["logits", "--tokens", &list, "--json"])));
        let argmax = result["argmax"].as_array().unwrap();
        assert_eq!(argmax.len(), ids.len());
        assert_eq!(argmax.last(), prompt["greedy_tokens"].get(0));
        let logits = result["last_logits"].as_array().unwrap();
        let reference = prompt["last_logits"].as_array().unwrap();
        assert_eq!(logits.len(), reference.len());
        for (i, (got, want)) in logits.iter().zip(reference).enumerate() {
            let difference = (got.as_f64().unwrap() - want.as_f64().unwrap()).abs();
            assert!(difference <= 1e-3, "logit {i}: {got} instead of {want}");
        }
        let nll_sum = result["nll_sum"].as_f64().unwrap();
        assert!(nll_sum > 0.0 || ids.len() == 1, "{nll_sum}");
        // The same from files in both spellings, and by chunks.
        for (name, text) in [("a.json", format!("[{list}]")), ("b.txt", ids.join("\n"))] {
            let path = file(&folder, name, text.as_bytes());
            let other = json(&succeeds(cpu(&["logits", "--tokens-file", &path, "--chunk", "3", "--json"])));
            assert_eq!(other["argmax"], result["argmax"]);
            let difference = other["nll_sum"].as_f64().unwrap() - nll_sum;
            assert!(difference.abs() < 1e-3, "{difference}");
        }
    }
}

#[test]
fn one_token_has_no_likelihood_and_text_output_is_short() {
    let result = json(&succeeds(cpu(&["logits", "--tokens", "841", "--json"])));
    assert_eq!(result["nll_sum"], 0.0);
    assert_eq!(result["argmax"].as_array().unwrap().len(), 1);
    let text = stdout(&succeeds(cpu(&["logits", "--tokens", "841,341"])));
    assert!(text.lines().count() < 12 && text.contains("2 tokens"), "{text}");
}

#[test]
fn logits_misuse() {
    let folder = tempfile::tempdir().unwrap();
    let misuse = |flags: &[&str], names: &[&str]| fails(&cpu(&[&["logits", "--json"][..], flags].concat()), 2, names);
    misuse(&[], &["--tokens"]);
    misuse(&["--tokens", ""], &["--tokens", "no tokens"]);
    misuse(&["--tokens", "1,two"], &["--tokens", "two"]);
    misuse(&["--tokens", "1,-2"], &["-2"]);
    misuse(&["--tokens", "5,4096"], &["4096", "position 1"]);
    misuse(&["--tokens", "4294967296"], &["4294967296"]);
    misuse(&["--tokens", "1", "--chunk", "0"], &["--chunk"]);
    misuse(&["--tokens", "1", "--tokens-file", "x"], &["--tokens-file"]);
    // A file is at fault, not the command line.
    let failed = |path: &str, names: &[&str]| fails(&cpu(&["logits", "--json", "--tokens-file", path]), 1, names);
    failed(&file(&folder, "bad.json", b"[1, 2"), &["--tokens-file", "bad.json"]);
    failed(&file(&folder, "bad.bin", b"\xff\xfe\x00"), &["bad.bin"]);
    failed(&file(&folder, "empty.txt", b""), &["empty.txt", "no tokens"]);
    failed(&file(&folder, "beyond.txt", b"5 4096"), &["beyond.txt", "4096", "position 1"]);
    fails(&cpu(&["logits", "--tokens-file", "no/such/file"]), 1, &["no/such/file"]);
}

// ---- score

#[test]
fn the_heldout_text_scores_as_with_transformers() {
    let heldout = &expected()["heldout"];
    let path = data("heldout.txt");
    let result = json(&succeeds(cpu(&["score", "--text", path.to_str().unwrap(), "--json"])));
    assert_eq!((&result["tokens"], &result["bytes"]), (&heldout["tokens"], &heldout["bytes"]));
    let close = |key: &str, tolerance: f64| {
        let (got, want) = (result[key].as_f64().unwrap(), heldout[key].as_f64().unwrap());
        assert!((got - want).abs() <= tolerance, "{key}: {got} instead of {want}");
    };
    close("bits_per_byte", 5e-4);
    close("nll_per_token", 1.5e-3);
}

#[test]
fn windows_and_bos_change_the_score_as_they_must() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "text.txt", PROMPT.as_bytes());
    let score = |flags: &[&str]| {
        let result = json(&succeeds(cpu(&[&["score", "--text", &path, "--json"][..], flags].concat())));
        assert_eq!((&result["tokens"], &result["bytes"]), (&Value::from(12), &Value::from(PROMPT.len())));
        result["nll_per_token"].as_f64().unwrap()
    };
    let whole = score(&[]);
    assert_eq!(whole, score(&["--window", "12"]));
    assert_eq!(whole, score(&["--bos", "0"]));
    assert!(score(&["--window", "1"]) > whole, "a model that sees one token only predicts worse");
    assert_ne!(whole, score(&["--bos", "17"]));
    // The first window's sum is that of `logits` over the same tokens.
    let ids = "0,841,341,259,1492,512,73,1286,765,3907,1050,12,329";
    let logits = json(&succeeds(cpu(&["logits", "--tokens", ids, "--json"])));
    let difference = logits["nll_sum"].as_f64().unwrap() / 12.0 - whole;
    assert!(difference.abs() < 1e-4, "{difference}");
}

#[test]
fn score_misuse() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(&folder, "good.txt", b"Emma");
    let misuse = |flags: &[&str], names: &[&str]| fails(&cpu(&[&["score", "--json"][..], flags].concat()), 2, names);
    misuse(&[], &["--text"]);
    misuse(&["--text", &good, "--window", "0"], &["--window", "1 or more"]);
    misuse(&["--text", &good, "--bos", "4096"], &["--bos 4096", "4096"]);
    let failed = |path: &str, names: &[&str]| fails(&cpu(&["score", "--json", "--text", path]), 1, names);
    failed(&file(&folder, "empty.txt", b""), &["empty.txt", "empty"]);
    failed(&file(&folder, "latin1.txt", b"caf\xe9"), &["latin1.txt", "UTF-8", "byte 3"]);
    fails(&cpu(&["score", "--text", "no/such/file"]), 1, &["no/such/file"]);
}

// ---- quantize

#[test]
fn a_quantised_model_does_all_that_others_do() {
    let folder = tempfile::tempdir().unwrap();
    let heldout = std::fs::read_to_string(data("heldout.txt")).unwrap();
    let text = file(&folder, "text.txt", heldout.chars().take(4000).collect::<String>().as_bytes());
    let score = |flags: &[&str]| {
        let result = json(&succeeds(cpu(&[&["score", "--text", &text, "--json"][..], flags].concat())));
        result["bits_per_byte"].as_f64().unwrap()
    };
    let original = score(&[]);
    for (kind, most) in [("q8", 0.005), ("q4", 0.05)] {
        let out = folder.path().join(kind);
        let out = out.to_str().unwrap();
        let quantize = |flags: &[&str]| {
            program().args([&["quantize", "embedded", out, "--to", kind][..], flags].concat()).output().unwrap()
        };
        let output = succeeds(quantize(&["--json"]));
        assert_eq!(stderr(&output), "", "no progress where stderr is no terminal");
        let result = json(&output);
        let (before, after) = (result["bytes_before"].as_u64().unwrap(), result["bytes_after"].as_u64().unwrap());
        assert!(after < before * 6 / 10, "{before} {after}");
        assert_eq!((&result["to"], result["tensors"].as_array().unwrap().len()), (&kind.into(), 82));
        let in_proj = &result["tensors"][2];
        assert_eq!((&in_proj["from"], &in_proj["to"]), (&"f16".into(), &kind.into()), "{in_proj}");
        assert!(in_proj["rms_error"].as_f64().unwrap() > 0.0 && in_proj["max_error"].as_f64().unwrap() < 1.0);

        let cost = score(&["--model", out]) - original;
        assert!(cost.abs() < most && cost != 0.0, "{kind} costs {cost}");
        let generate = ["generate", PROMPT, "--model", out, "--temperature", "0", "--max-tokens", "8"];
        assert!(stdout(&succeeds(cpu(&generate))).starts_with(PROMPT));
        let listed = json(&succeeds(program().args(["inspect-model", "--json", "--model", out]).output().unwrap()));
        assert_eq!((&listed["bytes"], listed["tensors"].as_array().unwrap().len()), (&after.into(), 82));
        assert_eq!(listed["parameters"].as_u64().unwrap() / 10_000, 455);
        assert!(listed["tensors"].as_array().unwrap().iter().any(|t| t["dtype"] == kind.to_uppercase()));

        fails(&quantize(&[]), 2, &[out, "there already", "--force"]);
        let words = stdout(&succeeds(quantize(&["--force"])));
        assert!(words.contains(kind) && words.contains("25 of 82 tensors"), "{words}");
        let again = program().args(["quantize", out, "elsewhere", "--to", "q4"]).output().unwrap();
        fails(&again, 1, &[out, "embeddings.weight", kind]);
        let onto_itself = program().args(["quantize", out, out, "--to", "q4", "--force"]).output().unwrap();
        fails(&onto_itself, 2, &[out]);
    }
    assert!(!Path::new("elsewhere").exists());
    fails(&program().args(["quantize", "embedded", &text, "--to", "q8"]).output().unwrap(), 1, &["text.txt", "folder"]);
    fails(&program().args(["quantize", "embedded", "x"]).output().unwrap(), 2, &["--to"]);
    fails(&program().args(["quantize", "embedded", "x", "--to", "q5"]).output().unwrap(), 2, &["q5", "q4"]);
    fails(&program().args(["quantize", "no/such/model", "x", "--to", "q8"]).output().unwrap(), 1, &["no/such/model"]);
}

// ---- the rest

#[test]
fn a_model_is_described() {
    let output = succeeds(program().args(["inspect-model", "--json"]).output().unwrap());
    let model = json(&output);
    let config = &model["config"];
    assert_eq!((&config["d_model"], &config["n_layer"], &config["d_state"]), (&256.into(), &8.into(), &16.into()));
    assert_eq!(config["vocab_size"], 4096);
    // 8 layers of 9 tensors and biases, the embedding and the last norm.
    assert_eq!(model["tensors"].as_array().unwrap().len(), 8 * 10 + 2);
    assert!(model["tensors"].as_array().unwrap().iter().all(|tensor| tensor["bytes"].as_u64().unwrap() > 0));
    assert_eq!(model["parameters"].as_u64().unwrap() / 10_000, 455);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/austen-4m");
    let text = succeeds(program().args(["inspect-model", "--model"]).arg(folder).output().unwrap());
    assert!(stdout(&text).contains("82 tensors") && stdout(&text).contains("d_model"), "{}", stdout(&text));
}

#[test]
fn completions_help_and_version() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = succeeds(program().args(["completions", shell]).output().unwrap());
        assert!(stdout(&output).contains("mamba-wgpu") && stdout(&output).contains("max-tokens"), "{shell}");
    }
    fails(&program().args(["completions", "abacus"]).output().unwrap(), 2, &["abacus"]);
    assert!(stdout(&succeeds(program().arg("--help").output().unwrap())).contains("generate"));
    let version = stdout(&succeeds(program().arg("--version").output().unwrap()));
    assert_eq!(version.trim(), concat!("mamba-wgpu ", env!("CARGO_PKG_VERSION")));
    fails(&program().output().unwrap(), 2, &["Usage"]);
    fails(&program().arg("no-such-command").output().unwrap(), 2, &["no-such-command"]);
}

#[test]
fn backends_and_adapters_that_are_not_there() {
    let run = |flags: &[&str]| program().args(["generate", "x", "--max-tokens", "1"]).args(flags).output().unwrap();
    fails(&run(&["--backend", "abacus"]), 2, &["--backend", "abacus", "vulkan"]);
    // Named, so there is no falling back to the CPU; the message lists what there is.
    fails(&run(&["--adapter", "no such adapter"]), 2, &["no such adapter", "there are"]);
    fails(&run(&["--adapter", "999"]), 2, &["999", "there are"]);
    fails(&program().args(["adapters", "--backend", "cpu"]).output().unwrap(), 2, &["cpu"]);
    let listed = json(&succeeds(program().args(["adapters", "--json"]).output().unwrap()));
    assert!(listed["adapters"].is_array());
    succeeds(program().arg("adapters").output().unwrap());
}

#[test]
fn auto_says_on_stderr_what_it_picked() {
    let output = succeeds(
        program().args(["generate", "Emma", "--max-tokens", "2", "--temperature", "0", "--json"]).output().unwrap(),
    );
    let backend = json(&output)["backend"].as_str().unwrap().to_string();
    let message = stderr(&output);
    assert!(message.starts_with("mamba-wgpu: on "), "{message}");
    match backend.as_str() {
        "cpu" => assert!(message.contains("on the CPU"), "{message}"),
        adapter => assert!(message.contains(adapter), "{message}"),
    }
}

#[cfg(unix)]
mod interrupted {
    use super::*;
    use std::io::Read;
    use std::process::{Child, Stdio};

    /// A text of a million tokens, and the first bytes of its continuation read.
    fn started(flags: &[&str]) -> (Child, Vec<u8>) {
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"))
            .args(["generate", "Emma", "--max-tokens", "1000000", "--ignore-eos", "--backend", "cpu", "--seed", "3"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut bytes = vec![0; "Emma".len() + 8];
        child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        (child, bytes)
    }

    fn interrupt(child: &Child) {
        let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    #[test]
    fn ctrl_c_ends_the_text_and_keeps_it() {
        let (child, mut text) = started(&["--temperature", "1.5", "--stats"]);
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        text.extend(&output.stdout);
        let text = String::from_utf8(text).expect("no half characters");
        assert!(text.starts_with("Emma") && text.ends_with('\n'), "{text}");
        assert!(stderr(&output).contains("ended by cancelled"), "{}", stderr(&output));
    }

    #[test]
    fn ctrl_c_leaves_no_quantised_model() {
        let folder = tempfile::tempdir().unwrap();
        let spec = mamba_wgpu::model::synthetic::Spec {
            tied: false,
            ..mamba_wgpu::model::synthetic::Spec::new(1, 512, 50280)
        };
        std::fs::write(folder.path().join("config.json"), spec.config_json()).unwrap();
        let mut bytes = Vec::new();
        spec.write_safetensors(&mut bytes, &mut |_, _| {}).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let out = folder.path().join("out");
        let child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"))
            .args(["quantize", folder.path().to_str().unwrap(), out.to_str().unwrap(), "--to", "q4"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Until it has begun to write.
        while std::fs::read_dir(&out).map_or(0, Iterator::count) == 0 {
            std::thread::yield_now();
        }
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).contains("cancelled"), "{}", stderr(&output));
        assert!(!out.exists());
    }

    #[test]
    fn a_reader_that_leaves_is_no_error() {
        let (mut child, _) = started(&[]);
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
    }
}
