//! Quantised models: what quantising keeps, how little it costs, and that both backends run what is stored.

mod common;
#[path = "common/make.rs"]
mod make;

use common::{argmax, assert_close, compare, load, repository, Golden, On, WHOLE};
use half::bf16;
use make::Model;
use mamba_wgpu::checks;
use mamba_wgpu::gpu::Variant;
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::synthetic::Spec;
use mamba_wgpu::model::{
    quantise, quantise_to_folder, Arch, Backend, Checkpoint, Dtype, LanguageModel, LoadError, ModelOptions,
    QuantiseError, Scan, Summary, WeightDtype,
};
use mamba_wgpu::reference::{Quant, Quantised};
use pollster::block_on;
use std::borrow::Cow;
use std::fs;

/// As the goldens': the same weights to the last bit, in another order of summation.
const LOGITS: f64 = 2e-4;

fn austen() -> Checkpoint {
    Checkpoint::open(&repository("models/austen-4m")).unwrap()
}

fn quantised_bytes(checkpoint: &Checkpoint, quant: Quant) -> (Vec<u8>, Summary) {
    let mut bytes = Vec::new();
    let summary = quantise(checkpoint, quant, &mut bytes, &mut |_, _| true).unwrap();
    (bytes, summary)
}

fn quantised(checkpoint: &Checkpoint, quant: Quant) -> Checkpoint {
    let (bytes, _) = quantised_bytes(checkpoint, quant);
    let tokenizer = checkpoint.tokenizer_json().map(|json| Cow::Owned(json.to_vec()));
    let result = Checkpoint::from_bytes(checkpoint.config_json().unwrap(), vec![Cow::Owned(bytes)], tokenizer);
    result.unwrap_or_else(|e| panic!("{} as {quant:?} does not open: {e}", checkpoint.source()))
}

/// Logits after a prefill, and after a few steps of tokens of one's own.
async fn logits(model: &LanguageModel, tokens: &[u32]) -> Vec<f32> {
    let mut session = model.session().unwrap();
    session.prefill(tokens, &mut |_, _| {}).await.unwrap();
    let mut all = session.logits().await.unwrap();
    for &token in tokens.iter().take(3) {
        session.step(token).await.unwrap();
        all.extend(session.logits().await.unwrap());
    }
    all
}

fn tokens(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % vocab_size) as u32).collect()
}

// ---- what it costs

