//! What `train` writes: its folder, its log, its end.
#![cfg(unix)]

#[path = "common/signals.rs"]
mod signals;

use serde_json::Value;
use signals::{hangup, signal};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mamba-wgpu");

/// A model of a few thousand parameters.
fn train(out: &Path, steps: &str, more: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["train", "--task", "induction-heads", "--preset", "tiny", "--length", "12", "--layers", "1"])
        .args(["--d-model", "16", "--d-state", "4", "--batch", "4", "--seed", "3", "--log-every", "1", "--json"])
        .args(["--steps", steps])
        .args(more)
        .arg("--out")
        .arg(out);
    if !more.contains(&"--validation-sequences") {
        command.args(["--validation-sequences", "4"]);
    }
    piped(command)
}

fn resume(out: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["train", "--resume", "--json", "--out"]).arg(out);
    piped(command)
}

fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn expect(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn checkpoints(out: &Path) -> Vec<String> {
    names(out).into_iter().filter(|name| name.starts_with("checkpoint-")).collect()
}

/// A run, once its log has a line.
fn begun(mut command: Command, log: &Path) -> Child {
    let mut child = command.spawn().unwrap();
    while fs::metadata(log).map_or(0, |log| log.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_folder_is_one_runs_at_a_time_and_a_signal_leaves_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let log = out.join("log.jsonl");
    let run = begun(train(&out, "1000000", &["--checkpoint-every", "0", "--validate-every", "0"]), &log);
    let process = format!("process {}", run.id());
    expect(&train(&out, "2", &[]).output().unwrap(), 1, &["--out", &process]);
    signal(&run, "-TERM");
    let output = run.wait_with_output().unwrap();
    expect(&output, 143, &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["cancelled"], true);
    assert_eq!(checkpoints(&out), [format!("checkpoint-{:06}", report["steps"].as_u64().unwrap())]);
    assert!(!out.join(".lock").exists());

    // A run that goes on holds it as well; and one that was killed does not.
    let before = fs::read_to_string(&log).unwrap();
    let mut run = resume(&out).spawn().unwrap();
    while fs::metadata(&log).unwrap().len() <= before.len() as u64 {
        assert!(run.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
    expect(&resume(&out).output().unwrap(), 1, &[&format!("process {}", run.id())]);
    run.kill().unwrap();
    run.wait().unwrap();
    // From the moment that it holds the folder it ends as a signal wants it.
    let run = resume(&out).spawn().unwrap();
    while fs::read_to_string(out.join(".lock")).unwrap_or_default().trim() != run.id().to_string() {
        std::thread::yield_now();
    }
    let (name, code) = hangup();
    signal(&run, name);
    expect(&run.wait_with_output().unwrap(), code, &[]);
    assert!(fs::read_to_string(&log).unwrap().starts_with(&before));
}

#[test]
fn a_validation_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // Hours of it, after the first step.
    let long = ["--validate-every", "1", "--validation-sequences", "1000000000"];
    let run = begun(train(&out, "10", &long), &out.join("log.jsonl"));
    signal(&run, "-INT");
    expect(&run.wait_with_output().unwrap(), 130, &[]);
    assert_eq!(checkpoints(&out), ["checkpoint-000001"]);
    assert!(!fs::read_to_string(out.join("log.jsonl")).unwrap().contains("validation"));
}

#[test]
fn a_strangers_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let all =
        [("training.json", "{\"lr\": 1}"), ("log.jsonl", "{\"mine\": 1}\n"), ("loss.svg", "<svg/>"), ("notes", "x")];
    for (name, text) in all {
        fs::write(at(name), text).unwrap();
    }
    for (name, text) in all {
        expect(&train(folder.path(), "2", &[]).output().unwrap(), 2, &["--out", "--force"]);
        assert_eq!(names(folder.path()).len(), names(folder.path()).iter().filter(|n| at(n).is_file()).count());
        assert_eq!(fs::read_to_string(at(name)).unwrap(), text);
        // Without this one the next speaks against it.
        fs::rename(at(name), at(&format!(".{name}"))).unwrap();
    }
    for (name, _) in all {
        fs::rename(at(&format!(".{name}")), at(name)).unwrap();
    }
    expect(&train(folder.path(), "2", &["--force"]).output().unwrap(), 0, &[]);
    let log = fs::read_to_string(at("log.jsonl")).unwrap();
    assert!(log.starts_with("{\"mine\": 1}\n{\"step\":1,"), "{log}");
    assert_eq!(fs::read_to_string(at("notes")).unwrap(), "x");
}

#[test]
fn outputs_of_one_run_do_not_destroy_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("log"), "mine\n").unwrap();
    let log = ["--json-log", at("log").to_str().unwrap()].map(str::to_owned);
    let log: Vec<&str> = log.iter().map(String::as_str).collect();
    for run in ["a", "b"] {
        expect(&train(&at(run), "2", &log).output().unwrap(), 0, &[]);
    }
    let text = fs::read_to_string(at("log")).unwrap();
    assert!(text.starts_with("mine\n"));
    for run in ["a", "b"] {
        let name = at(run).display().to_string();
        let steps = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        assert_eq!(steps.filter(|line| line["run"] == *name && line["loss"].is_number()).count(), 2, "{text}");
    }
    // What is no picture, what is no text, what cannot be: before anything is trained.
    fs::write(at("bytes"), b"\xff\x00").unwrap();
    for (flag, place, code, words) in [
        ("--plot", "log", 2, "--force"),
        ("--json-log", "bytes", 2, "--force"),
        ("--plot", "no/such/folder", 1, "No such file"),
        ("--json-log", "no/such/folder", 1, "No such file"),
    ] {
        let place = at(place).to_str().unwrap().to_owned();
        expect(&train(&at("c"), "2", &[flag, &place]).output().unwrap(), code, &[words, flag]);
        assert!(!at("c").exists());
    }
    assert_eq!(fs::read_to_string(at("log")).unwrap(), text);
    // To standard output, line by line, unless an object is to stand there.
    expect(&train(&at("d"), "2", &["--json-log", "/dev/stdout"]).output().unwrap(), 2, &["--json-log", "--json"]);
    assert!(!at("d").exists());
    let command = train(&at("d"), "2", &["--json-log", "/dev/stdout"]);
    let mut lines = Command::new(PROGRAM);
    lines.args(command.get_args().filter(|word| *word != "--json"));
    let output = piped(lines).output().unwrap();
    expect(&output, 0, &[]);
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map_while(|l| serde_json::from_str(l).ok()).collect();
    assert!(lines.len() >= 3 && lines[0]["step"] == 1 && lines.last().unwrap()["step"] == 2, "{lines:?}");
}

#[test]
fn a_full_disk_names_the_checkpoint_and_leaves_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let command = train(&out, "3", &[]);
    let mut full = Command::new("sh");
    full.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh", PROGRAM]).args(command.get_args());
    let output = piped(full).output().unwrap();
    expect(&output, 1, &["of step", "is lost", "no checkpoint", "safetensors"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: ") && !last.contains("loss.svg"), "{said}");
    // What it came to is there all the same, and no half of a checkpoint.
    assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["loss"].is_number());
    assert!(names(&out).iter().all(|name| !name.contains("unfinished")), "{:?}", names(&out));
    // With room again the same run begins anew, and its log says everything once.
    expect(&train(&out, "3", &[]).output().unwrap(), 0, &[]);
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let steps = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps: Vec<u64> = steps.filter(|l| l["loss"].is_number()).map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3]);
}
