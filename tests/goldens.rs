//! Every checkpoint of tests/golden, on both backends, by every scan and several chunk sizes, against transformers.

mod common;

use common::{argmax, assert_close, assert_state, compare, load, Golden, On, Rng, Sequence, CHUNKS, SCANS, WHOLE};
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelOptions, Scan, Session, WeightDtype};
use pollster::block_on;
use std::borrow::Cow;

/// Absolute, on logits of standard deviation 1.6. The issue asks for 1e-3. transformers' own float32 is up to 3e-5 off
/// float64 (tests/golden/README.md), and the least wrong treatment of a tensor moves them by 1e-2.
const LOGITS: f64 = 2e-4;
/// Absolute and relative, on the states; transformers' own are within 2e-5 and 1e-5.
const STATE: (f64, f64) = (1e-4, 5e-5);
/// Absolute, a predicted token, on the sum of -log p.
const NLL: f64 = 1e-4;

fn quiet(_: usize, _: usize) {}

/// One sequence: scored in one go, and fed in pieces up to each known position, then continued greedily by steps.
async fn check_sequence(what: &str, model: &LanguageModel, s: &Sequence) -> f64 {
    let mut session = model.session().unwrap();
    let predicted = s.tokens.len() - 1;
    let mut targets = s.tokens[1..].to_vec();
    targets.push(0); // what follows the last token is not known; its nll is left out below
    let scores = session.score(&s.tokens, Some(&targets), &mut quiet).await.unwrap();
    assert_eq!(scores.argmax, s.argmax, "{what}: argmax");
    assert_eq!(scores.nll.len(), targets.len(), "{what}: nll");
    let nll: f64 = scores.nll[..predicted].iter().map(|x| f64::from(*x)).sum();
    assert_close(&format!("{what}: nll_sum"), &[nll], &[s.nll_sum], NLL * predicted as f64, 0.0);
    let logits = session.logits().await.unwrap();
    let mut worst = assert_close(&format!("{what}: logits after score"), &logits, &s.last_logits, LOGITS, 0.0);
    let scored = session.state().await.unwrap();
    for (name, got, want) in [("conv_state", &scored.conv, &s.conv_state), ("ssm_state", &scored.ssm, &s.ssm_state)] {
        if let Some(want) = want {
            assert_close(&format!("{what}: {name}"), got, want, STATE.0, STATE.1);
        }
    }

    session.reset();
    let mut done = 0;
    let mut stops = s.logits_at();
    stops.push((predicted, &s.last_logits));
    for (t, want) in stops {
        session.prefill(&s.tokens[done..=t], &mut quiet).await.unwrap();
        done = t + 1;
        let got = session.logits().await.unwrap();
        worst = worst.max(assert_close(&format!("{what}: logits at {t}"), &got, want, LOGITS, 0.0));
    }
    assert_state(&format!("{what}: in pieces"), &session.state().await.unwrap(), &scored, STATE);
    let mut greedy = Vec::new();
    for _ in &s.greedy {
        let token = argmax(&session.logits().await.unwrap());
        greedy.push(token);
        session.step(token).await.unwrap();
    }
    assert_eq!(greedy, s.greedy, "{what}: greedy tokens");
    worst
}

fn check_all(on: On, scan: Scan, goldens: Vec<Golden>) {
    block_on(async {
        let backend = on.open().await;
        let mut worst = (0.0, String::new());
        for golden in goldens {
            let checkpoint = golden.checkpoint();
            let (got, want) = (checkpoint.config(), &golden.expected.config);
            let of_all =
                [(got.d_model, want.d_model), (got.n_layer(), want.n_layer), (got.vocab_size, want.vocab_size)];
            let one_kind = got.kinds().len() == 1;
            let of_all = of_all.iter().filter(|_| one_kind);
            of_all.for_each(|(got, want)| assert_eq!(got, want, "{}: dimensions", golden.name));
            for (name, size) in got.layers[0].dimensions().into_iter().filter(|_| one_kind) {
                assert_eq!(Some(size), want.of_layers(name), "{}: {name}", golden.name);
            }
            assert_eq!(golden.expected.sequences.len(), 3, "{}", golden.name);
            for chunk in CHUNKS {
                let model = load(&checkpoint, &backend, scan, chunk).await;
                for s in &golden.expected.sequences {
                    let what = format!("{} on {on:?}, {scan} by {chunk}, {} tokens", golden.name, s.tokens.len());
                    let difference = check_sequence(&what, &model, s).await;
                    if difference > worst.0 {
                        worst = (difference, what);
                    }
                }
            }
        }
        println!("largest difference of a logit: {:.2e} ({})", worst.0, worst.1);
        assert!(worst.0 > 0.0, "nothing was compared");
    });
}

