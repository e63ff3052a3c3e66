//! Runs that begin with a model: the same model before the first step, a better one after some, and what cannot be trained.

mod common;

use assert_cmd::Command;
use common::{assert_close, compare, repository, Golden};
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::{Checkpoint, Dtype};
use mamba_wgpu::train::{Batch, Preset, Pretrained, Settings, Task, TaskKind, Trainer, IGNORE};
use pollster::block_on;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn mamba() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mamba-wgpu"));
    command.env("NO_COLOR", "1");
    command
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

/// A run's training that has to fail as misuse; what it says.
fn refused(arguments: &[&str], from: &Path, out: &Path) -> String {
    let done = mamba().arg("train").args(arguments).arg("--from").arg(from).arg("--out").arg(out).assert().failure();
    assert!(!out.exists());
    String::from_utf8_lossy(&done.get_output().stderr).into_owned()
}

/// What is trained of a model on one short sequence.
fn settings(model: &Pretrained, length: usize) -> Settings {
    let mut settings = Settings::preset(TaskKind::Text, Preset::Tiny, 0);
    (settings.batch, settings.accumulate) = (1, 1);
    model.adopt(&mut settings);
    settings.task = settings.task.with_length(length);
    settings
}

/// transformers' sums of -log p, by the trainer's forward pass; which checkpoints it refuses, and why.
#[test]
fn every_golden_checkpoint_is_the_same_model_to_the_trainer_or_is_refused() {
    let gpu = block_on(Gpu::new(&GpuOptions::default())).expect("these tests need an adapter (Mesa's lavapipe is one)");
    let mut refused = Vec::new();
    for golden in Golden::all() {
        let checkpoint = golden.checkpoint();
        let model = match Pretrained::new(&checkpoint) {
            Ok(model) => model,
            Err(error) => {
                refused.push((golden.name, error.to_string()));
                continue;
            }
        };
        for s in &golden.expected.sequences {
            let length = s.tokens.len();
            let settings = settings(&model, length);
            let trainer = Trainer::from_pretrained(&gpu, &settings, &settings.task, &model);
            let trainer = trainer.unwrap_or_else(|e| panic!("{}: {e}", golden.name));
            let mut targets = s.tokens[1..].to_vec();
            targets.push(IGNORE);
            let tape = trainer.evaluation(1, length).unwrap();
            let got = block_on(tape.evaluate(&Batch::new(1, length, s.tokens.clone(), targets))).unwrap();
            let atol = 1e-4 * (length - 1) as f64;
            assert_close(&format!("{}: nll_sum", golden.name), &[got.nll_sum], &[s.nll_sum], atol, 0.0);
            // The comparison can fail: a percent off. (A sequence of one token has nothing to predict.)
            assert!(length == 1 || compare(&[1.01 * got.nll_sum], &[s.nll_sum], atol, 0.0).is_err());
        }
    }
    let names: Vec<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        ("bias-conv2-state1", "bias"),
        ("eps-residual", "0.003"),
        ("falcon-tied-eps", "falcon_mamba"),
        ("falcon-untied", "falcon_mamba"),
        ("no-conv-bias-expand3", "convolution has no bias"),
        ("original-untied", "must have no bias"),
    ];
    assert_eq!(names, expected.map(|(name, _)| name));
    for ((name, error), (_, why)) in refused.iter().zip(expected) {
        assert!(error.contains(why) && error.contains(name), "{error}");
    }
}

#[test]
fn settings_for_another_model_are_refused() {
    let gpu = block_on(Gpu::new(&GpuOptions::default())).expect("these tests need an adapter (Mesa's lavapipe is one)");
    let (one, other) = (Golden::named("f16").checkpoint(), Golden::named("bf16").checkpoint());
    let (one, other) = (Pretrained::new(&one).unwrap(), Pretrained::new(&other).unwrap());
    let settings = settings(&one, 8);
    let error = Trainer::from_pretrained(&gpu, &settings, &settings.task, &other).err().unwrap();
    assert!(error.to_string().contains("another model"), "{error}");
}

const MODEL: &str = "models/austen-4m";

/// Some pages, to train and to validate on.
fn texts(folder: &Path) -> (PathBuf, PathBuf) {
    let text = std::fs::read_to_string(repository("tests/data/austen-4m/heldout.txt")).unwrap();
    let (train, validation) = (folder.join("train.txt"), folder.join("validation.txt"));
    let upper: String = text.chars().skip(6000).take(3000).collect();
    std::fs::write(&train, upper.to_uppercase()).unwrap();
    let upper: String = text.chars().skip(9000).take(2000).collect();
    std::fs::write(&validation, upper.to_uppercase()).unwrap();
    (train, validation)
}

