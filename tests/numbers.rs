//! Every flag that takes a number, given the ends of what a number can be: it works or is refused in words; nothing panics, is aborted for
//! want of memory, or goes on for ever.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ENDS: [&str; 5] = ["0", "4294967296", "9223372036854775808", "18446744073709551615", "18446744073709551616"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command to its end, which comes within two minutes; its exit code and what it said.
fn ends(arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mamba-wgpu"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if begin.elapsed() > Duration::from_secs(120) => {
                child.kill().unwrap();
                panic!("{arguments:?} does not end");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let said = std::fs::read_to_string(said).unwrap();
    // No code: a signal ended it, which is how an allocation that fails does.
    let code = status.code().unwrap_or_else(|| panic!("{arguments:?}: {status}: {said}"));
    assert!(code <= 2 && !said.contains("panicked"), "{arguments:?}: {code}: {said}");
    (code, said)
}

/// Gives a flag every end; those in `fine` work, all others are refused by the flag's name.
fn try_ends(command: &[&str], flag: &str, fine: &[&str]) {
    for value in ENDS {
        let (code, said) = ends(&[command, &[flag, value]].concat());
        match fine.contains(&value) {
            true => assert_eq!(code, 0, "{command:?} {flag} {value}: {said}"),
            false => {
                let named = said.contains(flag) && said.contains("error: ");
                assert!(code == 2 && named, "{command:?} {flag} {value}: {code}: {said}");
                // Beyond what any flag can hold, the most is named.
                assert!(value != ENDS[4] || said.contains("at most "), "{command:?} {flag} {value}: {said}");
            }
        }
    }
}

/// All but 0, and all but 0 as far as 64 bits go.
const SOME: [&str; 3] = ["4294967296", "9223372036854775808", "18446744073709551615"];
const ALL: [&str; 4] = ["0", "4294967296", "9223372036854775808", "18446744073709551615"];

#[test]
fn flags_of_models() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "Emma was").unwrap();
    let text = text.to_str().unwrap();
    let cpu = ["--backend", "cpu"];
    let with = |command: &[&'static str]| [command, &cpu[..]].concat();
    let generate = with(&["generate", "Emma", "--max-tokens", "2"]);
    try_ends(&generate, "--top-k", &["0"]);
    try_ends(&generate, "--seed", &ALL);
    try_ends(&generate, "--chunk", &SOME);
    // It ends by itself.
    try_ends(&with(&["generate", "Emma", "--seed", "1", "--stop", "e", "--stop", " "]), "--max-tokens", &SOME);
    let logits = with(&["logits"]);
    for value in ENDS {
        let (code, said) = ends(&[&logits[..], &["--tokens", value]].concat());
        assert!((value == "0") == (code == 0), "{said}");
    }
    let score = [&with(&["score"])[..], &["--text", text]].concat();
    try_ends(&score, "--window", &SOME);
    try_ends(&score, "--bos", &["0"]);
    let explain = with(&["explain", "--text", "Emma was"]);
    try_ends(&explain, "--layer", &["0"]);
    try_ends(&explain, "--channel", &["0"]);
    try_ends(&explain, "--max-tokens", &SOME);
}

#[test]
fn flags_of_training() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut count = 0;
    let mut train = |task: &str, flag: &str, fine: &[&str]| {
        for value in ENDS {
            count += 1;
            let out = folder.path().join(format!("{count}"));
            let out = out.to_str().unwrap();
            let small =
                ["--preset", "tiny", "--layers", "1", "--batch", "2", "--validation-sequences", "2", "--steps", "1"];
            let small: Vec<&str> = small.chunks(2).filter(|pair| pair[0] != flag).flatten().copied().collect();
            let arguments = [&["train", "--task", task, "--out", out][..], &small, &[flag, value]].concat();
            let (code, said) = ends(&arguments);
            match fine.contains(&value) {
                true => assert_eq!(code, 0, "{arguments:?}: {said}"),
                false => {
                    assert!(code == 2 && said.contains(flag), "{arguments:?}: {code}: {said}");
                    assert!(!Path::new(out).exists());
                }
            }
        }
    };
    for flag in
        ["--length", "--vocab", "--layers", "--d-model", "--d-state", "--batch", "--accumulate", "--occurrences"]
    {
        train("induction-heads", flag, &[]);
    }
    train("selective-copying", "--memorise", &[]);
    train("associative-recall", "--length", &[]);
    for flag in ["--steps", "--validation-sequences"] {
        train("induction-heads", flag, &[]);
    }
    for flag in ["--warmup", "--seed", "--validate-every", "--checkpoint-every"] {
        train("induction-heads", flag, &ALL);
    }
    for flag in ["--log-every", "--keep"] {
        train("induction-heads", flag, &SOME);
    }
    for (flag, value) in
        [("--lr", "1e300"), ("--dt-min", "1e-300"), ("--eps", "1e39"), ("--clip", "-0.5"), ("--lr", "NaN")]
    {
        let out = folder.path().join("real");
        let value = format!("{flag}={value}");
        let (code, said) = ends(&["train", "--task", "induction-heads", "--out", out.to_str().unwrap(), &value]);
        assert!(code == 2 && said.contains(flag) && said.len() < 300, "{said}");
    }

    let run = run.to_str().unwrap();
    let (code, said) = ends(&["train", "--task", "induction-heads", "--preset", "tiny", "--steps", "1", "--out", run]);
    assert_eq!(code, 0, "{said}");
    let eval = ["eval", "--model", run];
    try_ends(&eval, "--length", &[]);
    try_ends(&eval, "--sequences", &[]);
    try_ends(&[&eval[..], &["--sequences", "2"]].concat(), "--chunk", &SOME);
    try_ends(&[&eval[..], &["--sequences", "2"]].concat(), "--seed", &ALL);
}

#[test]
fn flags_of_what_is_measured() {
    // No work, since there is no such adapter.
    let bench = ["bench", "scan", "--adapter", "no such one"];
    for value in ENDS {
        for flag in ["--time-limit", "--chunk"] {
            let (code, said) = ends(&[&bench[..], &[flag, value]].concat());
            assert!(code == 2 && (said.contains("--adapter") || said.contains(flag)), "{said}");
        }
    }
    let report = repository("benches/records/nvidia-h100-80gb-hbm3/2026-11-25-backward.json");
    let report = report.to_str().unwrap();
    for value in ENDS {
        ends(&["bench", "compare", report, report, "--tolerance", value]);
    }
}
