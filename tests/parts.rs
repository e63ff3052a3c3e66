//! Models whose layers lie on several backends are what they are on one: on the CPU and a GPU, and on two GPUs (two devices of one
//! adapter), cut before every layer.

mod common;

use common::{argmax, assert_close, assert_state, load, Golden, On, WHOLE};
use mamba_wgpu::explain::{explain, ExplainOptions};
use mamba_wgpu::generate::{SamplingParams, Text};
use mamba_wgpu::model::{
    Backend, Batch, Checkpoint, LanguageModel, ModelId, ModelOptions, Part, SavedState, Scan, Session,
};
use pollster::block_on;

/// Absolute, on logits, against the CPU's.
const LOGITS: f64 = 1e-4;
/// Absolute and relative, on states.
const STATE: (f64, f64) = (1e-4, 5e-5);

fn quiet(_: usize, _: usize) {}

/// A model in two or more parts, of so many layers each.
async fn in_parts(checkpoint: &Checkpoint, parts: &[(&Backend, usize)], chunk: usize) -> LanguageModel {
    let parts: Vec<_> = parts.iter().map(|&(backend, layers)| Part { backend: backend.clone(), layers }).collect();
    let options = ModelOptions { chunk, ..Default::default() };
    LanguageModel::load_parts(checkpoint, &parts, options, &mut |_, _| {}).await.unwrap()
}

/// The CPU, and two devices.
async fn backends() -> [Backend; 3] {
    [Backend::Cpu, On::Gpu.open().await, On::Gpu.open().await]
}

fn long(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 31 + i / 7) % vocab_size as u32).collect()
}

/// Tokens with what is likeliest after each, -log p of each, the last logits.
type Said = (Vec<u32>, Vec<f32>, Vec<f32>);

async fn scored(model: &LanguageModel, tokens: &[u32]) -> Said {
    let targets: Vec<u32> = tokens[1..].iter().copied().chain([0]).collect();
    let mut session = model.session().unwrap();
    let scores = session.score(tokens, Some(&targets), &mut quiet).await.unwrap();
    (scores.argmax, scores.nll, session.logits().await.unwrap())
}

/// The likeliest tokens behind the last logits, by steps.
async fn greedy(session: &mut Session, count: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(argmax(&session.logits().await.unwrap()));
        session.step(tokens[tokens.len() - 1]).await.unwrap();
    }
    tokens
}

/// Every cut of a golden's layers in two, and all layers apart, between these backends, against the model on the CPU.
fn every_cut(goldens: Vec<Golden>) {
    block_on(async {
        let [cpu, gpu, other] = backends().await;
        for golden in goldens {
            let checkpoint = golden.checkpoint();
            let layers = checkpoint.config().n_layer();
            let whole = load(&checkpoint, &cpu, Scan::default(), WHOLE).await;
            let mut splits: Vec<Vec<(&Backend, usize)>> = Vec::new();
            for cut in 1..layers {
                for (first, last) in [(&cpu, &gpu), (&gpu, &other), (&gpu, &cpu)] {
                    splits.push(vec![(first, cut), (last, layers - cut)]);
                }
            }
            splits.push((0..layers).map(|layer| ([&cpu, &gpu, &other][layer % 3], 1)).collect());
            for (i, split) in splits.iter().enumerate() {
                let s = &golden.expected.sequences[if i % 2 == 0 { 0 } else { 2 }];
                let want = scored(&whole, &s.tokens).await;
                let mut reference = whole.session().unwrap();
                reference.prefill(&s.tokens, &mut quiet).await.unwrap();
                let state = reference.state().await.unwrap();
                // All of them with the CPU before a GPU; else by turns.
                let chunks = [1, 13, WHOLE];
                let chunks = if i % 3 == 0 { &chunks[..] } else { &chunks[i / 3 % 3..][..1] };
                for &chunk in chunks {
                    let what =
                        format!("{} in {:?} by {chunk}", golden.name, split.iter().map(|s| s.1).collect::<Vec<_>>());
                    let model = in_parts(&checkpoint, split, chunk).await;
                    let got = scored(&model, &s.tokens).await;
                    assert_eq!(got.0, want.0, "{what}: argmax");
                    assert_close(&format!("{what}: nll"), &got.1, &want.1, LOGITS, 0.0);
                    assert_close(&format!("{what}: logits after score"), &got.2, &want.2, LOGITS, 0.0);
                    let mut session = model.session().unwrap();
                    session.prefill(&s.tokens, &mut quiet).await.unwrap();
                    assert_close(&what, &session.logits().await.unwrap(), &want.2, LOGITS, 0.0);
                    assert_state(&what, &session.state().await.unwrap(), &state, STATE);
                    assert_eq!(greedy(&mut session, s.greedy.len()).await, s.greedy, "{what}: greedy");
                }
                // By steps alone.
                let model = in_parts(&checkpoint, split, WHOLE).await;
                let mut session = model.session().unwrap();
                for &token in &s.tokens {
                    session.step(token).await.unwrap();
                }
                let what = format!("{} by steps", golden.name);
                assert_close(&what, &session.logits().await.unwrap(), &want.2, LOGITS, 0.0);
                assert_state(&what, &session.state().await.unwrap(), &state, STATE);
            }
        }
    });
}

