//! Texts in a batch are what they would be alone, whatever the others do: on both backends, for every golden checkpoint.

mod common;

use common::{assert_close, load, Golden, On, Rng};
use mamba_wgpu::generate::{BatchGenerator, Event, FinishReason, GenerateOptions, Generator, SamplingParams};
use mamba_wgpu::gpu::Variant;
use mamba_wgpu::model::{embedded, Backend, Batch, LanguageModel, Scan};
use pollster::block_on;
use std::sync::atomic::Ordering;

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
            _ => {
                SamplingParams { temperature: 1.1, top_k: 9, top_p: 0.9, repetition_penalty: 1.3, seed: i, min_p: 0.01 }
            }
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

/// With pages of keys and values: of one kind of layers, of several, side by side, with a window; and with experts.
#[test]
fn hybrid_texts_are_what_they_are_alone() {
    let names = ["llama", "granite-hub", "falcon-h1", "nemotron-h-moe", "mistral-window", "granite-moe-hub"];
    check_all(On::Gpu, names.map(Golden::hybrid_named).into());
    check_all(On::Cpu, names[1..4].iter().map(|name| Golden::hybrid_named(name)).collect());
}

/// States go in and out, and a text is brought to another slot.
#[test]
fn states_are_a_sessions() {
    block_on(async {
        for on in [On::Cpu, On::Gpu] {
            for name in ["odd-dims", "bf16"] {
                let model = load(&Golden::named(name).checkpoint(), &on.open().await, Scan::Fused, 64).await;
                let (mut session, mut batch) = (model.session().unwrap(), model.batch(3).unwrap());
                session.prefill(&[5, 1, 4], &mut quiet).await.unwrap();
                let state = session.state().await.unwrap();
                batch.prefill(2, &[5, 1, 4], &mut quiet).await.unwrap();
                assert_eq!(batch.state(2).await.unwrap(), state, "{name} on {on:?}");
                assert_eq!(batch.logits(2).await.unwrap(), session.logits().await.unwrap());

                batch.fork(2, 0).unwrap();
                batch.set_state(1, &state).unwrap();
                assert_eq!(batch.logits(0).await.unwrap(), session.logits().await.unwrap());
                assert!(batch.logits(1).await.is_err(), "there are none before the next token");
                batch.step(&[(1, 7), (0, 7), (2, 3)]).await.unwrap();
                session.step(7).await.unwrap();
                let want = session.logits().await.unwrap();
                for slot in [0, 1] {
                    assert_close("after a state", &batch.logits(slot).await.unwrap(), &want, LOGITS, 0.0);
                }
                // One text by itself goes another way than several.
                batch.step(&[(1, 2)]).await.unwrap();
                session.step(2).await.unwrap();
                let want = session.logits().await.unwrap();
                assert_close("one alone", &batch.logits(1).await.unwrap(), &want, LOGITS, 0.0);
                batch.reset(1).unwrap();
                assert!(batch.state(1).await.unwrap().ssm.iter().all(|x| *x == 0.0));
            }
        }
    });
}

