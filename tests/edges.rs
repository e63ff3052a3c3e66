//! Where a GPU and the CPU could part, or a text lose something: values beyond f16, one-token prompts, settings at the
//! ends of their ranges, characters split between two runs. The kernels' own edges are in tests/kernels/edges.rs,
//! decays in the golden `decays`.

mod common;
#[path = "common/make.rs"]
mod make;

use common::{assert_close, load, On, WHOLE};
use make::{Model, Tensor};
use mamba_wgpu::generate::SamplingParams;
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::synthetic::Spec;
use mamba_wgpu::model::{ActivationDtype, Backend, Checkpoint, LanguageModel, ModelOptions, Part, Scan, Session};
use pollster::block_on;

fn quiet(_: usize, _: usize) {}
fn quiet_bytes(_: u64, _: u64) {}

fn map(tensor: &mut Tensor, f: impl Fn(usize, f32) -> f32) {
    let values = tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    tensor.data = values.enumerate().flat_map(|(i, x)| f(i, x).to_le_bytes()).collect();
}

// ---- beyond f16

/// Watched as on adapters that use f16; and in f16, where this one can.
fn watching() -> (Backend, Vec<ActivationDtype>) {
    let gpu =
        block_on(Gpu::new(&GpuOptions { watch: true, ..GpuOptions::default() })).expect("these tests need an adapter");
    let mut activations = vec![ActivationDtype::F32];
    activations.extend(gpu.shader_f16().then_some(ActivationDtype::F16));
    (Backend::Gpu(gpu), activations)
}

fn watched(
    checkpoint: &Checkpoint,
    backend: &Backend,
    activations: ActivationDtype,
    scan: Scan,
    chunk: usize,
) -> LanguageModel {
    let options = ModelOptions { scan, chunk, activations, ..Default::default() };
    block_on(LanguageModel::load(checkpoint, backend, options, &mut |_, _| {})).unwrap()
}

/// Two layers in whole quads, with a head of its own.
fn spec() -> Spec {
    Spec { tied: false, ..Spec::new(2, 16, 53) }
}

/// The same of Mamba-2.
fn mamba2() -> Spec {
    Spec { tied: false, ..Spec::mamba2(2, 32, 53) }
}

const LARGE: f32 = 1048576.0; // 2^20: exact to multiply and divide by

/// Models whose results are as usual, with one activation beyond f16: what makes it large is taken back by the matrix
/// behind it.
fn beyond() -> Vec<(&'static str, Checkpoint)> {
    let times = |model: Model, end: &str, by: f32| model.edit(end, |t| map(t, |_, x| x * by));
    // Only in the second layer, so that the first one's states are sound.
    let normed = times(Model::new(&spec()), "layers.1.norm.weight", LARGE);
    let normed = times(normed, "layers.1.mixer.in_proj.weight", 1.0 / LARGE);
    let y = times(Model::new(&spec()), "layers.1.mixer.D", LARGE);
    let y = times(y, "layers.1.mixer.out_proj.weight", 1.0 / LARGE);
    let u = times(Model::new(&spec()), "layers.1.mixer.conv1d.weight", LARGE);
    let u = times(u, "layers.1.mixer.x_proj.weight", 1.0 / LARGE);
    let u = times(u, "layers.1.mixer.out_proj.weight", 1.0 / LARGE);
    // B is small, so that delta B u, and y with it, are not large themselves.
    let delta =
        Model::new(&spec()).edit("layers.1.mixer.dt_proj.bias", |t| map(t, |i, x| if i == 3 { 1e5 } else { x }));
    let delta = delta.edit("layers.1.mixer.x_proj.weight", |t| {
        map(t, |i, x| if (1..17).contains(&(i / 32)) { x * 1e-5 } else { x })
    });
    let last = times(Model::new(&spec()), "norm_f.weight", LARGE);
    let last = times(last, "lm_head.weight", 1.0 / LARGE);
    let normed2 = times(Model::new(&mamba2()), "layers.1.norm.weight", LARGE);
    let normed2 = times(normed2, "layers.1.mixer.in_proj.weight", 1.0 / LARGE);
    let gated = times(Model::new(&mamba2()), "layers.1.mixer.norm.weight", LARGE);
    let gated = times(gated, "layers.1.mixer.out_proj.weight", 1.0 / LARGE);
    let mamba2 = [("Mamba-2's normed", normed2), ("Mamba-2's gated", gated)];
    let all = [("normed", normed), ("y", y), ("u", u), ("delta", delta), ("last", last)].into_iter().chain(mamba2);
    all.map(|(name, model)| (name, model.open().unwrap())).collect()
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i * i % 53).collect()
}