fn hybrids(names: &[&str]) -> Vec<Golden> {
    names.iter().map(|name| Golden::hybrid_named(name)).collect()
}

#[test]
fn granite_and_bamba_are_cut_everywhere() {
    every_cut(hybrids(&["granite-hub", "bamba-hub"]));
}

#[test]
fn falcon_h1_and_nemotron_h_are_cut_everywhere() {
    every_cut(hybrids(&["falcon-h1-hub", "falcon-h1-gate-first", "nemotron-h"]));
}

#[test]
fn transformers_are_cut_everywhere() {
    every_cut(hybrids(&["llama", "mistral-window", "qwen2-hub", "qwen3"]));
}

#[test]
fn mambas_are_cut_everywhere() {
    let mut goldens: Vec<_> = ["falcon-tied-eps", "odd-dims", "original-untied"].map(Golden::named).into();
    goldens.extend(["one-head-eps", "odd-dims", "original-untied", "ssm-mlp"].map(Golden::mamba2_named));
    every_cut(goldens);
}

/// A golden with Mamba-2, attention across a border of pages, and MLPs: whole on the CPU, and in parts.
async fn models(name: &str) -> (Checkpoint, LanguageModel, Vec<LanguageModel>) {
    let [cpu, gpu, other] = backends().await;
    let checkpoint = Golden::hybrid_named(name).checkpoint();
    let layers = checkpoint.config().n_layer();
    let whole = load(&checkpoint, &cpu, Scan::default(), WHOLE).await;
    let mut split = Vec::new();
    for parts in [[(&cpu, 2), (&gpu, layers - 2)], [(&gpu, layers - 1), (&other, 1)], [(&gpu, 1), (&cpu, layers - 1)]] {
        split.push(in_parts(&checkpoint, &parts, 64).await);
    }
    (checkpoint, whole, split)
}

/// A state file says nothing of who holds the layers: each reads each other's, and goes on alike. And back to an earlier token.
#[test]
fn states_are_the_whole_models() {
    block_on(async {
        let (checkpoint, whole, split) = models("granite-hub").await;
        let (id, tokens) = (ModelId::of(&checkpoint), long(290, checkpoint.config().vocab_size));
        let mut all = vec![whole];
        all.extend(split);
        let mut saved = Vec::new();
        for model in &all {
            let mut text = Text::new(model.session().unwrap()).keeping_states(64);
            for part in tokens.chunks(50) {
                text.push(part);
                text.rewind(text.tokens().len()).await.unwrap(); // feeds all but the last
            }
            let bytes = text.save(&id).await.unwrap().to_bytes();
            saved.push(SavedState::from_bytes("state", &bytes).unwrap());
            text.rewind(200).await.unwrap();
            text.push(&[9, 8, 7]);
            saved.push(text.save(&id).await.unwrap());
        }
        for pair in saved.chunks(2) {
            for (state, want) in pair.iter().zip(&saved) {
                assert_eq!((&state.tokens, state.consumed), (&want.tokens, want.consumed));
                assert_eq!(state.to_bytes().len(), want.to_bytes().len());
                assert_state("saved", &state.state, &want.state, STATE);
            }
        }
        for state in &saved {
            let mut sessions = Vec::new();
            for model in &all {
                let mut session = model.session().unwrap();
                session.prefill(&[1, 2, 3], &mut quiet).await.unwrap();
                session.set_state(&state.state).unwrap();
                session.prefill(state.pending(), &mut quiet).await.unwrap();
                sessions.push(session);
            }
            let want = sessions[0].logits().await.unwrap();
            for session in &mut sessions[1..] {
                assert_close("read", &session.logits().await.unwrap(), &want, LOGITS, 0.0);
            }
        }
        let other = Golden::hybrid_named("llama").checkpoint();
        let other = load(&other, &Backend::Cpu, Scan::default(), WHOLE).await;
        let foreign = other.session().unwrap().state().await.unwrap();
        for model in &all {
            assert!(model.session().unwrap().set_state(&foreign).is_err());
        }
    });
}