/// A text whose logits are NaN gets no token; the others go on as if it were not there.
#[test]
fn a_text_gone_wrong_disturbs_nobody() {
    block_on(async {
        for on in [On::Cpu, On::Gpu] {
            let model = load(&Golden::named("bf16").checkpoint(), &on.open().await, Scan::Fused, 64).await;
            let mut batch = model.batch(3).unwrap();
            let mut bad = model.session().unwrap().state().await.unwrap();
            bad.ssm.fill(f32::NAN);
            batch.set_state(1, &bad).unwrap();
            for slot in 0..3 {
                batch.prefill(slot, &[3, 9], &mut quiet).await.unwrap();
            }
            let warm = SamplingParams { temperature: 0.9, top_p: 0.9, seed: 4, ..SamplingParams::default() };
            batch.begin_sampling(2, &warm, &[3, 9]).unwrap();
            let mut session = model.session().unwrap();
            session.prefill(&[3, 9], &mut quiet).await.unwrap();
            let mut other = session.try_clone().unwrap();
            other.begin_sampling(&warm, &[3, 9]).unwrap();
            for _ in 0..4 {
                let want = [session.sample().await.ok(), None, other.sample().await.ok()];
                assert_eq!(batch.advance(&[0, 1, 2]).await.unwrap(), want, "{on:?}");
                session.step(want[0].unwrap()).await.unwrap();
                other.step(want[2].unwrap()).await.unwrap();
            }
            // The slot is as good as new for the next text.
            batch.reset(1).unwrap();
            batch.prefill(1, &[3, 9], &mut quiet).await.unwrap();
            let first = batch.advance(&[1]).await.unwrap();
            assert!(first[0].is_some(), "{on:?}");
        }
    });
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    block_on(async {
        for on in [On::Cpu, On::Gpu] {
            let model = load(&Golden::named("bf16").checkpoint(), &on.open().await, Scan::Fused, 64).await;
            for slots in [0, model.most_slots() + 1] {
                let error = model.batch(slots).err().unwrap().to_string();
                assert!(error.contains(&format!("{slots} texts at once")), "{error}");
            }
            let mut batch = model.batch(2).unwrap();
            batch.prefill(0, &[3], &mut quiet).await.unwrap();
            let before = (batch.logits(0).await.unwrap(), batch.state(0).await.unwrap());
            let vocab_size = model.config().vocab_size as u32;
            let errors = [
                batch.step(&[(2, 1)]).await.err(),
                batch.step(&[(0, 1), (0, 2)]).await.err(),
                batch.step(&[(0, 1), (1, vocab_size)]).await.err(),
                batch.step(&[]).await.err(),
                batch.advance(&[0, 1]).await.err(),
                batch.advance(&[]).await.err(),
                batch.prefill(9, &[1], &mut quiet).await.err(),
                batch.prefill(0, &[vocab_size], &mut quiet).await.err(),
                batch.fork(0, 0).err(),
                batch.reset(2).err(),
                batch.begin_sampling(0, &SamplingParams { top_p: 2.0, ..SamplingParams::default() }, &[]).err(),
            ];
            let words: Vec<_> = errors.iter().map(|error| error.as_ref().map(ToString::to_string)).collect();
            assert!(words.iter().all(Option::is_some), "{on:?}: {words:?}");
            assert_eq!(words[0].as_deref(), Some("slot 2 is out of range: the batch has 2, counted from 0"));
            assert_eq!(words[1].as_deref(), Some("slot 0 is named twice: a step takes one token of a text"));
            let after = (batch.logits(0).await.unwrap(), batch.state(0).await.unwrap());
            assert_eq!(before, after, "{on:?}");
        }
    });
}

/// A device on which the kernels for several texts are wrong takes them one after the other.
#[test]
fn texts_go_apart_where_batches_are_switched_off() {
    block_on(async {
        let Backend::Gpu(gpu) = On::Gpu.open().await else { return };
        gpu.switch_off(Variant::Batch);
        let model = load(&Golden::named("bf16").checkpoint(), &Backend::Gpu(gpu), Scan::Fused, 64).await;
        assert_eq!(check("apart", &model, SLOTS).await, 0.0);
    });
}

