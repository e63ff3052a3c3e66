//! `generate --prompts`: many texts at once are what they are one by one, in their order, whatever each ends by.

#[allow(dead_code)] // every test crate uses a part of it
#[path = "common/beside.rs"]
mod beside;
mod common;
#[cfg(unix)]
#[allow(dead_code)]
#[path = "common/signals.rs"]
mod signals;

use std::process::Output;

use beside::mamba;
use serde_json::Value;

const LINES: [&str; 7] = [
    "It is a truth universally acknowledged, that",
    r#""She said:\n\"No""#,
    r#""Hello," said he"#,
    "Mr. Darcy",
    "Emma Woodhouse, handsome, clever, and rich, with a comfortable home",
    "a",
    r#""No," he said, "never""#,
];
/// What they are.
const PROMPTS: [&str; 7] = [LINES[0], "She said:\n\"No", LINES[2], LINES[3], LINES[4], LINES[5], LINES[6]];

fn run(stdin: &str, arguments: &[&str]) -> Output {
    let mut command = mamba();
    command
        .args(["generate", "--prompts", "-", "--backend", "cpu"])
        .args(arguments)
        .write_stdin(stdin)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn alone(prompt: &str, arguments: &[&str]) -> Output {
    mamba().args(["generate", prompt, "--backend", "cpu"]).args(arguments).output().unwrap()
}

/// Of an object, all that does not depend on the clock.
fn timeless(object: &Value) -> Value {
    let mut object = object.clone();
    let keys = object.as_object_mut().unwrap();
    keys.retain(|key, _| !key.ends_with("_seconds") && !key.ends_with("_per_second") && key != "gpu_memory_peak_bytes");
    object
}

#[test]
fn texts_are_those_of_one_run_each() {
    let flags = ["--max-tokens", "12", "--temperature", "0.9", "--top-k", "30", "--stop", "and"];
    for parallel in ["1", "3", "64"] {
        let all = run(&LINES.join("\n"), &[&flags[..], &["--seed", "5", "--parallel", parallel, "--json"]].concat());
        let all = objects(&all);
        assert_eq!(all.len(), LINES.len());
        for (i, (object, prompt)) in all.iter().zip(PROMPTS).enumerate() {
            let seed = (5 + i).to_string();
            let one = objects(&alone(prompt, &[&flags[..], &["--seed", &seed, "--json"]].concat()));
            assert_eq!(timeless(object), timeless(&one[0]), "text {i} of {parallel} at once");
            let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(object), keys(&one[0]));
        }
        assert!(all.iter().any(|o| o["finish_reason"] == "stop") && all.iter().any(|o| o["finish_reason"] == "length"));
    }
}

#[test]
fn texts_come_in_their_order_with_a_line_between() {
    let flags = ["--max-tokens", "6", "--temperature", "0"];
    let texts: Vec<_> = PROMPTS.iter().map(|prompt| stdout(&alone(prompt, &flags))).collect();
    assert_eq!(stdout(&run(&LINES.join("\n"), &[&flags[..], &["--parallel", "4"]].concat())), texts.join("\n"));
    // Windows' line ends, a byte order mark, a last line with an end or without.
    let windows = format!("\u{feff}{}\r\n", LINES.join("\r\n"));
    assert_eq!(stdout(&run(&windows, &flags)), texts.join("\n"));
    let quiet = run("Emma\nKING\n", &[&flags[..], &["--no-echo", "--stats"]].concat());
    let want: Vec<_> =
        ["Emma", "KING"].iter().map(|p| stdout(&alone(p, &[&flags[..], &["--no-echo"]].concat()))).collect();
    assert_eq!(stdout(&quiet), want.join("\n"));
    let said = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(said.contains("2 texts, 2 at once") && said.contains("generated:  12 tokens"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_before_the_work() {
    let cases: [(&str, &[&str], i32, &str); 11] = [
        ("a\n\nb\n", &[], 1, "line 2 is empty"),
        ("", &[], 1, "no prompts"),
        ("a\n\"\"\n", &[], 1, "line 2 is empty"),
        ("a\n\"bad \\x\"\n", &[], 1, "line 2: no JSON string, though it begins and ends as one: invalid escape"),
        ("\"\\ud800\"\n", &[], 1, "line 1: no JSON string"),
        ("a", &["--state-out", "x"], 2, "--state-out"),
        ("a", &["--verify", "3"], 2, "--verify"),
        ("a", &["again"], 2, "[PROMPT]"),
        ("a", &["--parallel", "0"], 2, "--parallel"),
        ("a", &["--temperature", "-1"], 2, "temperature"),
        ("a", &["--model", "/nowhere"], 1, "/nowhere"),
    ];
    for (stdin, flags, code, named) in cases {
        let output = run(stdin, flags);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
        assert!(said.contains(named) && !said.contains("panicked"), "{flags:?}: {said}");
        assert!(output.stdout.is_empty(), "{flags:?}");
    }
    let output = mamba().args(["generate", "--prompts", "/nowhere/prompts.txt"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--prompts /nowhere/prompts.txt: No such file"));
    let output = mamba().args(["generate", "Emma", "--parallel", "3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--parallel is of --prompts"));
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("latin1.txt");
    std::fs::write(&path, b"caf\xe9\n").unwrap();
    let output = mamba().args(["generate", "--prompts"]).arg(&path).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("latin1.txt: not UTF-8 text (at byte 3)"));
}

/// What was begun when a signal came is printed, and what was not is not.
#[cfg(unix)]
#[test]
fn a_signal_ends_all_texts_and_keeps_what_there_is() {
    use std::io::{BufRead, BufReader, Read};
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("prompts.txt");
    std::fs::write(&path, "Emma\n".repeat(40)).unwrap();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"))
        .args([
            "generate",
            "--backend",
            "cpu",
            "--max-tokens",
            "100000",
            "--ignore-eos",
            "--parallel",
            "2",
            "--prompts",
        ])
        .arg(&path)
        .args(["--no-echo", "--stats"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The first text streams.
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    signals::signal(&child, "-TERM");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("2 of 40 texts (2 of them cut short), 2 at once"), "{said}");
    assert_eq!(status.code(), Some(128 + 15));
    assert!(!rest.is_empty() && rest.ends_with('\n'), "{rest}");
}