/// Bits per byte of the whole held-out text, in windows of 1024 tokens from a zero state each.
fn bits_per_byte(checkpoint: &Checkpoint) -> f64 {
    let text = fs::read_to_string(repository("tests/data/austen-4m/heldout.txt")).unwrap();
    let tokenizer = tokenizers::Tokenizer::from_file(repository("models/austen-4m/tokenizer.json")).unwrap();
    let all = [&[0][..], tokenizer.encode(text.as_str(), false).unwrap().get_ids()].concat();
    assert_eq!(all.len(), 15_591);
    block_on(async {
        let model = load(checkpoint, &Backend::Cpu, Scan::Fused, 512).await;
        let mut session = model.session().unwrap();
        let mut nll = 0.0;
        for start in (0..all.len() - 1).step_by(1024) {
            let end = (start + 1024).min(all.len() - 1);
            session.reset();
            let targets = Some(&all[start + 1..end + 1]);
            let scores = session.score(&all[start..end], targets, &mut |_, _| {}).await.unwrap();
            nll += scores.nll.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
        nll / std::f64::consts::LN_2 / text.len() as f64
    })
}

/// transformers has 1.392635 with f16 weights (tests/embedded.rs).
const F16_BITS: f64 = 1.392635;

#[test]
fn eight_bits_cost_no_quality() {
    let bits = bits_per_byte(&quantised(&austen(), Quant::Q8));
    println!("q8: {bits:.6} bits per byte");
    assert_close("bits per byte", &[bits], &[F16_BITS], 0.005, 0.0);
    assert_ne!(bits, F16_BITS, "nothing was quantised");
}

#[test]
fn four_bits_cost_little_quality() {
    let bits = bits_per_byte(&quantised(&austen(), Quant::Q4));
    println!("q4: {bits:.6} bits per byte");
    assert_close("bits per byte", &[bits], &[F16_BITS], 0.05, 0.0);
    assert!(bits > F16_BITS + 1e-4, "nothing was quantised");
}

#[test]
fn sizes_are_as_documented() {
    for (quant, bits_a_weight) in [(Quant::Q8, 8.5), (Quant::Q4, 4.5)] {
        let (bytes, summary) = quantised_bytes(&austen(), quant);
        assert_eq!(summary.bytes_before, austen().weights().total_bytes());
        assert!(bytes.len() as u64 - summary.bytes_after < 20_000, "header");
        let mut weights = 0;
        for t in summary.tensors.iter().filter(|t| t.to == quant.tag()) {
            let n: usize = t.shape.iter().product();
            assert_eq!(t.bytes_after as f64 * 8.0, bits_a_weight * n as f64, "{}", t.name);
            assert!(
                t.max_error > 0.0 && t.rms_error > 0.0 && t.rms_error < t.max_error && t.max_error < t.rms,
                "{t:?}"
            );
            let most = if quant == Quant::Q8 { 0.008 } else { 0.12 };
            assert!(t.rms_error < most * t.rms, "{t:?}");
            weights += n;
        }
        // Embedding, in_proj, x_proj and out_proj of 8 layers: 95 % of the model.
        assert_eq!(summary.tensors.iter().filter(|t| t.to == quant.tag()).count(), 25);
        assert!(weights > 4_300_000, "{weights}");
        assert!(summary.tensors.iter().filter(|t| t.to != quant.tag()).all(|t| t.to == t.from && t.max_error == 0.0));
    }
}

// ---- what is kept

/// From every kind of checkpoint: matrices are their twin's, all else is bit for bit the same.
#[test]
fn every_checkpoint_can_be_quantised() {
    for golden in Golden::all() {
        let original = golden.checkpoint();
        for quant in Quant::ALL {
            let small = quantised(&original, quant);
            assert_eq!(small.config(), original.config(), "{}", golden.name);
            let mut before = Vec::new();
            original.weights().for_each(|t| before.push(*t));
            let mut after = Vec::new();
            let weights = small.weights();
            weights.for_each(|t| after.push(*t));
            assert_eq!(before.len(), after.len());
            for (a, b) in before.iter().zip(&after) {
                assert_eq!((a.name, a.shape), (b.name, b.shape), "{}", golden.name);
                if b.dtype.quant().is_some() {
                    let want: Vec<f32> = Quantised::new(quant, a.shape[1], &a.to_f32().unwrap()).values();
                    assert_eq!(b.to_f32().unwrap(), want, "{} {}", golden.name, a.name);
                    let n = a.shape[0];
                    assert_eq!(b.rows_to_f32(n / 2..n).unwrap(), want[n / 2 * a.shape[1]..], "{}", a.name);
                } else {
                    assert_eq!((a.dtype, a.data), (b.dtype, b.data), "{} {}", golden.name, a.name);
                    let small = ["dt_proj", "conv1d", "norm", "A_log", ".D", "bias"];
                    assert!(small.iter().any(|part| a.name.contains(part)), "{} is large", a.name);
                }
            }
        }
    }
}

/// Every tensor begins at a multiple of its elements' size, so that other programs can map the file.
#[test]
fn tensors_are_aligned() {
    for golden in Golden::all() {
        let (bytes, _) = quantised_bytes(&golden.checkpoint(), Quant::Q4);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.iter() {
            let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert_eq!(at % (view.dtype().bitsize() / 8), 0, "{} {name}", golden.name);
        }
    }
}

// ---- both backends

/// The weights written out in f32.
fn written_out(checkpoint: &Checkpoint, spec: &Spec) -> Checkpoint {
    let mut model = Model::new(&Spec { dtype: Dtype::F32, ..spec.clone() });
    checkpoint.weights().for_each(|t| {
        let data = t.to_f32().unwrap().into_iter().flat_map(f32::to_le_bytes).collect();
        model.tensors.iter_mut().find(|other| other.name == t.name).unwrap().data = data;
    });
    model.open().unwrap()
}

/// Rows that fill no block, some blocks and a part, whole blocks; every bias; Falcon-Mamba, Mamba-2; a head of its own.
fn specs(dtype: Dtype) -> [Spec; 6] {
    let tiny = Spec { dtype, ..Spec::preset("tiny").unwrap() };
    let odd = Spec { use_bias: true, dtype, ..Spec::new(2, 36, 70) };
    let odd = odd.with(|s| (s.d_inner, s.d_state, s.dt_rank) = (52, 3, 5));
    [
        tiny.clone(),
        Spec { use_bias: true, tied: false, use_conv_bias: false, ..tiny }.of(Arch::FalconMamba),
        odd.clone(),
        Spec { use_bias: false, tied: false, ..odd }.with(|s| s.d_inner = 64).of(Arch::FalconMamba),
        Spec { dtype, use_bias: true, ..Spec::preset("mamba2-tiny").unwrap() },
        Spec { dtype, tied: false, ..Spec::mamba2(2, 64, 70) },
    ]
}

#[test]
fn the_cpu_runs_quantised_rows_as_if_written_out() {
    block_on(async {
        for spec in [Dtype::Q8, Dtype::Q4].into_iter().flat_map(specs) {
            let checkpoint = spec.checkpoint().unwrap();
            let tokens = tokens(19, spec.vocab_size);
            let got = logits(&load(&checkpoint, &Backend::Cpu, Scan::Fused, 8).await, &tokens).await;
            let plain = written_out(&checkpoint, &spec);
            let want = logits(&load(&plain, &Backend::Cpu, Scan::Fused, 8).await, &tokens).await;
            assert_eq!(got, want, "{spec:?}");
        }
    });
}

#[test]
fn the_gpu_agrees_with_the_cpu() {
    block_on(async {
        let gpu = On::Gpu.open().await;
        for spec in [Dtype::Q8, Dtype::Q4].into_iter().flat_map(specs) {
            let checkpoint = spec.checkpoint().unwrap();
            let tokens = tokens(19, spec.vocab_size);
            let want = logits(&load(&checkpoint, &Backend::Cpu, Scan::Fused, 8).await, &tokens).await;
            let got = logits(&load(&checkpoint, &gpu, Scan::Fused, 8).await, &tokens).await;
            assert_close(&format!("{spec:?}"), &got, &want, LOGITS, 0.0);
        }
    });
}

/// The embedded model, quantised: prompt and greedy steps on both backends, and with weights expanded to f32.
#[test]
fn the_embedded_model_on_both_backends() {
    block_on(async {
        let gpu = On::Gpu.open().await;
        for quant in Quant::ALL {
            let checkpoint = quantised(&austen(), quant);
            let prompt = tokens(40, 4096);
            let want = logits(&load(&checkpoint, &Backend::Cpu, Scan::Fused, WHOLE).await, &prompt).await;
            for weights in [WeightDtype::Auto, WeightDtype::F32] {
                let options = ModelOptions { weights, ..Default::default() };
                let model = LanguageModel::load(&checkpoint, &gpu, options, &mut |_, _| {}).await.unwrap();
                let what = format!("{quant:?}, weights {weights:?}");
                assert_close(&what, &logits(&model, &prompt).await, &want, LOGITS, 0.0);
            }
            let original = logits(&load(&austen(), &Backend::Cpu, Scan::Fused, WHOLE).await, &prompt).await;
            assert!(compare(&want, &original, LOGITS, 0.0).is_err(), "{quant:?} changes no logit");
        }
    });
}

/// It takes the memory that it should.
#[test]
fn quantised_weights_stay_so_on_the_device() {
    block_on(async {
        let mut bytes = Vec::new();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Q8, Dtype::Q4] {
            let Backend::Gpu(gpu) = On::Gpu.open().await else { unreachable!() };
            let spec = Spec { dtype, ..Spec::new(2, 256, 4096) };
            let _model = load(&spec.checkpoint().unwrap(), &Backend::Gpu(gpu.clone()), Scan::Fused, 8).await;
            bytes.push(gpu.memory_bytes().0 as f64);
        }
        assert!(bytes[2] < bytes[1] * 0.6 && bytes[3] < bytes[1] * 0.36, "{bytes:?}");
    });
}

