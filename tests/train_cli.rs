//! `mamba-wgpu train` and `eval`: what a run leaves, what happens when it is killed, what is refused.

use assert_cmd::Command;
use mamba_wgpu::train::RunFolder;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mamba-wgpu");

/// A run of some seconds.
const TINY: [&str; 20] = [
    "--task",
    "induction-heads",
    "--preset",
    "tiny",
    "--length",
    "12",
    "--layers",
    "1",
    "--d-model",
    "16",
    "--d-state",
    "4",
    "--batch",
    "4",
    "--steps",
    "24",
    "--seed",
    "3",
    "--log-every",
    "4",
];

fn mamba() -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("NO_COLOR", "1");
    command
}

fn train(out: &Path, more: &[&str]) -> Value {
    let done = mamba().arg("train").args(more).arg("--json").arg("--out").arg(out).assert().success();
    serde_json::from_slice(&done.get_output().stdout).unwrap()
}

fn steps(log: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?))).collect()
}

#[test]
fn a_run_leaves_a_model_a_log_and_a_curve() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let report = train(&out, &[&TINY[..], &["--validation-sequences", "16"]].concat());
    assert_eq!((&report["steps"], &report["cancelled"]), (&24.into(), &false.into()));
    assert!(report["loss"].as_f64().unwrap() > 0.0 && report["validation"].is_string());
    let logged: Vec<u64> = steps(&out.join("log.jsonl")).iter().map(|(step, _)| *step).collect();
    assert_eq!(logged, [1, 4, 8, 12, 16, 20, 24]);
    assert!(std::fs::read_to_string(out.join("loss.svg")).unwrap().contains("</svg>"));
    // Any other command runs the model.
    let model = out.join("checkpoint-000024");
    mamba().args(["logits", "--tokens", "1,2,3", "--json", "--model"]).arg(&model).assert().success();
    let done = mamba()
        .args(["eval", "--json", "--sequences", "9", "--length", "12,64", "--model"])
        .arg(&out)
        .assert()
        .success();
    let report: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    let targets: Vec<u64> =
        report["lengths"].as_array().unwrap().iter().map(|l| l["targets"].as_u64().unwrap()).collect();
    assert_eq!(targets, [9, 9]);
    // A long sequence goes through in chunks, one alone, with its state carried along: the same sequences, the same loss.
    let chunks = ["eval", "--json", "--sequences", "9", "--length", "64", "--chunk", "20", "--model"];
    let done = mamba().args(chunks).arg(&out).assert().success();
    let chunked: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    let (whole, chunked) = (&report["lengths"][1], &chunked["lengths"][0]);
    assert_eq!((&whole["targets"], &whole["correct"]), (&chunked["targets"], &chunked["correct"]));
    let difference = whole["loss"].as_f64().unwrap() - chunked["loss"].as_f64().unwrap();
    assert!(difference.abs() < 1e-4, "{whole} and {chunked}");
    // Another run does not go over this one.
    let refused = mamba().arg("train").args(TINY).arg("--out").arg(&out).assert().code(2);
    assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("--resume"));
}

/// docs/claims.md's model of induction heads, trained at 256 on an H100, on this machine's GPU.
#[test]
fn the_model_of_the_claims_remembers_and_one_with_larger_deltas_forgets() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/records/nvidia-h100-80gb-hbm3/training/2026-11-26-induction-heads");
    let evaluate = |run: &Path| {
        let length = ["eval", "--json", "--sequences", "16", "--length", "2^12", "--model"];
        let done = mamba().args(length).arg(run).assert().success();
        let report: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
        let length = &report["lengths"][0];
        (length["correct"].as_u64().unwrap(), length["loss"].as_f64().unwrap())
    };
    let (correct, loss) = evaluate(&run);
    assert_eq!(correct, 16);
    // As on the H100, up to 2^17: what smoothed labels lead to, and no forgetting.
    assert!((loss - 0.0984).abs() < 1e-3, "{loss}");

    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint-204800");
    std::fs::create_dir(&checkpoint).unwrap();
    let from = run.join("checkpoint-204800");
    std::fs::copy(run.join("training.json"), folder.path().join("training.json")).unwrap();
    for name in ["config.json", "state.json"] {
        std::fs::copy(from.join(name), checkpoint.join(name)).unwrap();
    }
    let mut weights = std::fs::read(from.join("model.safetensors")).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&weights).unwrap();
    for layer in 0..2 {
        let bias = format!("backbone.layers.{layer}.mixer.dt_proj.bias");
        let (start, end) = metadata.info(&bias).unwrap().data_offsets;
        for value in weights[8 + header + start..8 + header + end].chunks_exact_mut(4) {
            let larger = f32::from_le_bytes(value.try_into().unwrap()) + 8.0;
            value.copy_from_slice(&larger.to_le_bytes());
        }
    }
    std::fs::write(checkpoint.join("model.safetensors"), weights).unwrap();
    let (correct, loss) = evaluate(folder.path());
    assert!(correct < 12 && loss > 0.5, "{correct} of 16, {loss}");
}