/// Many texts through few slots: prompts of all lengths, read by themselves or by steps, ended by length, stop strings and from outside.
#[test]
fn generated_texts_are_a_generators() {
    block_on(async {
        let checkpoint = embedded::checkpoint().unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap().unwrap();
        let prompts = ["Emma", "It is a truth universally acknowledged, that", "KING", "Mr. Darcy", "a", "She said"];
        let options = |i: usize| {
            let warm = SamplingParams { temperature: 0.8, top_p: 0.9, seed: i as u64, ..SamplingParams::default() };
            let params = if i.is_multiple_of(2) { SamplingParams::default() } else { warm };
            let stop = if i == 3 { vec!["e".into()] } else { Vec::new() };
            GenerateOptions { max_tokens: 3 + 2 * i, params, stop, prefill_chunk: 4, ..GenerateOptions::default() }
        };
        for on in [On::Cpu, On::Gpu] {
            let model = load(&checkpoint, &on.open().await, Scan::Fused, 64).await;
            let mut wanted = Vec::new();
            for (i, prompt) in prompts.iter().enumerate() {
                let tokens = tokenizer.encode(prompt).unwrap();
                let mut text = Generator::new(model.session().unwrap(), &tokenizer, &tokens, options(i)).unwrap();
                let mut pieces = Vec::new();
                while let Some(piece) = text.next().await.unwrap() {
                    pieces.push(piece);
                }
                wanted.push((pieces, text.finish_reason().unwrap(), text.stats()));
            }
            for slots in [1, 4, 9] {
                let mut generator = BatchGenerator::new(model.batch(slots).unwrap());
                // One whose token the model does not have, and one that was called off: they are nobody else's trouble.
                let off = GenerateOptions::default();
                off.cancel.store(true, Ordering::Relaxed);
                let lost = generator.push(&tokenizer, &[1 << 30], GenerateOptions::default()).unwrap();
                for (i, prompt) in prompts.iter().enumerate() {
                    let tokens = tokenizer.encode(prompt).unwrap();
                    assert_eq!(generator.push(&tokenizer, &tokens, options(i)).unwrap(), i + 1);
                }
                let called_off = generator.push(&tokenizer, &[5], off).unwrap();
                let mut got: Vec<_> = prompts.iter().map(|_| (Vec::new(), None)).collect();
                let mut failed = 0;
                loop {
                    let events = generator.next().await.unwrap();
                    if events.is_empty() {
                        break;
                    }
                    for (number, event) in events {
                        match event {
                            Event::Begun | Event::Read => {}
                            Event::Piece(piece) => got[number - 1].0.push(piece),
                            Event::End(finish, stats) if number == called_off => {
                                assert_eq!((finish, stats.prompt_tokens), (FinishReason::Cancelled, 0));
                            }
                            Event::End(finish, stats) => got[number - 1].1 = Some((finish, stats)),
                            Event::Failed(error) => {
                                assert!(number == lost && error.to_string().contains("1073741824"), "{error}");
                                failed += 1;
                            }
                        }
                    }
                }
                assert_eq!((failed, generator.unfinished()), (1, 0));
                for (i, ((pieces, over), (wanted, finish, stats))) in got.iter().zip(&wanted).enumerate() {
                    assert_eq!(pieces, wanted, "{on:?}, {slots} slots, text {i}");
                    assert_eq!(*over, Some((*finish, *stats)), "{on:?}, {slots} slots, text {i}");
                }
            }
        }
    });
}

/// Windows are scored as texts by themselves, whether several go through together or not.
#[test]
fn windows_are_scored_as_one_by_one() {
    block_on(async {
        let rng = &mut Rng(5);
        for on in [On::Cpu, On::Gpu] {
            let backend = on.open().await;
            for golden in
                [Golden::named("odd-dims"), Golden::named("falcon-untied")].into_iter().chain(Golden::mamba2())
            {
                let model = load(&golden.checkpoint(), &backend, Scan::Fused, 400).await;
                let vocab_size = model.config().vocab_size;
                let mut tokens = || (0..700).map(|_| rng.below(vocab_size) as u32).collect::<Vec<_>>();
                let (tokens, targets) = (tokens(), tokens());
                let mut session = model.session().unwrap();
                for window in [64, 130, 33, 1000] {
                    let what = format!("{} on {on:?}, windows of {window}", golden.name);
                    let (mut done, mut last) = (0, 0);
                    let mut progress = |now: usize, all: usize| {
                        assert!(now > last && all == 700, "{what}: {now} after {last} of {all}");
                        last = now;
                        done += 1;
                    };
                    let got = session.score_windows(&tokens, Some(&targets), window, &mut progress).await.unwrap();
                    assert_eq!((last, done > 0), (700, true));
                    assert!(session.logits().await.is_err(), "the session is at the begin of a text");
                    let mut want = (Vec::new(), Vec::new());
                    for (tokens, targets) in tokens.chunks(window).zip(targets.chunks(window)) {
                        session.reset();
                        let scores = session.score(tokens, Some(targets), &mut quiet).await.unwrap();
                        want.0.extend(scores.argmax);
                        want.1.extend(scores.nll);
                    }
                    assert_close(&what, &got.nll, &want.1, LOGITS, 0.0);
                    let same = got.argmax.iter().zip(&want.0).filter(|(a, b)| a == b).count();
                    assert!(same >= 695, "{what}: {same} of 700 tokens");
                }
            }
        }
    });
}