/// One wrong scale, and the wrong integers of one block, change logits by more than the tolerance.
#[test]
fn one_perturbed_block_fails() {
    block_on(async {
        let golden = Golden::named("bias-conv2-state1").checkpoint();
        for quant in Quant::ALL {
            let (bytes, _) = quantised_bytes(&golden, quant);
            let good = || Model::read(golden.config_json().unwrap(), &bytes);
            let tokens = tokens(12, golden.config().vocab_size);
            let run = async |model: Model| {
                logits(&load(&model.open().unwrap(), &Backend::Cpu, Scan::Fused, 8).await, &tokens).await
            };
            let want = run(good()).await;
            let layer = ["in_proj", "x_proj", "out_proj"].map(|name| format!("layers.1.mixer.{name}.weight"));
            for name in layer.into_iter().chain(["embeddings.weight".into()]) {
                // The last row's first block: of x_proj it is C's.
                let row = |t: &make::Tensor| t.data.len() - t.data.len() / t.shape[0];
                let scaled = good().edit(&format!("{name}.scales"), |t| {
                    let at = row(t);
                    let scale = bf16::from_le_bytes([t.data[at], t.data[at + 1]]).to_f32();
                    t.data[at..at + 2].copy_from_slice(&bf16::from_f32(scale * 4.0).to_le_bytes());
                });
                let flipped = good().edit(&format!("{name}.{}", quant.tag()), |t| {
                    let at = row(t);
                    t.data[at..at + 16].iter_mut().for_each(|q| *q ^= 0x44);
                });
                for other in [scaled, flipped] {
                    let result = compare(&run(other).await, &want, LOGITS, 0.0);
                    assert!(result.is_err(), "{name} in {quant:?} went unnoticed: off by {result:?}");
                }
            }
        }
    });
}