#[test]
fn a_run_that_is_killed_again_and_again_is_the_run_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let every = ["--checkpoint-every", "1", "--validate-every", "0", "--validation-sequences", "4"];
    train(&whole, &[&TINY[..], &every].concat());
    // The last step whose checkpoint is there, or begun.
    let newest = |whole: bool| -> u64 {
        let names = std::fs::read_dir(&killed).into_iter().flatten().flatten().map(|e| e.file_name());
        let steps = names.filter_map(|name| {
            let name = name.to_str()?.strip_prefix("checkpoint-")?.to_owned();
            if whole {
                name.parse().ok()
            } else {
                name.get(..6)?.parse().ok()
            }
        });
        steps.max().unwrap_or(0)
    };
    let (begin, mut kills) = (Instant::now(), 0);
    loop {
        let done = newest(true);
        let mut command = std::process::Command::new(PROGRAM);
        command.arg("train").arg("--out").arg(&killed).args(every).stderr(Stdio::null()).stdout(Stdio::null());
        match done > 0 {
            true => command.args(["--resume", "--log-every", "4"]),
            false => command.args(TINY),
        };
        let mut child = command.spawn().unwrap();
        // As soon as a checkpoint is begun, each time one step later than the last time: so it comes to an end.
        let last = newest(false).max(done) + 1 + kills;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                break true;
            }
            if newest(false) >= last {
                child.kill().unwrap();
                child.wait().unwrap();
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if ended {
            break;
        }
        kills += 1;
        assert!(begin.elapsed() < Duration::from_secs(240), "{kills} kills");
    }
    assert!(kills > 0, "it was never killed");
    for file in ["checkpoint-000024/model.safetensors", "checkpoint-000024/optimizer.safetensors"] {
        assert!(std::fs::read(whole.join(file)).unwrap() == std::fs::read(killed.join(file)).unwrap(), "{file}");
    }
    let of = |run: &Path| steps(&run.join("log.jsonl"));
    assert_eq!(of(&whole), of(&killed));
}

#[test]
fn a_text_is_learned_with_a_tokenizer_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (text, out) = (folder.path().join("text.txt"), folder.path().join("run"));
    std::fs::write(&text, "the cat sat on the mat, and the dog sat on the cat.\n".repeat(60)).unwrap();
    let recipe =
        ["--task", "text", "--preset", "tiny", "--vocab", "280", "--length", "16", "--layers", "1", "--d-model", "16"];
    let recipe =
        [&recipe[..], &["--batch", "4", "--steps", "20", "--validation-text"], &[text.to_str().unwrap()]].concat();
    let report = train(&out, &[&recipe[..], &["--text", text.to_str().unwrap()]].concat());
    assert!(report["validation"].as_str().unwrap().contains("bits a byte"), "{report}");
    // The library's own score of the model is the validation's.
    let best = std::fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.to_string_lossy().contains("best-"))
        .unwrap();
    let done = mamba()
        .args(["score", "--json", "--bos", "0", "--model"])
        .arg(&best)
        .arg("--text")
        .arg(&text)
        .assert()
        .success();
    let score: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    let (score, best) = (score["nll_per_token"].as_f64().unwrap(), report["best"].as_f64().unwrap());
    assert!((score - best).abs() < 1e-3, "{score} and {best}");
    goes_on_with_its_text_alone(&out, &text);
}