macro_rules! every_golden {
    ($($name:ident: $on:expr, $scan:expr, $goldens:expr;)*) => { $(
        #[test]
        fn $name() {
            check_all($on, $scan, $goldens);
        }
    )* };
}

every_golden! {
    cpu_sequential: On::Cpu, Scan::Sequential, Golden::all();
    cpu_blelloch: On::Cpu, Scan::Blelloch, Golden::all();
    cpu_fused: On::Cpu, Scan::Fused, Golden::all();
    gpu_sequential: On::Gpu, Scan::Sequential, Golden::all();
    gpu_blelloch: On::Gpu, Scan::Blelloch, Golden::all();
    gpu_fused: On::Gpu, Scan::Fused, Golden::all();
    mamba2_cpu_sequential: On::Cpu, Scan::Sequential, Golden::mamba2();
    mamba2_cpu_chunked: On::Cpu, Scan::Fused, Golden::mamba2();
    mamba2_gpu_sequential: On::Gpu, Scan::Sequential, Golden::mamba2();
    mamba2_gpu_chunked: On::Gpu, Scan::Fused, Golden::mamba2();
    hybrids_cpu: On::Cpu, Scan::Fused, Golden::hybrids(On::Cpu);
    hybrids_gpu: On::Gpu, Scan::Fused, Golden::hybrids(On::Gpu);
}

/// Feeds `tokens` in random pieces; pieces of one token go through the step or the prefill, as the numbers have it.
/// Here and there the session is replaced by its clone, or by a new one that is given its state.
async fn feed_randomly(model: &LanguageModel, tokens: &[u32], rng: &mut Rng) -> (Session, String) {
    let mut session = model.session().unwrap();
    let (mut done, mut split) = (0, String::new());
    while done < tokens.len() {
        let most = [1, 3, 20, 100][rng.below(4)];
        let n = (1 + rng.below(most)).min(tokens.len() - done);
        let step = n == 1 && rng.below(2) == 0;
        if step {
            session.step(tokens[done]).await.unwrap();
        } else {
            session.prefill(&tokens[done..done + n], &mut quiet).await.unwrap();
        }
        split += &format!(" {}{n}", if step { "s" } else { "p" });
        done += n;
        match rng.below(6) {
            0 => {
                let clone = session.try_clone().unwrap();
                // The original going elsewhere must not move its clone.
                session.step(tokens[0]).await.unwrap();
                session = clone;
                split += "c";
            }
            1 if done < tokens.len() => {
                let state = session.state().await.unwrap();
                session = model.session().unwrap();
                session.set_state(&state).unwrap();
                split += "=";
            }
            _ => {}
        }
    }
    (session, split)
}

fn prefill_is_decode(on: On) {
    block_on(async {
        let backend = on.open().await;
        let mut rng = Rng(20_231_201); // the paper's date
        for golden in Golden::all().into_iter().chain(Golden::mamba2()).chain(Golden::hybrids(on)) {
            let checkpoint = golden.checkpoint();
            let tokens = &golden.expected.sequences[2].tokens;
            let unrolled = load(&checkpoint, &backend, Scan::Sequential, WHOLE).await;
            let mut decode = unrolled.session().unwrap();
            for &token in tokens {
                decode.step(token).await.unwrap();
            }
            let (logits, state) = (decode.logits().await.unwrap(), decode.state().await.unwrap());
            for scan in SCANS {
                for _ in 0..2 {
                    let chunk = [1 + rng.below(9), 1 + rng.below(100), WHOLE][rng.below(3)];
                    let model = load(&checkpoint, &backend, scan, chunk).await;
                    let (mut session, split) = feed_randomly(&model, tokens, &mut rng).await;
                    let what = format!("{} on {on:?}, {scan} by {chunk}, split{split}", golden.name);
                    assert_close(&what, &session.logits().await.unwrap(), &logits, LOGITS, 0.0);
                    assert_state(&what, &session.state().await.unwrap(), &state, STATE);
                }
            }
        }
    });
}

#[test]
fn prefill_is_unrolled_decode_on_cpu() {
    prefill_is_decode(On::Cpu);
}