/// Logits after a prompt and after each of some steps, the state, and scores of the prompt.
async fn everything(session: &mut Session, prompt: &[u32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let targets: Vec<u32> = prompt.iter().skip(1).chain(&[0]).copied().collect();
    let mut logits = Vec::new();
    session.reset();
    let scores = session.score(prompt, Some(&targets), &mut quiet).await.unwrap();
    logits.extend(session.logits().await.unwrap());
    session.reset();
    session.prefill(prompt, &mut quiet).await.unwrap();
    for &token in prompt.iter().take(3) {
        logits.extend(session.logits().await.unwrap());
        session.step(token).await.unwrap();
    }
    // And on from a state.
    let state = session.state().await.unwrap();
    session.set_state(&state).unwrap();
    session.prefill(&prompt[..2], &mut quiet).await.unwrap();
    logits.extend(session.logits().await.unwrap());
    (logits, scores.nll, session.state().await.unwrap().ssm)
}

#[test]
fn values_beyond_f16_are_noticed_and_the_text_goes_on_in_f32() {
    let (backend, formats) = watching();
    for (what, checkpoint) in beyond() {
        let cpu = block_on(load(&checkpoint, &Backend::Cpu, Scan::Fused, WHOLE));
        let prompt = tokens(70);
        let want = block_on(everything(&mut cpu.session().unwrap(), &prompt));
        for &format in &formats {
            for chunk in [1, 7, WHOLE] {
                let model = watched(&checkpoint, &backend, format, Scan::Fused, chunk);
                let mut session = model.session().unwrap();
                let got = block_on(everything(&mut session, &prompt));
                let what = format!("{what} in {format:?}, chunks of {chunk}");
                assert!(model.beyond_f16(), "{what}: nothing was noticed");
                assert_close(&format!("{what}: logits"), &got.0, &want.0, 2e-4, 1e-4);
                assert_close(&format!("{what}: nll"), &got.1, &want.1, 2e-4, 1e-4);
                let largest = want.2.iter().fold(1.0f32, |m, x| m.max(x.abs()));
                assert_close(&format!("{what}: ssm_state"), &got.2, &want.2, 1e-4 * f64::from(largest), 1e-4);
            }
        }
        // A part notices it for itself, whoever begins and goes on.
        for first in [&Backend::Cpu, &backend] {
            let parts = [first, &backend].map(|backend| Part { backend: backend.clone(), layers: 1 });
            let options = ModelOptions { chunk: 7, activations: formats[0], ..Default::default() };
            let model = block_on(LanguageModel::load_parts(&checkpoint, &parts, options, &mut quiet_bytes)).unwrap();
            let got = block_on(everything(&mut model.session().unwrap(), &prompt));
            assert!(model.beyond_f16(), "{what} in parts: nothing was noticed");
            assert_close(&format!("{what} in parts: logits"), &got.0, &want.0, 2e-4, 1e-4);
            assert_close(&format!("{what} in parts: nll"), &got.1, &want.1, 2e-4, 1e-4);
        }
    }
}

#[test]
fn values_that_f16_holds_are_left_alone() {
    let (backend, formats) = watching();
    for spec in [spec(), mamba2()] {
        let checkpoint = Model::new(&spec).open().unwrap();
        let cpu = block_on(load(&checkpoint, &Backend::Cpu, Scan::Fused, WHOLE));
        let prompt = tokens(70);
        let want = block_on(everything(&mut cpu.session().unwrap(), &prompt));
        for &format in &formats {
            for scan in Scan::ALL {
                let model = watched(&checkpoint, &backend, format, scan, 32);
                let got = block_on(everything(&mut model.session().unwrap(), &prompt));
                assert!(!model.beyond_f16());
                let atol = if format == ActivationDtype::F16 { 2e-2 } else { 2e-4 };
                assert_close(&format!("{} {format:?} {scan}", spec.arch), &got.0, &want.0, atol, 1e-4);
            }
        }
    }
}

/// One token alone makes a value too large: what was read before it stays, and what follows is read without f16.
/// Another text begins with it again.
#[test]
fn a_chunk_is_taken_back_alone() {
    let (backend, formats) = watching();
    // Of one component of the residual stream, which only token 5 has.
    let (d_model, token) = (16, 5);
    let model = Model::new(&spec());
    let model = model.edit("embeddings.weight", |t| {
        map(t, |i, x| if i % d_model == 3 { f32::from(i / d_model == token) } else { x });
    });
    let model = model.edit("layers.1.norm.weight", |t| map(t, |i, x| if i == 3 { LARGE } else { x }));
    let model = model.edit("layers.0.mixer.out_proj.weight", |t| map(t, |i, x| if i / 32 == 3 { 0.0 } else { x }));
    let model =
        model.edit("layers.1.mixer.in_proj.weight", |t| map(t, |i, x| if i % d_model == 3 { x / LARGE } else { x }));
    let checkpoint = model.open().unwrap();
    let without: Vec<u32> = (0..40).map(|i| 6 + i % 40).collect();
    let mut with = without.clone();
    with[27] = token as u32;
    let cpu = block_on(load(&checkpoint, &Backend::Cpu, Scan::Fused, WHOLE));
    for format in formats {
        let model = watched(&checkpoint, &backend, format, Scan::Fused, 8);
        let mut session = model.session().unwrap();
        for (prompt, beyond) in [(&without, false), (&with, true), (&without, true)] {
            let want = block_on(everything(&mut cpu.session().unwrap(), prompt));
            let got = block_on(everything(&mut session, prompt));
            // Once said, it stays said.
            assert_eq!(model.beyond_f16(), beyond);
            let atol = if format == ActivationDtype::F16 { 2e-2 } else { 2e-4 };
            assert_close(&format!("{format:?}: logits"), &got.0, &want.0, atol, 1e-4);
            assert_close(&format!("{format:?}: nll"), &got.1, &want.1, atol, 1e-4);
        }
    }
}

#[test]
fn what_f32_cannot_hold_either_is_an_error_on_both() {
    let model = Model::new(&spec()).edit("layers.1.norm.weight", |t| map(t, |_, _| 3e38));
    let checkpoint = model.edit("layers.1.mixer.in_proj.weight", |t| map(t, |_, x| x * 1e3)).open().unwrap();
    let (watched_gpu, _) = watching();
    for backend in [Backend::Cpu, block_on(On::Gpu.open()), watched_gpu] {
        let model = block_on(load(&checkpoint, &backend, Scan::Fused, WHOLE));
        let mut session = model.session().unwrap();
        block_on(session.prefill(&tokens(9), &mut quiet)).unwrap();
        assert!(block_on(session.sample()).unwrap_err().to_string().contains("NaN"));
        assert!(block_on(session.score(&tokens(9), None, &mut quiet)).unwrap_err().to_string().contains("NaN"));
    }
}

// ---- the same tokens on both

/// Prompts and settings at their ends, on models whose vocabularies and widths are no multiples of anything.
#[test]
fn both_backends_draw_the_same_tokens() {
    let warm = SamplingParams { temperature: 0.9, seed: u64::MAX, ..SamplingParams::default() };
    let settings = [
        SamplingParams::default(),
        warm,
        SamplingParams { temperature: 1e-38, ..warm },
        SamplingParams { temperature: 1e30, seed: u64::MAX - 7, ..warm },
        SamplingParams { top_p: 1e-12, ..warm },
        SamplingParams { top_p: 1e-45, top_k: 3, ..warm },
        SamplingParams { min_p: 1.0, ..warm },
        SamplingParams { repetition_penalty: 1e30, ..warm },
        SamplingParams { repetition_penalty: 1e-30, top_k: 1, ..warm },
        SamplingParams { top_k: 5, top_p: 0.8, min_p: 0.01, repetition_penalty: 1.3, seed: 1 << 63, ..warm },
    ];
    let sizes = [Spec::preset("tiny").unwrap(), Spec { vocab_size: 54, ..spec() }, Spec { vocab_size: 1, ..spec() }];
    let gpu = block_on(On::Gpu.open());
    for spec in sizes {
        let checkpoint = Model::new(&spec).open().unwrap();
        let models = [&Backend::Cpu, &gpu].map(|backend| block_on(load(&checkpoint, backend, Scan::Fused, WHOLE)));
        let mut sessions = models.map(|model| model.session().unwrap());
        for prompt in [vec![0], vec![0; 3], (0..40).map(|i| i * 11 % spec.vocab_size as u32).collect()] {
            for params in &settings {
                let drawn = sessions.each_mut().map(|session| block_on(drawn(session, &prompt, params)));
                assert_eq!(drawn[0], drawn[1], "{} tokens, prompt of {}, {params:?}", spec.vocab_size, prompt.len());
            }
        }
    }
}

async fn drawn(session: &mut Session, prompt: &[u32], params: &SamplingParams) -> Vec<u32> {
    session.reset();
    session.begin_sampling(params, prompt).unwrap();
    session.prefill(prompt, &mut quiet).await.unwrap();
    let mut tokens = Vec::new();
    for _ in 0..4 {
        tokens.push(session.sample().await.unwrap());
        session.step(tokens[tokens.len() - 1]).await.unwrap();
    }
    tokens
}

#[test]
fn nothing_is_no_prompt_on_either() {
    let checkpoint = Model::tiny().open().unwrap();
    for backend in [Backend::Cpu, block_on(On::Gpu.open())] {
        let model = block_on(load(&checkpoint, &backend, Scan::Fused, WHOLE));
        let mut session = model.session().unwrap();
        assert!(block_on(session.prefill(&[], &mut quiet)).is_err());
        assert!(block_on(session.score(&[], None, &mut quiet)).is_err());
        assert!(block_on(session.logits()).is_err() && block_on(session.sample()).is_err());
    }
}
