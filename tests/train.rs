//! Training: gradients and steps against PyTorch, runs that are cut off, a small model that learns.

mod common;

use common::{compare, repository};
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::train::random::Purpose;
use mamba_wgpu::train::{
    Batch, Data, Decay, NamedTensor, Optimiser, Preset, Saved, Schedule, Settings, Shape, Task, TaskKind, Trained,
    Trainer, TrainerState, IGNORE,
};
use pollster::block_on;
use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::BTreeMap;

fn gpu() -> Gpu {
    block_on(Gpu::new(&GpuOptions::default())).expect("these tests need an adapter (Mesa's lavapipe is one)")
}

/// tests/golden/training/NAME.json, by make_training.py.
#[derive(Deserialize)]
struct Expected {
    shape: Shape,
    vocab_size: usize,
    batch: usize,
    length: usize,
    optimiser: Optimiser,
    schedule: Schedule,
    tokens: Vec<Vec<u32>>,
    targets: Vec<Vec<i64>>,
    losses: Vec<f64>,
    norms: Vec<f64>,
}

struct Golden {
    name: &'static str,
    expected: Expected,
    tensors: Vec<NamedTensor>,
}

impl Golden {
    fn named(name: &'static str) -> Self {
        let folder = repository("tests/golden/training");
        let json = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| NamedTensor {
            name: name.into(),
            shape: view.shape().to_vec(),
            values: view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        };
        let tensors = file.iter().map(tensor).collect();
        Self { name, expected: serde_json::from_slice(&json).unwrap(), tensors }
    }

    /// The tensors whose names begin so, without that.
    fn part(&self, prefix: &str) -> Vec<NamedTensor> {
        let of =
            |t: &NamedTensor| t.name.strip_prefix(prefix).map(|name| NamedTensor { name: name.into(), ..t.clone() });
        self.tensors.iter().filter_map(of).collect()
    }

    fn settings(&self, accumulate: usize) -> Settings {
        let e = &self.expected;
        Settings {
            task: Task::Text { length: e.length, vocab_size: e.vocab_size },
            shape: e.shape.clone(),
            batch: e.batch,
            accumulate,
            label_smoothing: 0.0,
            optimiser: e.optimiser.clone(),
            schedule: e.schedule.clone(),
            seed: 0,
            origin: None,
            text: None,
            validation_text: None,
        }
    }

    /// A step's batch (counted from 0), in parts.
    fn batches(&self, step: usize, accumulate: usize) -> Vec<Batch> {
        let e = &self.expected;
        let (sequences, rows) = (e.batch / accumulate, e.batch / accumulate * e.length);
        let targets: Vec<u32> = e.targets[step].iter().map(|&t| u32::try_from(t).unwrap_or(IGNORE)).collect();
        let parts = e.tokens[step].chunks(rows).zip(targets.chunks(rows));
        let batch =
            |(tokens, targets): (&[u32], &[u32])| Batch::new(sequences, e.length, tokens.to_vec(), targets.to_vec());
        parts.map(batch).collect()
    }

    fn trainer(&self, gpu: &Gpu, accumulate: usize) -> Trainer {
        let weights = self.part("weight.");
        Trainer::with_parameters(gpu, &self.settings(accumulate), self.expected.length, &weights).unwrap()
    }
}

fn by_name(tensors: Vec<NamedTensor>) -> BTreeMap<String, Vec<f32>> {
    tensors.into_iter().map(|t| (t.name, t.values)).collect()
}