#[test]
fn prefill_is_unrolled_decode_on_gpu() {
    prefill_is_decode(On::Gpu);
}

async fn last_logits(checkpoint: &Checkpoint, backend: &Backend, tokens: &[u32]) -> Vec<f32> {
    let model = load(checkpoint, backend, Scan::default(), 64).await;
    let mut session = model.session().unwrap();
    session.prefill(tokens, &mut quiet).await.unwrap();
    session.logits().await.unwrap()
}

/// The names make no difference: not a bit of it.
#[test]
fn both_naming_schemes_give_the_same_bits() {
    block_on(async {
        let (original, twin) = (Golden::named("original"), Golden::named("original-twin"));
        let tokens = &original.expected.sequences[2].tokens;
        for on in [On::Cpu, On::Gpu] {
            let backend = on.open().await;
            let a = last_logits(&original.checkpoint(), &backend, tokens).await;
            let b = last_logits(&twin.checkpoint(), &backend, tokens).await;
            assert_eq!(a, b, "{on:?}");
        }
    });
}

/// Where the weights are f16, holding them so on the device changes storage, not values; elsewhere the option does nothing.
#[test]
fn f16_weights_on_the_device_keep_their_values() {
    block_on(async {
        let backend = On::Gpu.open().await;
        for name in ["f16", "bf16", "odd-dims"] {
            let golden = Golden::named(name);
            let checkpoint = golden.checkpoint();
            for weights in [WeightDtype::Auto, WeightDtype::F32, WeightDtype::F16] {
                let options = ModelOptions { weights, chunk: 64, ..Default::default() };
                let model = LanguageModel::load(&checkpoint, &backend, options, &mut |_, _| {}).await.unwrap();
                for s in &golden.expected.sequences {
                    check_sequence(&format!("{name}, weights {weights:?}"), &model, s).await;
                }
            }
        }
    });
}

/// Adds to one value of an f32 tensor inside a .safetensors file's bytes.
fn perturb(bytes: &mut [u8], tensor: &str, index: usize, by: f32) {
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    assert_eq!(json[tensor]["dtype"], "F32", "{tensor}");
    let at = 8 + header + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 4 * index;
    let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) + by;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// One wrong value anywhere in the weights fails the comparison, even at the tolerance of 1e-3.
#[test]
fn one_perturbed_weight_fails() {
    block_on(async {
        let golden = Golden::named("bias-conv2-state1");
        let config = std::fs::read(golden.folder.join("config.json")).unwrap();
        let weights = std::fs::read(golden.folder.join("model.safetensors")).unwrap();
        let s = &golden.expected.sequences[0];
        let last = *s.tokens.last().unwrap() as usize;
        let embedding = last * golden.expected.config.d_model + 3; // of a token that is in the text
        let layer = |name: &str| format!("backbone.layers.1.{name}");
        let tensors = [
            ("backbone.embeddings.weight".to_string(), embedding),
            ("backbone.norm_f.weight".to_string(), 3),
            (layer("norm.weight"), 3),
            (layer("mixer.in_proj.weight"), 3),
            (layer("mixer.in_proj.bias"), 3),
            (layer("mixer.conv1d.weight"), 3),
            (layer("mixer.conv1d.bias"), 3),
            (layer("mixer.x_proj.weight"), 3),
            (layer("mixer.dt_proj.weight"), 3),
            (layer("mixer.dt_proj.bias"), 3),
            (layer("mixer.A_log"), 3),
            (layer("mixer.D"), 3),
            (layer("mixer.out_proj.weight"), 3),
            (layer("mixer.out_proj.bias"), 3),
        ];
        for on in [On::Cpu, On::Gpu] {
            let backend = on.open().await;
            let logits = async |bytes: Vec<u8>| {
                let checkpoint = Checkpoint::from_bytes(&config, vec![Cow::Owned(bytes)], None).unwrap();
                last_logits(&checkpoint, &backend, &s.tokens).await
            };
            assert_close("as written", &logits(weights.clone()).await, &s.last_logits, LOGITS, 0.0);
            for (tensor, index) in &tensors {
                let mut bytes = weights.clone();
                perturb(&mut bytes, tensor, *index, 1.0);
                let result = compare(&logits(bytes).await, &s.last_logits, 1e-3, 0.0);
                assert!(result.is_err(), "{on:?}: {tensor}[{index}] + 1 went unnoticed: off by {result:?}");
            }
        }
    });
}
