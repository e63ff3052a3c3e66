//! `--gpu-layers`, `--adapters` and `--gpu-memory`: where the layers go, the same text wherever they are, and what is refused.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mamba-wgpu");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/hybrids/granite-hub");
/// Splits of the built-in model's 8 layers and of the golden's 5, on adapter 0: lavapipe, where there is nothing better.
const SPLITS: [&[&str]; 4] = [
    &["--gpu-layers", "3", "--adapter", "0"],
    &["--adapters", "0,0"],
    &["--adapters", "0,0", "--gpu-layers", "4"],
    &["--n-gpu-layers", "1", "--adapters", "0"],
];

fn run(arguments: &[&[&str]]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments.concat()).env("NO_COLOR", "1").stdin(std::process::Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(arguments: &[&[&str]]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// (first layer, layers, whether on the CPU) of each part.
fn placed(value: &Value) -> Vec<(u64, u64, bool)> {
    let number = |part: &Value, name: &str| part[name].as_u64().unwrap();
    let part = |part: &Value| {
        assert!(number(part, "bytes") > 0);
        (number(part, "first_layer"), number(part, "layers"), part["backend"] == "cpu")
    };
    value["placed"].as_array().unwrap().iter().map(part).collect()
}

#[test]
fn the_text_is_the_same_wherever_its_layers_are() {
    let generate: [&[&str]; 2] =
        [&["generate", "Emma was", "--seed", "5", "--max-tokens", "20", "--json"], &["--chunk", "16"]];
    let on = |split: &[&str]| json(&[generate[0], generate[1], split]);
    let want = on(&["--backend", "cpu"]);
    assert_eq!(placed(&want), [(0, 8, true)]);
    let expected: [&[(u64, u64, bool)]; 4] = [
        &[(0, 5, true), (5, 3, false)],
        &[(0, 4, false), (4, 4, false)],
        &[(0, 4, true), (4, 2, false), (6, 2, false)],
        &[(0, 7, true), (7, 1, false)],
    ];
    for (split, expected) in SPLITS.iter().zip(expected) {
        let got = on(split);
        assert_eq!(got["text"], want["text"], "{split:?}");
        let layers = |parts: &[(u64, u64, bool)]| parts.iter().map(|part| part.1).sum::<u64>();
        assert_eq!((layers(&placed(&got)), placed(&got).len()), (8, expected.len()), "{split:?}");
        if *split != SPLITS[1] && *split != SPLITS[2] {
            assert_eq!(placed(&got), expected, "{split:?}");
        }
    }
    // None is the CPU, all or more are the GPU, as much as there is room for is what was said of it.
    assert_eq!(placed(&on(&["--gpu-layers", "0"])), [(0, 8, true)]);
    assert_eq!(placed(&on(&["--gpu-layers", "99", "--adapter", "0"])), [(0, 8, false)]);
    assert_eq!(placed(&on(&["--gpu-layers", "auto", "--adapter", "0"])), [(0, 8, false)]);
    let some = on(&["--gpu-layers", "auto", "--adapter", "0", "--gpu-memory", "0.01"]);
    let parts = placed(&some);
    assert!(parts.len() == 2 && parts[0].2 && !parts[1].2 && parts[1].1 < 8, "{parts:?}");
    assert_eq!(some["text"], want["text"]);
    let none = on(&["--gpu-layers", "auto", "--adapter", "0", "--gpu-memory", "0.0001"]);
    assert_eq!(placed(&none), [(0, 8, true)]);

    let stats = run(&[generate[0], SPLITS[0], &["--stats"]]);
    let words = said(&stats);
    assert!(words.contains("weights:    layers 0 to 4 on cpu (") && words.contains("layers 5 to 7 on "), "{words}");
    assert!(words.contains("computed on cpu (layers 0 to 4) and "), "{words}");
}

#[test]
fn many_texts_states_and_numbers_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("prompts"), "Emma\nIt was a truth\nMr. Knightley\n").unwrap();
    std::fs::write(path("text"), "Emma Woodhouse, handsome, clever, and rich, with a comfortable home.").unwrap();
    let cpu: &[&str] = &["--backend", "cpu"];
    let many = |on: &[&str]| {
        let output = run(&[&["generate", "--prompts", &path("prompts"), "--seed", "1", "--max-tokens", "8"], on]);
        assert!(output.status.success(), "{}", said(&output));
        output.stdout
    };
    let score = |on: &[&str]| json(&[&["score", "--text", &path("text"), "--window", "20", "--json"], on]);
    let logits = |on: &[&str]| json(&[&["logits", "--model", GOLDEN, "--tokens", "3,1,4,1,5", "--json"], on]);
    let explain = |on: &[&str]| json(&[&["explain", "--text", "Emma was rich", "--layer", "1,6", "--json"], on]);
    let close = |got: &Value, want: &Value| {
        let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
        assert!((got - want).abs() < 1e-4, "{got} {want}");
    };
    let (want_many, want_score, want_logits, want_explain) = (many(cpu), score(cpu), logits(cpu), explain(cpu));
    for split in SPLITS {
        assert_eq!(many(split), want_many, "{split:?}");
        close(&score(split)["nll_per_token"], &want_score["nll_per_token"]);
        let got = logits(split);
        assert_eq!(got["argmax"], want_logits["argmax"]);
        close(&got["last_logits"][7], &want_logits["last_logits"][7]);
        let got = explain(split);
        assert_eq!(got["layers"].as_array().unwrap().len(), 2);
        for layer in 0..2 {
            assert_eq!(got["layers"][layer]["layer"], want_explain["layers"][layer]["layer"]);
            close(&got["layers"][layer]["delta"][2], &want_explain["layers"][layer]["delta"][2]);
        }
    }
    // Half of a text here and half of it there, both ways.
    let states = [path("split"), path("whole")];
    for (first, second, state) in [(SPLITS[0], cpu, &states[0]), (cpu, SPLITS[1], &states[1])] {
        let begin = ["generate", "Emma", "--max-tokens", "9", "--temperature", "0"];
        assert!(run(&[&begin, first, &["--state-out", state]]).status.success());
        let rest = run(&[&["generate", "--max-tokens", "9", "--temperature", "0", "--state-in", state], second]);
        let whole = run(&[&["generate", "Emma", "--max-tokens", "18", "--temperature", "0"], cpu]);
        let (whole, rest) = (String::from_utf8(whole.stdout).unwrap(), String::from_utf8(rest.stdout).unwrap());
        assert!(whole.trim_end().ends_with(rest.trim_end()) && !rest.trim().is_empty(), "{whole} | {rest}");
    }
    // And again on the CPU, by the program itself.
    let verified = run(&[&["generate", "Emma", "--max-tokens", "6", "--verify", "6", "--seed", "2"], SPLITS[0]]);
    assert!(verified.status.success() && said(&verified).contains("on cpu"), "{}", said(&verified));
    assert!(Path::new(&states[0]).exists());
}

