//! What runs where nothing is said: a hardware GPU or the CPU, never a GPU in software; and `generate --verify`, which writes the
//! begin of a text on both. Passes on machines with hardware and without, and fails on one that has no adapter at all.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

const PROMPT: &str = "It is a truth universally acknowledged, that";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.args(arguments).env_remove("RUST_LOG").env("RUST_BACKTRACE", "1").output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// Name and index of the best adapter, and of the best one in hardware.
fn adapters() -> ((String, String), Option<(String, String)>) {
    let listed = json(&run(&["adapters", "--json"]));
    let listed = listed["adapters"].as_array().unwrap();
    let of = |adapter: &Value| (adapter["name"].as_str().unwrap().to_owned(), adapter["index"].to_string());
    let best = listed.first().map(of).expect("these tests need an adapter (Mesa's lavapipe is one)");
    (best, listed.iter().find(|adapter| adapter["device_type"] != "Cpu").map(of))
}

#[test]
fn a_model_runs_on_hardware_or_on_the_cpu() {
    let ((name, index), hardware) = adapters();
    let generate = ["generate", "Emma", "--max-tokens", "2", "--json"];
    let auto = run(&generate);
    let backend = json(&auto)["backend"].as_str().unwrap().to_owned();
    let words = stderr(&auto);
    match &hardware {
        Some((name, _)) => assert!(backend.contains(name) && words.contains(name), "{backend}: {words}"),
        None => {
            assert_eq!(backend, "cpu");
            for part in ["on the CPU", "in software", &name, &format!("--adapter {index} ")] {
                assert!(words.contains(part), "{part:?} in: {words}");
            }
        }
    }
    // By name any adapter runs it, and nothing has to be said about it.
    let asked = run(&[&generate[..], &["--adapter", &index]].concat());
    assert!(json(&asked)["backend"].as_str().unwrap().contains(&name));
    assert!(!stderr(&asked).contains("on the CPU"), "{}", stderr(&asked));
}

/// What runs on nothing but a GPU takes one in software too, and says that it will be slow.
#[test]
fn training_takes_software_where_there_is_nothing_else() {
    let ((name, index), hardware) = adapters();
    let folder = tempfile::tempdir().unwrap();
    let train = |out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        let task = ["train", "--task", "induction-heads", "--preset", "tiny", "--steps", "1", "--out"];
        let output = run(&[&task[..], &[out.to_str().unwrap()], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output)
    };
    let words = train("auto", &[]);
    assert!(words.contains(hardware.as_ref().map_or(&name, |(name, _)| name)), "{words}");
    assert_eq!(words.contains("no hardware GPU"), hardware.is_none(), "{words}");
    let asked = train("asked", &["--adapter", &index]);
    assert!(asked.contains(&name) && !asked.contains("no hardware GPU"), "{asked}");
}

#[test]
fn both_backends_write_the_same_tokens() {
    let ((name, index), _) = adapters();
    let sampled = ["generate", PROMPT, "--max-tokens", "20", "--seed", "3", "--backend", "cpu"];
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let state = state.to_str().unwrap();
    let output = run(&[&sampled[..], &["--verify", "16", "--state-out", state]].concat());
    assert_eq!(stdout(&output), stdout(&run(&sampled)), "the text is what it is without");
    let words = stderr(&output);
    assert!(words.contains("the first 16 tokens are the same on cpu at ") && words.contains(&name), "{words}");

    // The other way round, from a state, and more than there are.
    let on = ["generate", "--state-in", state, "--max-tokens", "4", "--verify", "99", "--json", "--adapter", &index];
    let output = run(&on);
    assert_eq!(json(&output)["generated_tokens"], 4);
    let words = stderr(&output);
    assert!(words.contains("the first 4 tokens are the same on ") && words.contains(" and on cpu at "), "{words}");
}

/// A kernel that is off by one per cent draws other tokens.
#[test]
fn a_backend_that_computes_wrongly_is_found() {
    let sampled = ["generate", PROMPT, "--max-tokens", "16", "--seed", "3", "--top-p", "1", "--backend", "cpu"];
    let output = run(&[&sampled[..], &["--verify", "16", "--fault", "matvec"]].concat());
    let words = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("the backends disagree: token ") && words.contains(" on cpu, "), "{words}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(PROMPT), "the text comes all the same");
    assert_eq!(run(&["generate", PROMPT, "--verify", "0"]).status.code(), Some(2));
}

/// scripts/demo.sh, the build replaced by the program that is there.
#[cfg(unix)]
#[test]
fn the_demo_writes_and_shows_that_the_kernels_agree() {
    use std::os::unix::fs::PermissionsExt;
    let (_, hardware) = adapters();
    let folder = tempfile::tempdir().unwrap();
    let cargo = folder.path().join("cargo");
    let program = assert_cmd::cargo::cargo_bin!("mamba-wgpu");
    let script = format!("#!/bin/sh\nshift 4\nexec '{}' \"$@\"\n", program.display());
    std::fs::write(&cargo, script).unwrap();
    std::fs::set_permissions(&cargo, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let demo = |arguments: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/demo.sh");
        std::process::Command::new("bash").arg(script).args(arguments).env("PATH", &path).output().unwrap()
    };
    let output = demo(&[]);
    assert!(stdout(&output).starts_with(PROMPT));
    let verified = |output: &Output| stderr(output).contains("mamba-wgpu: verified: the first ");
    assert_eq!(verified(&output), hardware.is_none(), "{}", stderr(&output));
    let output = demo(&["Emma", "--max-tokens", "3"]);
    assert!(stdout(&output).starts_with("Emma") && !verified(&output), "{}", stderr(&output));
}