/// A device whose quantised matmul is wrong gives wrong logits, until the self-test has found it; then weights are f32.
#[test]
fn a_spoilt_quantised_kernel_is_done_without() {
    block_on(async {
        for (fault, dtype, variant) in
            [("matmul q8", Dtype::Q8, Variant::Q8Weights), ("embedding q4", Dtype::Q4, Variant::Q4Weights)]
        {
            let checkpoint = specs(dtype)[2].checkpoint().unwrap();
            let tokens = tokens(12, 70);
            let want = logits(&load(&checkpoint, &Backend::Cpu, Scan::Fused, 8).await, &tokens).await;
            let options = GpuOptions { fault: Some(fault.into()), ..Default::default() };
            let gpu = Gpu::new(&options).await.unwrap();
            let backend = Backend::Gpu(gpu.clone());
            let spoilt = logits(&load(&checkpoint, &backend, Scan::Fused, 8).await, &tokens).await;
            assert!(compare(&spoilt, &want, LOGITS, 0.0).is_err(), "{fault} has no effect");
            let report = checks::run(&gpu, &mut |_, _| {}).await.unwrap();
            assert!(!report.passed() && report.usable() && !gpu.allows(variant), "{report:?}");
            let without = logits(&load(&checkpoint, &backend, Scan::Fused, 8).await, &tokens).await;
            assert_close(fault, &without, &want, LOGITS, 0.0);
        }
    });
}