/// A run of a text that has ended: it can be resumed with this text, wherever it lies, and with no other.
fn goes_on_with_its_text_alone(out: &Path, text: &Path) {
    let resume = |text: &Path, validation: Option<&Path>| {
        let mut command = mamba();
        command.args(["train", "--resume", "--out"]).arg(out).arg("--text").arg(text);
        command.args(validation.map(|path| [Path::new("--validation-text"), path]).into_iter().flatten());
        command.output().unwrap()
    };
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let (moved, other) = (out.with_file_name("moved.txt"), out.with_file_name("other.txt"));
    let content = std::fs::read_to_string(text).unwrap();
    std::fs::write(&moved, &content).unwrap();
    std::fs::write(&other, content.replacen("cat", "cap", 1)).unwrap();
    let before = std::fs::read(out.join("training.json")).unwrap();
    for (text, validation, flag) in
        [(other.as_path(), None, "--text"), (text, Some(other.as_path()), "--validation-text")]
    {
        let refused = resume(text, validation);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        for part in [flag, "began with", "text.txt", "other.txt"] {
            assert!(said(&refused).contains(part), "{part}: {}", said(&refused));
        }
    }
    assert_eq!(std::fs::read(out.join("training.json")).unwrap(), before);
    let resumed = resume(&moved, Some(&moved));
    assert!(resumed.status.success() && !said(&resumed).contains("warning"), "{}", said(&resumed));
    let resumed = resume(&moved, None);
    assert!(resumed.status.success() && said(&resumed).contains("nothing is validated"), "{}", said(&resumed));
    // A run from before texts were noted.
    let mut settings: Value = serde_json::from_slice(&before).unwrap();
    assert_eq!(settings["text"]["bytes"], content.len());
    settings.as_object_mut().unwrap().retain(|key, _| !key.ends_with("text"));
    std::fs::write(out.join("training.json"), settings.to_string()).unwrap();
    let resumed = resume(&other, None);
    assert!(resumed.status.success() && said(&resumed).contains("may be another"), "{}", said(&resumed));
}

#[test]
fn misuse_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    for (more, words) in [
        (&["--task", "induction-heads", "--vocab", "2"][..], "--vocab 2"),
        (&["--task", "induction-heads", "--batch", "8", "--accumulate", "3"], "--accumulate 3"),
        (&["--task", "associative-recall", "--length", "8"], "--length 8"),
        (&["--task", "text"], "--text"),
        (&["--task", "induction-heads", "--text", "x"], "--text"),
        (&["--task", "induction-heads", "--lr", "0"], "--lr 0"),
        (&["--task", "induction-heads", "--backend", "cpu"], "--backend cpu"),
        (&["--resume", "--lr", "1"], "--lr"),
        (&[], "--task"),
    ] {
        let refused = mamba().arg("train").args(more).arg("--out").arg(&out).assert().code(2);
        let message = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(message.contains(words), "{more:?}: {message}");
        assert!(!out.exists());
    }
    for arguments in [["train", "--resume", "--out"], ["eval", "--length=4", "--model"]] {
        let refused = mamba().args(arguments).arg(&out).assert().failure();
        assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("run"));
    }
}

#[test]
fn a_run_without_a_checkpoint_is_not_taken_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    mamba().arg("train").args(TINY).arg("--out").arg(&out).assert().success();
    for entry in fs::read_dir(&out).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        fs::remove_dir_all(entry.path()).unwrap();
    }
    let said = |arguments: &[&str]| {
        let refused = mamba().args(arguments).arg(&out).assert().code(1);
        String::from_utf8_lossy(&refused.get_output().stderr).into_owned()
    };
    let both = [&["train", "--resume", "--out"][..], &["eval", "--model"]];
    for arguments in both {
        let said = said(arguments);
        assert!(said.contains("no checkpoint yet") && !said.contains("was given as --out"), "{said}");
    }
    let held = RunFolder::begin(&out, false).unwrap();
    for arguments in both {
        let said = said(arguments);
        assert!(said.contains("at work") && said.contains(&std::process::id().to_string()), "{said}");
    }
    drop(held);
    // A model of no text says which task it is for.
    mamba().arg("train").args(TINY).arg("--out").arg(&out).assert().success();
    let refused = mamba().args(["generate", "x", "--backend", "cpu", "--model"]).arg(&out).assert().code(1);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(["task induction-heads", "mamba-wgpu eval", "logits --tokens"].iter().all(|w| said.contains(w)), "{said}");
}