/// Copies go on alone, and what is drawn is what the whole model draws, however often it is asked.
#[test]
fn forks_and_draws_are_the_whole_models() {
    block_on(async {
        let (checkpoint, whole, split) = models("bamba-hub").await;
        let prompt = long(40, checkpoint.config().vocab_size);
        let params = SamplingParams { temperature: 0.9, seed: 7, ..SamplingParams::default() };
        let mut said = Vec::new();
        for model in [&whole].into_iter().chain(&split) {
            let mut session = model.session().unwrap();
            assert!(session.sample().await.is_err() && session.logits().await.is_err());
            session.prefill(&prompt, &mut quiet).await.unwrap();
            session.begin_sampling(&params, &prompt).unwrap();
            let mut drawn = Vec::new();
            for _ in 0..12 {
                drawn.push(session.sample().await.unwrap());
                session.step(drawn[drawn.len() - 1]).await.unwrap();
            }
            // Drawn and not fed: the text is where it was.
            drawn.push(session.sample().await.unwrap());
            let mut fork = session.try_clone().unwrap();
            let before = session.logits().await.unwrap();
            assert_eq!(fork.logits().await.unwrap(), before);
            session.step(3).await.unwrap();
            fork.prefill(&[4, 5], &mut quiet).await.unwrap();
            let (a, b) = (session.logits().await.unwrap(), fork.logits().await.unwrap());
            session.reset();
            assert!(session.logits().await.is_err());
            session.prefill(&prompt, &mut quiet).await.unwrap();
            said.push((drawn, [before, a, b, session.logits().await.unwrap()].concat()));
            // What is refused leaves it where it is.
            assert!(session.step(u32::MAX).await.is_err());
            assert!(session.prefill(&[], &mut quiet).await.is_err());
            assert!(said[said.len() - 1].1.ends_with(&session.logits().await.unwrap()));
        }
        for (drawn, logits) in &said[1..] {
            assert_eq!(*drawn, said[0].0);
            assert_close("forks", logits, &said[0].1, LOGITS, 0.0);
        }
    });
}

async fn logits(batch: &mut Batch, slots: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for slot in 0..slots {
        all.extend(batch.logits(slot).await.unwrap());
    }
    all
}

/// Texts of a batch, written and read side by side, resting, forked, saved and begun anew.
#[test]
fn batches_are_the_whole_models() {
    block_on(async {
        for name in ["granite-hub", "falcon-h1-hub"] {
            let (checkpoint, whole, split) = models(name).await;
            let vocab_size = checkpoint.config().vocab_size;
            let mut said: Vec<(Vec<Option<u32>>, Vec<f32>)> = Vec::new();
            for model in [&whole].into_iter().chain(&split) {
                let mut batch = model.batch(4).unwrap();
                assert_eq!(batch.slots(), 4);
                assert!(batch.advance(&[0]).await.is_err(), "nothing was read");
                batch.prefill(0, &long(255, vocab_size), &mut quiet).await.unwrap();
                batch.prefill(2, &long(9, vocab_size), &mut quiet).await.unwrap();
                let params = SamplingParams { temperature: 0.8, seed: 3, ..SamplingParams::default() };
                batch.begin_sampling(2, &params, &[]).unwrap();
                let mut drawn = Vec::new();
                for i in 0..5 {
                    drawn.extend(batch.advance_and_feed(&[2, 0], &[(1, i)]).await.unwrap());
                }
                drawn.extend(batch.advance(&[1]).await.unwrap());
                batch.fork(0, 3).unwrap();
                batch.step(&[(3, 4), (2, 5)]).await.unwrap();
                let mut all = logits(&mut batch, 4).await;
                let state = batch.state(3).await.unwrap();
                batch.reset(1).unwrap();
                assert!(batch.logits(1).await.is_err());
                batch.set_state(1, &state).unwrap();
                batch.step(&[(1, 6), (3, 6)]).await.unwrap();
                all.extend(logits(&mut batch, 4).await);
                let state = batch.state(1).await.unwrap();
                all.extend(state.conv.iter().chain(&state.ssm));
                let rows: Vec<_> = all[4 * vocab_size..8 * vocab_size].chunks(vocab_size).collect();
                assert_close("one state", rows[1], rows[3], 1e-5, 0.0);
                // One text alone goes by its own step.
                batch.step(&[(2, 1)]).await.unwrap();
                all.extend(batch.logits(2).await.unwrap());
                assert!(batch.step(&[(0, 1), (0, 2)]).await.is_err());
                assert!(batch.step(&[(0, u32::MAX)]).await.is_err());
                assert!(batch.prefill(9, &[1], &mut quiet).await.is_err());
                said.push((drawn, all));
            }
            for (drawn, all) in &said[1..] {
                assert_eq!(*drawn, said[0].0, "{name}");
                assert_close(name, all, &said[0].1, LOGITS, 5e-5);
            }
        }
    });
}