/// Relative to a tensor's largest value.
fn compare_tensors(got: Vec<NamedTensor>, want: Vec<NamedTensor>, tolerance: f64) -> Result<(), String> {
    let (got, want) = (by_name(got), by_name(want));
    if got.keys().ne(want.keys()) {
        return Err(format!("{:?} instead of {:?}", got.keys(), want.keys()));
    }
    for (name, want) in &want {
        let largest = want.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        compare(&got[name], want, tolerance * f64::from(largest), 0.0).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

#[test]
fn gradients_of_a_model_are_pytorchs() {
    let gpu = gpu();
    for name in ["selective", "lti"] {
        let golden = Golden::named(name);
        // Whole, and in micro-batches.
        for accumulate in [1, 2] {
            let mut trainer = golden.trainer(&gpu, accumulate);
            trainer.submit(golden.batches(0, accumulate)).unwrap();
            let record = block_on(trainer.records()).unwrap()[0];
            let got = block_on(trainer.gradients()).unwrap();
            compare_tensors(got.clone(), golden.part("gradient."), 1e-3).unwrap_or_else(|e| panic!("{name}: {e}"));
            let losses = [(f64::from(record.loss), golden.expected.losses[0])];
            let norms = [(f64::from(record.gradient_norm), golden.expected.norms[0])];
            for (got, want) in losses.into_iter().chain(norms) {
                assert!((got / want - 1.0).abs() < 1e-3, "{name}: {got} instead of {want}");
            }
            // The comparison can fail: of each tensor a value that is off, or NaN.
            for i in 0..got.len() {
                for spoilt in
                    [got[i].values[0] + 0.01 * got[i].values.iter().fold(0.0f32, |a, x| a.max(x.abs())), f32::NAN]
                {
                    let mut got = got.clone();
                    got[i].values[0] = spoilt;
                    assert!(compare_tensors(got, golden.part("gradient."), 1e-3).is_err());
                }
            }
        }
    }
}

#[test]
fn ten_steps_are_pytorchs() {
    let gpu = gpu();
    for name in ["selective", "lti"] {
        let golden = Golden::named(name);
        let mut trainer = golden.trainer(&gpu, 2);
        for step in 0..10 {
            trainer.submit(golden.batches(step, 2)).unwrap();
        }
        let records = block_on(trainer.records()).unwrap();
        for (record, (loss, norm)) in records.iter().zip(golden.expected.losses.iter().zip(&golden.expected.norms)) {
            let what = format!("{}, step {}", golden.name, record.step);
            assert!((f64::from(record.loss) - loss).abs() < 1e-3, "{what}: loss {} instead of {loss}", record.loss);
            let ratio = f64::from(record.gradient_norm) / norm;
            assert!((ratio - 1.0).abs() < 5e-3, "{what}: norm {} instead of {norm}", record.gradient_norm);
        }
        assert_eq!(records.len(), 10);
        let state = block_on(trainer.state()).unwrap();
        assert_eq!(state.step, 10);
        // Not within the gradients' tolerance: AdamW divides small gradients by their own size.
        compare_tensors(state.parameters, golden.part("after."), 5e-3).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// A model of some thousand parameters.
fn tiny(lti: bool) -> Settings {
    Settings {
        task: Task::InductionHeads { length: 12, vocab_size: 6, occurrences: 3 },
        shape: Shape { layer: Trained { d_state: 4, lti, ..Trained::default() }, ..Shape::new(2, 16) },
        batch: 4,
        accumulate: 2,
        label_smoothing: 0.0,
        optimiser: Optimiser { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 },
        schedule: Schedule { peak: 3e-3, warmup: 3, steps: 20, decay: Decay::Cosine, floor: 0.1 },
        seed: 5,
        origin: None,
        text: None,
        validation_text: None,
    }
}

fn steps(trainer: &mut Trainer, until: u64) -> Vec<f32> {
    let settings = trainer.settings().clone();
    while trainer.step() < until {
        let batches = Trainer::batches(&settings, &settings.task, trainer.step() + 1);
        trainer.submit(batches).unwrap();
    }
    block_on(trainer.records()).unwrap().iter().map(|r| r.loss).collect()
}

/// Bit for bit.
fn same(a: TrainerState, b: TrainerState) {
    assert_eq!(a.step, b.step);
    for (side, a, b) in [("value", a.parameters, b.parameters), ("m", a.m, b.m), ("v", a.v, b.v)] {
        let (a, b) = (by_name(a), by_name(b));
        assert!(a.keys().eq(b.keys()), "{side}");
        for (name, a) in &a {
            let differ = a.iter().zip(&b[name]).filter(|(x, y)| x.to_bits() != y.to_bits());
            assert_eq!((differ.count(), a.len()), (0, b[name].len()), "{side} of {name}");
        }
    }
}

#[test]
fn a_resumed_run_is_the_run_that_was_not_interrupted() {
    let gpu = gpu();
    for lti in [false, true] {
        let settings = tiny(lti);
        let mut whole = Trainer::new(&gpu, &settings, &settings.task).unwrap();
        let mut losses = steps(&mut whole, 5);
        let then = block_on(whole.state()).unwrap();
        losses.extend(steps(&mut whole, 12));
        let folder = tempfile::tempdir().unwrap();
        let mut first = Trainer::new(&gpu, &settings, &settings.task).unwrap();
        assert_eq!(steps(&mut first, 5), losses[..5]);
        let state = block_on(first.state()).unwrap();
        same(then, state.clone());
        let saved = Saved { settings: &settings, state: &state, sidecars: &Default::default(), best: None };
        let path = saved.write(folder.path(), "checkpoint").unwrap();
        let (state, _) = Saved::read(&path).unwrap();
        let mut second = Trainer::resume(&gpu, &settings, &settings.task, &state).unwrap();
        assert_eq!(steps(&mut second, 12), losses[5..]);
        let (whole, second) = (block_on(whole.state()).unwrap(), block_on(second.state()).unwrap());
        same(whole, second);
        // An LTI model is no model that others can run, and says so.
        let opened = mamba_wgpu::model::Checkpoint::open(&path);
        match lti {
            false => assert!(opened.unwrap().warnings().is_empty()),
            true => assert!(opened.unwrap_err().to_string().contains("mamba_lti")),
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_tensor_and_keeps_the_parameters() {
    let gpu = gpu();
    let settings = tiny(false);
    let mut trainer = Trainer::new(&gpu, &settings, &settings.task).unwrap();
    steps(&mut trainer, 3);
    let mut state = block_on(trainer.state()).unwrap();
    // A layer whose output overflows.
    let spoilt = "backbone.layers.1.mixer.in_proj.weight";
    let weight = state.parameters.iter_mut().find(|t| t.name == spoilt).unwrap();
    weight.values.iter_mut().for_each(|x| *x *= 1e38);
    let mut trainer = Trainer::resume(&gpu, &settings, &settings.task, &state).unwrap();
    let settings = trainer.settings().clone();
    for step in 4..7 {
        trainer.submit(Trainer::batches(&settings, &settings.task, step)).unwrap();
    }
    let error = block_on(trainer.records()).unwrap_err().to_string();
    assert!(error.contains("step 4") && error.contains("layers.1"), "{error}");
    let kept = block_on(trainer.state()).unwrap();
    same(kept, state);
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let gpu = gpu();
    let settings = tiny(false);
    let mut trainer = Trainer::new(&gpu, &settings, &settings.task).unwrap();
    let good = || Trainer::batches(&settings, &settings.task, 1);
    assert!(trainer.submit(good()[..1].to_vec()).is_err());
    let mut bad = good();
    bad[1].tokens[3] = 6;
    assert!(trainer.submit(bad).unwrap_err().to_string().contains('6'));
    let longer = settings.task.clone().with_length(13);
    assert!(trainer.submit(Trainer::batches(&settings, &longer, 1)).is_err());
    while trainer.room() > 0 {
        trainer.submit(good()).unwrap();
    }
    assert!(trainer.submit(good()).is_err());
    assert_eq!(block_on(trainer.records()).unwrap().len(), 64);
    trainer.submit(good()).unwrap();
}

/// The promise: induction heads learned on a software GPU, from a fixed seed, and longer than it was trained on.
#[test]
fn a_tiny_model_learns_induction_heads() {
    let gpu = gpu();
    let mut settings = Settings::preset(TaskKind::InductionHeads, Preset::Tiny, 0);
    settings.schedule.steps = 120;
    let mut trainer = Trainer::new(&gpu, &settings, &settings.task).unwrap();
    let judge = |trainer: &Trainer, task: &Task| {
        let batch = task.batch(settings.seed, Purpose::Validation, 0, 64);
        block_on(block_on(async { trainer.evaluation(64, task.length()) }).unwrap().evaluate(&batch)).unwrap()
    };
    assert!(judge(&trainer, &settings.task).accuracy() < 0.5);
    let mut last = Vec::new();
    while trainer.step() < settings.schedule.steps {
        let until = (trainer.step() + 50).min(settings.schedule.steps);
        last = steps(&mut trainer, until);
        eprintln!("step {}: loss {:?}", trainer.step(), last.last());
    }
    assert!(last.iter().all(|&loss| loss < 0.2), "{last:?}");
    let seen = judge(&trainer, &settings.task);
    let longer = judge(&trainer, &settings.task.clone().with_length(48));
    assert!(seen.accuracy() >= 0.99 && seen.counted == 192, "{} of {}", seen.correct, seen.counted);
    assert!(longer.accuracy() >= 0.95, "{} of {}", longer.correct, longer.counted);

    // One sequence: what it gives the answer is what it is judged by, and makes a distribution.
    let once = settings.task.asked_once(48);
    let (tape, batch) = (trainer.evaluation(1, 48).unwrap(), once.judged(settings.seed, 7, 1));
    let e = block_on(tape.evaluate(&batch)).unwrap();
    let shares = block_on(tape.probabilities(&batch.tokens)).unwrap();
    let answer = batch.targets[47] as usize;
    assert_eq!((e.counted, shares.len()), (1, 8));
    assert!((f64::from(shares[answer]).ln() + e.nll_sum).abs() < 1e-4, "{shares:?} and {}", e.nll_sum);
    assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-5 && shares[answer] > 0.5, "{shares:?}");
    assert!(block_on(tape.probabilities(&batch.tokens[1..])).is_err());
    assert!(block_on(tape.probabilities(&[8; 48])).is_err());
}