#[test]
fn what_contradicts_itself_is_refused_in_words() {
    let refused: [(&[&str], &[&str]); 10] = [
        (&["--gpu-layers", "3", "--backend", "cpu"], &["--gpu-layers 3", "--backend cpu"]),
        (&["--adapters", "0,0", "--backend", "cpu"], &["--adapters 0,0", "--backend cpu"]),
        (&["--gpu-layers", "auto", "--backend", "cpu"], &["--gpu-layers auto", "--backend cpu"]),
        (&["--gpu-layers", "0", "--adapter", "0"], &["--adapter 0", "--gpu-layers 0"]),
        (&["--gpu-layers", "0", "--adapters", "0,1"], &["--adapters 0,1", "--gpu-layers 0"]),
        (&["--adapters", "0,99"], &["--adapters", "number 99"]),
        (&["--adapters", "0", "--adapter", "0"], &["--adapters", "--adapter"]),
        (&["--gpu-layers", "-1"], &["-1"]),
        (&["--gpu-layers", "some"], &["--gpu-layers", "or auto"]),
        (&["--gpu-layers", "2", "--gpu-memory", "1"], &["--gpu-memory", "auto"]),
    ];
    for (arguments, words) in refused {
        let output = run(&[&["generate", "Emma", "--max-tokens", "2"], arguments]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(words.iter().all(|word| said(&output).contains(word)), "{arguments:?}: {}", said(&output));
    }
    let output = run(&[&["generate", "Emma", "--gpu-memory", "none", "--gpu-layers", "auto"]]);
    assert!(said(&output).contains("GiB"), "{}", said(&output));
    // By this rule a GPU in software is taken only where it is named.
    let adapters = json(&[&["adapters", "--json"]]);
    let hardware = adapters["adapters"].as_array().unwrap().iter().any(|adapter| adapter["device_type"] != "Cpu");
    if !hardware {
        let output = run(&[&["generate", "Emma", "--max-tokens", "2", "--gpu-layers", "3"]]);
        assert!(!output.status.success() && said(&output).contains("in software"), "{}", said(&output));
        let output = run(&[&["generate", "Emma", "--max-tokens", "2", "--gpu-layers", "auto"]]);
        assert!(output.status.success() && said(&output).contains("on the CPU"), "{}", said(&output));
    }
    let inspected = json(&[&["inspect-model", "--model", GOLDEN, "--json"]]);
    let of_layers: Vec<_> = inspected["layer_bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap()).collect();
    assert_eq!(of_layers.len(), 5);
    assert!(of_layers.iter().sum::<u64>() < inspected["bytes"].as_u64().unwrap());
}