#[test]
fn explanations_and_windows_are_the_whole_models() {
    block_on(async {
        let (checkpoint, whole, split) = models("granite-hub").await;
        let tokens = long(20, checkpoint.config().vocab_size);
        for layers in [None, Some(vec![0]), Some(vec![0, 4])] {
            let options = ExplainOptions { layers, ..Default::default() };
            let mut progress = Vec::new();
            let want = explain(&whole, &tokens, &options, &mut |done, all| progress.push((done, all))).await.unwrap();
            for model in &split {
                let mut here = Vec::new();
                let got = explain(model, &tokens, &options, &mut |done, all| here.push((done, all))).await.unwrap();
                assert_eq!(here, progress);
                assert_eq!(got.layers.len(), want.layers.len());
                for (got, want) in got.layers.iter().zip(&want.layers) {
                    assert_eq!((got.layer, got.units), (want.layer, want.units));
                    for (got, want) in [(&got.delta, &want.delta), (&got.magnitude, &want.magnitude)] {
                        assert_close("explained", got, want, LOGITS, 1e-4);
                    }
                }
            }
        }
        let mut windows = Vec::new();
        for model in [&whole].into_iter().chain(&split) {
            let mut session = model.session().unwrap();
            windows.push(session.score_windows(&tokens, Some(&tokens), 6, &mut quiet).await.unwrap());
            assert!(session.logits().await.is_err());
        }
        for scores in &windows[1..] {
            assert_eq!(scores.argmax, windows[0].argmax);
            assert_close("windows", &scores.nll, &windows[0].nll, LOGITS, 0.0);
        }
    });
}

#[test]
fn parts_have_all_layers_and_say_where() {
    block_on(async {
        let [cpu, gpu, _] = backends().await;
        let checkpoint = Golden::hybrid_named("nemotron-h-hub").checkpoint();
        let (layers, stored) = (checkpoint.config().n_layer(), checkpoint.weights().total_bytes());
        for counts in [vec![], vec![0, layers], vec![1, layers], vec![layers - 1], vec![usize::MAX, 2]] {
            let parts: Vec<_> = counts.iter().map(|&layers| Part { backend: Backend::Cpu, layers }).collect();
            let loaded = LanguageModel::load_parts(&checkpoint, &parts, ModelOptions::default(), &mut |_, _| {}).await;
            let Err(error) = loaded else { panic!("{counts:?}") };
            assert!(error.to_string().contains(&layers.to_string()), "{error}");
        }
        let whole = in_parts(&checkpoint, &[(&gpu, layers)], 8).await;
        assert!(whole.gpu().is_some(), "one part is an ordinary model");
        assert_eq!(whole.placed()[0].layers, 0..layers);
        let model = in_parts(&checkpoint, &[(&cpu, 3), (&gpu, layers - 3)], 8).await;
        let placed = model.placed();
        assert_eq!([&placed[0].layers, &placed[1].layers], [&(0..3), &(3..layers)]);
        assert!(matches!((&placed[0].backend, &placed[1].backend), (Backend::Cpu, Backend::Gpu(_))));
        assert!(placed.iter().all(|part| part.bytes > 0));
        // Stored in f32: as many bytes here as there, but for a head that is the embedding, which both ends have then.
        let held: u64 = placed.iter().map(|part| part.bytes).sum();
        assert!(held >= stored && held < 2 * stored, "{held} of {stored}");
        // Each byte is told of once, to the end.
        let mut told = Vec::new();
        let parts = [(&cpu, 3), (&gpu, layers - 3)].map(|(backend, layers)| Part { backend: backend.clone(), layers });
        let progress = &mut |done, all| told.push((done, all));
        LanguageModel::load_parts(&checkpoint, &parts, ModelOptions::default(), progress).await.unwrap();
        assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == pair[1].1));
        assert_eq!(told.last().map(|(done, all)| done == all), Some(true));
    });
}