/// The embedded model (weights in f16), which never saw text in capitals, learns some.
#[test]
fn the_embedded_model_goes_on_learning() {
    let folder = tempfile::tempdir().unwrap();
    let (train, validation) = texts(folder.path());
    let run = |name: &str, lr: &str, steps: &str| {
        let out = folder.path().join(name);
        let mut command = mamba();
        command.args(["train", "--json", "--task", "text", "--length", "64", "--batch", "4", "--warmup", "0"]);
        command.args(["--schedule", "constant", "--lr", lr, "--steps", steps, "--checkpoint-every", "0", "--from"]);
        command.arg(repository(MODEL)).arg("--text").arg(&train).arg("--validation-text").arg(&validation);
        let report = json(command.args(["--validate-every", "0", "--out"]).arg(&out));
        (report["best"].as_f64().unwrap(), out)
    };
    let score = |model: &Path| {
        let report = json(mamba().args(["score", "--json", "--text"]).arg(&validation).arg("--model").arg(model));
        report["nll_per_token"].as_f64().unwrap()
    };
    // A step that changes nothing: the model as it was, its beginning of a text and tokenizer included.
    let before = score(&repository(MODEL));
    let (still, out) = run("still", "1e-20", "1");
    assert!((still - before).abs() < 2e-4, "{still}, by score {before}");
    let written = out.join("checkpoint-000001");
    let (old, new) = (Checkpoint::open(&repository(MODEL)).unwrap(), Checkpoint::open(&written).unwrap());
    assert_eq!(new.tokenizer_json(), old.tokenizer_json());
    assert_eq!(new.config(), old.config());
    let (mut had, mut has) = (Vec::new(), Vec::new());
    old.weights().for_each(|tensor| had.push((tensor.name.to_owned(), tensor.to_f32().unwrap())));
    new.weights().for_each(|tensor| {
        assert_eq!(tensor.dtype, Dtype::F32);
        has.push((tensor.name.to_owned(), tensor.to_f32().unwrap()));
    });
    assert_eq!(had.len(), has.len());
    for ((name, had), (other, has)) in had.iter().zip(&has) {
        assert_eq!(name, other);
        assert_close(name, has, had, 1e-19, 0.0); // the rate
    }
    // The run says where it is from.
    let settings: Value = serde_json::from_slice(&std::fs::read(out.join("training.json")).unwrap()).unwrap();
    assert_eq!(settings["origin"]["fingerprint"], old.fingerprint().to_string());
    assert_eq!(settings["shape"]["n_layer"], 8);

    let (better, out) = run("better", "1e-3", "10");
    assert!(better < before - 0.3, "{better} after ten steps, {before} before");
    let saved = score(&out.join("checkpoint-000010"));
    assert!((saved - better).abs() < 2e-4, "{saved}, validation {better}");
    // And another run goes on from it, by its folder.
    let (train, more) = (train.to_str().unwrap().to_owned(), folder.path().join("more"));
    let arguments = ["train", "--json", "--task", "text", "--length", "32", "--batch", "1", "--steps", "1", "--text"];
    mamba().args(arguments).arg(&train).arg("--from").arg(&out).arg("--out").arg(&more).assert().success();
    // What began with a model is resumed as any other run: here there is nothing left to do.
    mamba().args(["train", "--resume", "--text"]).arg(&train).arg("--out").arg(&more).assert().success();
}

#[test]
fn what_cannot_be_begun_with_is_said_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (train, _) = texts(folder.path());
    let text = ["--task", "text", "--text", train.to_str().unwrap()];
    let golden = repository("tests/golden/checkpoints");
    let said = refused(&text, &golden.join("f16"), &out);
    assert!(said.contains("--tokenizer is needed"), "{said}");
    let said = refused(&text, &golden.join("falcon-untied"), &out);
    assert!(said.contains("falcon_mamba") && said.contains("cannot be trained"), "{said}");
    let said = refused(&text, &folder.path().join("nowhere"), &out);
    assert!(said.contains("nowhere"), "{said}");
    for shape in [&["--layers", "3"][..], &["--vocab", "100"], &["--lti"], &["--dt-min", "0.1"], &["--resume"]] {
        let said = refused(&[&["--task", "induction-heads"], shape].concat(), &golden.join("f16"), &out);
        assert!(said.contains("cannot be used with"), "{said}");
    }
    // A quantised model is widened.
    let small = folder.path().join("q8");
    mamba().arg("quantize").arg(golden.join("f16")).arg(&small).args(["--to", "q8"]).assert().success();
    assert!(Pretrained::new(&Checkpoint::open(&small).unwrap()).is_ok());
    // A synthetic task has the model's vocabulary.
    let arguments = ["--length", "16", "--batch", "2", "--steps", "1", "--validation-sequences", "2", "--json"];
    let report = json(
        mamba()
            .args(["train", "--task", "induction-heads"])
            .args(arguments)
            .arg("--from")
            .arg(golden.join("f16"))
            .arg("--out")
            .arg(&out),
    );
    assert_eq!(report["steps"], 1);
    let settings = mamba_wgpu::train::read_settings(&out).unwrap();
    assert!(matches!(settings.task, Task::InductionHeads { vocab_size: 201, .. }));
    assert_eq!(
        settings.schedule.peak,
        Settings::preset(TaskKind::InductionHeads, Preset::Paper, 0).schedule.peak * 0.1
    );
}
