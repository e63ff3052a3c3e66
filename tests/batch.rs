//! Texts in a batch are what they would be alone, whatever the others do: on both backends, for every golden checkpoint.

mod common;

use common::{assert_close, load, Golden, On, Rng};
use mamba_wgpu::generate::SamplingParams;
use mamba_wgpu::model::{Batch, LanguageModel, Scan};
use pollster::block_on;

/// Absolute, on logits of standard deviation 1.6.
const LOGITS: f64 = 1e-4;
const SLOTS: usize = 5;

fn quiet(_: usize, _: usize) {}

/// A text to come: a prompt, tokens that follow it one by one, and how the rest is drawn.
struct Script {
    prompt: Vec<u32>,
    forced: Vec<u32>,
    params: SamplingParams,
    drawn: usize,
}

impl Script {
    fn random(i: u64, vocab_size: u32, rng: &mut Rng) -> Self {
        let mut tokens = |n: u64| (0..n).map(|_| rng.below(vocab_size as usize) as u32).collect::<Vec<_>>();
        let (prompt, forced) = (tokens(1 + i * 7 % 19), tokens(i % 4));
        let params = match i % 3 {
            0 => SamplingParams::default(),
            1 => SamplingParams { temperature: 0.7, seed: i, ..SamplingParams::default() },
            _ => SamplingParams { temperature: 1.1, top_k: 9, top_p: 0.9, repetition_penalty: 1.3, seed: i, min_p: 0.01 },
        };
        Self { prompt, forced, params, drawn: 2 + (i * 5 % 9) as usize }
    }

    /// The text so far when drawing begins.
    fn context(&self) -> Vec<u32> {
        [&self.prompt[..], &self.forced].concat()
    }
}

/// What comes of a script: the tokens drawn, and the last logits.
type Outcome = (Vec<u32>, Vec<f32>);

async fn alone(model: &LanguageModel, script: &Script) -> Outcome {
    let mut session = model.session().unwrap();
    session.prefill(&script.prompt, &mut quiet).await.unwrap();
    for &token in &script.forced {
        session.step(token).await.unwrap();
    }
    session.begin_sampling(&script.params, &script.context()).unwrap();
    let mut drawn = Vec::new();
    for _ in 0..script.drawn {
        let token = session.sample().await.unwrap();
        session.step(token).await.unwrap();
        drawn.push(token);
    }
    (drawn, session.logits().await.unwrap())
}

/// A script at work in a slot.
struct Running {
    script: usize,
    forced: usize,
    drawn: Vec<u32>,
}

/// All scripts in one batch: they join when a slot is free and leave when they are done; which of them take part in a step is chance.
async fn together(batch: &mut Batch, scripts: &[Script], rng: &mut Rng) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = scripts.iter().map(|_| None).collect();
    let mut slots: Vec<Option<Running>> = (0..batch.slots()).map(|_| None).collect();
    let mut next = 0;
    while outcomes.iter().any(Option::is_none) {
        for (slot, running) in slots.iter_mut().enumerate() {
            if running.is_none() && next < scripts.len() && rng.below(3) > 0 {
                batch.reset(slot).unwrap();
                batch.prefill(slot, &scripts[next].prompt, &mut quiet).await.unwrap();
                batch.begin_sampling(slot, &scripts[next].params, &scripts[next].context()).unwrap();
                *running = Some(Running { script: next, forced: 0, drawn: Vec::new() });
                next += 1;
            }
        }
        let (mut forced, mut drawn) = (Vec::new(), Vec::new());
        for (slot, running) in slots.iter_mut().enumerate().filter(|_| rng.below(4) > 0) {
            let Some(running) = running else { continue };
            match scripts[running.script].forced.get(running.forced) {
                Some(&token) => {
                    forced.push((slot, token));
                    running.forced += 1;
                }
                None => drawn.push(slot),
            }
        }
        if rng.below(2) == 0 {
            drawn.reverse();
        }
        if !forced.is_empty() {
            batch.step(&forced).await.unwrap();
        }
        if drawn.is_empty() {
            continue;
        }
        let tokens = batch.advance(&drawn).await.unwrap();
        for (&slot, token) in drawn.iter().zip(tokens) {
            let Some(running) = &mut slots[slot] else { continue };
            running.drawn.push(token.expect("finite logits"));
            if running.drawn.len() == scripts[running.script].drawn {
                let logits = batch.logits(slot).await.unwrap();
                let Some(done) = slots[slot].take() else { continue };
                outcomes[done.script] = Some((done.drawn, logits));
            }
        }
    }
    outcomes.into_iter().flatten().collect()
}

async fn check(what: &str, model: &LanguageModel, slots: usize) -> f64 {
    let rng = &mut Rng(77);
    let vocab_size = model.config().vocab_size as u32;
    let scripts: Vec<_> = (0..11).map(|i| Script::random(i, vocab_size, rng)).collect();
    let mut batch = model.batch(slots).unwrap();
    let got = together(&mut batch, &scripts, rng).await;
    let mut worst = 0.0f64;
    for (i, (script, (tokens, logits))) in scripts.iter().zip(&got).enumerate() {
        let (want_tokens, want_logits) = alone(model, script).await;
        assert_eq!(tokens, &want_tokens, "{what}: tokens of text {i}");
        let what = format!("{what}: logits of text {i}");
        worst = worst.max(assert_close(&what, logits, &want_logits, LOGITS, 0.0));
    }
    worst
}

fn check_all(on: On, goldens: Vec<Golden>) {
    block_on(async {
        let backend = on.open().await;
        for golden in goldens {
            let model = load(&golden.checkpoint(), &backend, Scan::Fused, 64).await;
            let worst = check(&format!("{} on {on:?}", golden.name), &model, SLOTS).await;
            println!("{} on {on:?}: {worst:.1e}", golden.name);
        }
    });
}

#[test]
fn cpu_texts_are_what_they_are_alone() {
    check_all(On::Cpu, Golden::all());
}
#[test]
fn gpu_texts_are_what_they_are_alone() {
    check_all(On::Gpu, Golden::all());
}
#[test]
fn mamba2_cpu_texts_are_what_they_are_alone() {
    check_all(On::Cpu, Golden::mamba2());
}
#[test]
fn mamba2_gpu_texts_are_what_they_are_alone() {
    check_all(On::Gpu, Golden::mamba2());
}