/// Greedy text from the q8 model is what the f16 model writes, for a while at least.
#[test]
fn eight_bits_write_the_same_text() {
    block_on(async {
        let mut texts = Vec::new();
        for checkpoint in [austen(), quantised(&austen(), Quant::Q8)] {
            let mut session = load(&checkpoint, &Backend::Cpu, Scan::Fused, WHOLE).await.session().unwrap();
            session.prefill(&[841, 341, 259, 1492, 512], &mut |_, _| {}).await.unwrap();
            let mut text = Vec::new();
            for _ in 0..12 {
                let token = argmax(&session.logits().await.unwrap());
                text.push(token);
                session.step(token).await.unwrap();
            }
            texts.push(text);
        }
        assert_eq!(texts[0], texts[1]);
    });
}

// ---- what is refused

#[test]
fn what_cannot_be_quantised() {
    let again = quantise(&quantised(&austen(), Quant::Q8), Quant::Q4, &mut Vec::new(), &mut |_, _| true).unwrap_err();
    assert!(matches!(again, QuantiseError::AlreadyQuantised { .. }) && again.to_string().contains("q8"), "{again}");
    for name in ["1.mixer.in_proj.weight", "1.mixer.A_log"] {
        let model = Model::tiny().edit(name, |t| t.data[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
        let error = quantise(&model.open().unwrap(), Quant::Q8, &mut Vec::new(), &mut |_, _| true).unwrap_err();
        assert!(
            matches!(&error, QuantiseError::Load(LoadError::NonFinite { tensor, .. }) if tensor.contains(name)),
            "{error}"
        );
    }
    let full = quantise(&austen(), Quant::Q8, &mut [0u8; 100_000].as_mut_slice(), &mut |_, _| true).unwrap_err();
    assert!(matches!(full, QuantiseError::Write(_)), "{full}");
}

/// One weight beyond what bf16 scales hold, or nothing but weights below: the matrix stays as it is, the others are
/// quantised.
#[test]
fn matrices_that_no_scale_holds_stay_as_they_are() {
    const NAME: &str = "backbone.layers.1.mixer.in_proj.weight";
    let set = |values: &[(usize, f32)], all: f32| {
        Model::new(&Spec::new(2, 16, 41)).edit(NAME, |t| {
            t.data.chunks_exact_mut(4).for_each(|b| {
                let x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                b.copy_from_slice(&(x * all).to_le_bytes());
            });
            for &(i, x) in values {
                t.data[4 * i..4 * i + 4].copy_from_slice(&x.to_le_bytes());
            }
        })
    };
    let cases = [
        (set(&[(77, 3.4e38)], 1.0), Some(3.4e38f32)),
        (set(&[(5, -f32::MAX)], 1.0), Some(f32::MAX)),
        (set(&[(0, 2.1e37)], 1.0), Some(2.1e37)),
        (set(&[], 1e-38), Some(0.0)),
        // What scales do hold, zero among it.
        (set(&[(77, 1.9e37)], 1.0), None),
        (set(&[], 1e-30), None),
        (set(&[], 0.0), None),
        (set(&[(3, 1e-38)], 1.0), None),
    ];
    for (model, beyond) in cases {
        let checkpoint = model.open().unwrap();
        for quant in Quant::ALL {
            let (_, summary) = quantised_bytes(&checkpoint, quant);
            let of = |name: &str| summary.tensors.iter().find(|t| t.name == name).unwrap();
            match beyond {
                None => assert_eq!((of(NAME).to.as_str(), of(NAME).beyond), (quant.tag(), None)),
                Some(largest) => {
                    assert_eq!((of(NAME).to.as_str(), of(NAME).rms), ("f32", 0.0));
                    assert!(largest == 0.0 || of(NAME).beyond == Some(f64::from(largest)), "{:?}", of(NAME).beyond);
                }
            }
            assert!(summary.tensors.iter().all(|t| t.max_error.is_finite() && t.rms_error.is_finite()));
            assert_eq!(of("backbone.layers.0.mixer.in_proj.weight").to, quant.tag());
            // It opens, with the same values in that matrix, all of them finite.
            let again = quantised(&checkpoint, quant);
            let values = |c: &Checkpoint| c.weights().layers[1].get("mixer.in_proj.weight").unwrap().to_f32().unwrap();
            if beyond.is_some() {
                assert_eq!(values(&again), values(&checkpoint));
            }
            assert!(values(&again).iter().all(|x| x.is_finite()));
        }
    }
    // Weights that are not finite are named, before anything is written.
    for bad in [f32::NAN, f32::INFINITY] {
        let checkpoint = set(&[(9, bad)], 1.0).open().unwrap();
        let mut bytes = Vec::new();
        let error = quantise(&checkpoint, Quant::Q4, &mut bytes, &mut |_, _| true).unwrap_err();
        assert!(matches!(error, QuantiseError::Load(LoadError::NonFinite { index: 9, .. })), "{error}");
        assert!(bytes.is_empty());
    }
}

#[test]
fn a_folder_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/model");
    let listed = |path: &std::path::Path| -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let write = |checkpoint: &Checkpoint, force: bool, until: u64| {
        quantise_to_folder(checkpoint, Quant::Q4, &out, force, &mut |done, _| done < until)
    };
    // Stopped at the begin, in the middle and before the end.
    for until in [0, 1, 4_000_000, 9_000_000] {
        assert!(matches!(write(&austen(), false, until), Err(QuantiseError::Cancelled)), "{until}");
        assert!(!out.exists(), "{until}");
    }
    let bad = Model::tiny().edit("norm_f.weight", |t| t.data[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(matches!(write(&bad.open().unwrap(), false, u64::MAX), Err(QuantiseError::Load(_))));
    assert!(!out.exists());

    write(&austen(), false, u64::MAX).unwrap();
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(listed(&out), names);
    let checkpoint = Checkpoint::open(&out).unwrap();
    assert!(checkpoint.warnings().is_empty() && checkpoint.tokenizer_json() == austen().tokenizer_json());
    assert_eq!(checkpoint.config_json(), austen().config_json());
    let before = fs::read(out.join(names[1])).unwrap();

    // Not over what is there; not even with force over the original or while something fails.
    assert!(matches!(write(&austen(), false, u64::MAX), Err(QuantiseError::Exists { .. })));
    assert!(matches!(write(&checkpoint, true, u64::MAX), Err(QuantiseError::Source { .. })));
    assert!(matches!(write(&austen(), true, 4_000_000), Err(QuantiseError::Cancelled)));
    assert_eq!(
        (listed(&out), fs::read(out.join(names[1])).unwrap() == before),
        (names.map(String::from).to_vec(), true)
    );
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let tiny = Model::tiny().open().unwrap();
    write(&tiny, true, u64::MAX).unwrap();
    assert_eq!(Checkpoint::open(&out).unwrap().config().d_model, 13);
    // Another model's tokenizer would be wrong; other files are not ours.
    assert_eq!(listed(&out), ["config.json", "model.safetensors", "notes.txt"]);
    let file = out.join("notes.txt");
    let result = quantise_to_folder(&tiny, Quant::Q8, &file, true, &mut |_, _| true);
    assert!(matches!(result, Err(QuantiseError::NotAFolder { .. })) && fs::read(&file).unwrap() == b"mine");
}

/// Weights without a config get one that says what their shapes say.
#[test]
fn weights_without_a_config() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), Model::tiny().safetensors()).unwrap();
    let original = Checkpoint::open(&folder.path().join("model.safetensors")).unwrap();
    let out = folder.path().join("small");
    quantise_to_folder(&original, Quant::Q8, &out, false, &mut |_, _| true).unwrap();
    let small = Checkpoint::open(&out).unwrap();
    assert!(small.warnings().is_empty(), "{:?}", small.warnings());
    assert_eq!(small.config().layers, original.config().layers);
    assert_eq!((small.config().dimension("dt_rank"), small.config().n_layer()), (Some(2), 2));
}
