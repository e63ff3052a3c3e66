//! LoRA adapters of PEFT's format: merged models give PEFT's logits (tests/golden/make_lora.py), on both backends and on quantised
//! bases; what cannot be applied is refused by name.

#[path = "common/mod.rs"]
mod common;
#[path = "common/make.rs"]
mod make;

use common::{assert_close, compare, repository, Golden};
use make::Model;
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::{quantise, Adapter, Backend, Checkpoint, LanguageModel, LoadError, ModelOptions};
use mamba_wgpu::reference::{dequantise, quantise as quantise_rows, Quant};
use pollster::block_on;
use serde_json::{json, Value};
use std::{borrow::Cow, fs, path::Path};
use tempfile::{tempdir, TempDir};

/// On a logit, absolute.
const LOGITS: f64 = 2e-4;

const ADAPTERS: [&str; 7] =
    ["projections", "rslora-patterns", "embeddings-tied", "head-untied", "saved-head-tied", "f16", "bf16"];

#[derive(serde::Deserialize)]
struct Expected {
    base: String,
    tokens: Vec<u32>,
    last_logits: Vec<f32>,
}

fn folder(name: &str) -> std::path::PathBuf {
    repository("tests/golden/lora").join(name)
}

fn expected(name: &str) -> Expected {
    serde_json::from_slice(&fs::read(folder(name).join("expected.json")).unwrap()).unwrap()
}

fn adapter(name: &str) -> Adapter {
    Adapter::open(&folder(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn merged(name: &str, scale: f32) -> Checkpoint {
    Golden::named(&expected(name).base)
        .checkpoint()
        .with_adapter(adapter(name), scale)
        .unwrap_or_else(|e| panic!("{e}"))
}

async fn gpu() -> Backend {
    Backend::Gpu(Gpu::new(&GpuOptions::default()).await.expect("an adapter, if only a software one"))
}

async fn logits(checkpoint: &Checkpoint, backend: &Backend, tokens: &[u32]) -> Vec<f32> {
    let model = LanguageModel::load(checkpoint, backend, ModelOptions::default(), &mut |_, _| {}).await.unwrap();
    let mut session = model.session().unwrap();
    session.prefill(&tokens[..tokens.len() - 1], &mut |_, _| {}).await.unwrap();
    session.step(tokens[tokens.len() - 1]).await.unwrap();
    session.logits().await.unwrap()
}

#[test]
fn merged_models_give_pefts_logits_on_both_backends() {
    block_on(async {
        for backend in [Backend::Cpu, gpu().await] {
            for name in ADAPTERS {
                let Expected { tokens, last_logits, base } = expected(name);
                let got = logits(&merged(name, 1.0), &backend, &tokens).await;
                assert_close(name, &got, &last_logits, LOGITS, 0.0);
                // The base alone, or half of the adapter, is something else.
                for other in [Golden::named(&base).checkpoint(), merged(name, 0.5)] {
                    assert!(
                        compare(&logits(&other, &backend, &tokens).await, &last_logits, 0.05, 0.0).is_err(),
                        "{name}"
                    );
                }
            }
        }
    });
}

/// PEFT's names on a base with mamba-ssm's.
#[test]
fn a_base_under_other_names() {
    let Expected { tokens, last_logits, .. } = expected("saved-head-tied");
    let checkpoint = Golden::named("original").checkpoint().with_adapter(adapter("saved-head-tied"), 1.0).unwrap();
    assert!(!checkpoint.config().tie_embeddings);
    assert_close("original", &block_on(logits(&checkpoint, &Backend::Cpu, &tokens)), &last_logits, LOGITS, 0.0);
}

#[test]
fn adapters_add_up() {
    let Expected { tokens, last_logits, base } = expected("projections");
    let two = |a, b| {
        let once = Golden::named(&base).checkpoint().with_adapter(adapter("projections"), a).unwrap();
        once.with_adapter(adapter("projections"), b).unwrap()
    };
    let got = block_on(logits(&two(0.75, 0.25), &Backend::Cpu, &tokens));
    assert_close("0.75 + 0.25", &got, &last_logits, LOGITS, 0.0);
    let plain = block_on(logits(&Golden::named(&base).checkpoint(), &Backend::Cpu, &tokens));
    let got = block_on(logits(&two(1.0, -1.0), &Backend::Cpu, &tokens));
    assert_close("1 - 1", &got, &plain, LOGITS, 0.0);
}

/// One wrong number in an adapter fails the comparison.
#[test]
fn a_perturbed_adapter_fails() {
    let Expected { tokens, last_logits, base } = expected("projections");
    for tensor in ["in_proj.lora_A", "x_proj.lora_B", "dt_proj.lora_A", "out_proj.lora_B"] {
        let changed = changed(&folder("projections"), |model| {
            let name = format!("base_model.model.backbone.layers.1.mixer.{tensor}.weight");
            let t = model.tensors.iter_mut().find(|t| t.name == name).unwrap();
            let x = f32::from_le_bytes(t.data[12..16].try_into().unwrap());
            t.data[12..16].copy_from_slice(&(x + 0.5).to_le_bytes());
        });
        let checkpoint = Golden::named(&base).checkpoint();
        let checkpoint = checkpoint.with_adapter(Adapter::open(changed.path()).unwrap(), 1.0).unwrap();
        let got = block_on(logits(&checkpoint, &Backend::Cpu, &tokens));
        assert!(compare(&got, &last_logits, LOGITS, 0.0).is_err(), "{tensor}");
    }
}

/// A copy of an adapter with other tensors.
fn changed(from: &Path, change: impl FnOnce(&mut Model)) -> TempDir {
    let to = tempdir().unwrap();
    let config = fs::read(from.join("adapter_config.json")).unwrap();
    let mut model = Model::read(&config, &fs::read(from.join("adapter_model.safetensors")).unwrap());
    change(&mut model);
    fs::write(to.path().join("adapter_config.json"), model.config_json()).unwrap();
    fs::write(to.path().join("adapter_model.safetensors"), model.safetensors()).unwrap();
    to
}

fn quantised(checkpoint: &Checkpoint, quant: Quant) -> Checkpoint {
    let mut bytes = Vec::new();
    quantise(checkpoint, quant, &mut bytes, &mut |_, _| true).unwrap();
    Checkpoint::from_bytes(checkpoint.config_json().unwrap(), vec![Cow::Owned(bytes)], None).unwrap()
}

/// On a quantised base: the matrix made from its integers, the adapter added, quantised again.
#[test]
fn quantised_bases_are_merged_and_quantised_again() {
    block_on(async {
        let Expected { tokens, base, .. } = expected("projections");
        let plain = Golden::named(&base).checkpoint();
        let gpu = gpu().await;
        for quant in Quant::ALL {
            let small = quantised(&plain, quant);
            let before = small.weights().layers[1].get("mixer.in_proj.weight").unwrap().to_f32().unwrap();
            let small = small.with_adapter(adapter("projections"), 1.0).unwrap();
            // 2 = alpha / rank; a (4, k), b (n, 4).
            let file = fs::read(folder("projections").join("adapter_model.safetensors")).unwrap();
            let file = Model::read(b"{}", &file);
            let values = |end: &str| -> Vec<f32> {
                let name = format!("base_model.model.backbone.layers.1.mixer.in_proj.{end}.weight");
                let data = &file.tensors.iter().find(|t| t.name == name).unwrap().data;
                data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            let (a, b) = (values("lora_A"), values("lora_B"));
            let weights = small.weights();
            let view = weights.layers[1].get("mixer.in_proj.weight").unwrap();
            let (n, k) = (view.shape[0], view.shape[1]);
            let product = |i: usize, j: usize| (0..4).map(|r| b[4 * i + r] * a[k * r + j]).sum::<f32>();
            let sums: Vec<f32> = (0..n * k).map(|at| before[at] + 2.0 * product(at / k, at % k)).collect();
            let (mut packed, mut scales, mut want) = (Vec::new(), Vec::new(), vec![0.0; n * k]);
            quantise_rows(quant, &sums, k, &mut packed, &mut scales);
            dequantise(quant, &packed, &scales, k, &mut want);
            // A sum of another order may fall on the other side of a step: of few values, and of one step.
            let got = view.to_f32().unwrap();
            let step = sums.iter().fold(0.0f32, |m, x| m.max(x.abs())) / if quant == Quant::Q8 { 127.0 } else { 7.0 };
            let off = got.iter().zip(&want).filter(|(x, y)| (*x - *y).abs() > 1e-6).count();
            assert!(off <= n * k / 100, "{off} of {} differ", n * k);
            assert_close("one step", &got, &want, f64::from(1.5 * step), 0.0);

            let (on_cpu, on_gpu) = (logits(&small, &Backend::Cpu, &tokens).await, logits(&small, &gpu, &tokens).await);
            assert_close(quant.tag(), &on_gpu, &on_cpu, LOGITS, 0.0);
            let base = quantised(&plain, quant);
            assert!(compare(&logits(&base, &gpu, &tokens).await, &on_cpu, 0.05, 0.0).is_err());
        }
    });
}

/// What is quantised or written from a merged model is the merged model, under clean names and with an untied head.
#[test]
fn a_merged_model_can_be_quantised() {
    for name in ["embeddings-tied", "f16"] {
        let merged = merged(name, 1.0);
        let written = quantised(&merged, Quant::Q8);
        assert_eq!(written.config().tie_embeddings, name == "f16");
        let (a, b) = (
            merged.weights().layers[0].get("mixer.in_proj.weight").unwrap().to_f32().unwrap(),
            written.weights().layers[0].get("mixer.in_proj.weight").unwrap().to_f32().unwrap(),
        );
        let largest = f64::from(a.iter().fold(0.0f32, |m, x| m.max(x.abs())));
        assert_close(name, &b, &a, largest / 100.0, 0.0);
        let plain = quantised(&Golden::named(&expected(name).base).checkpoint(), Quant::Q8);
        let c = plain.weights().layers[0].get("mixer.in_proj.weight").unwrap().to_f32().unwrap();
        assert!(compare(&c, &a, largest / 100.0, 0.0).is_err());
    }
}

#[test]
fn fingerprints_tell_adapters_apart() {
    let base = Golden::named(&expected("projections").base).checkpoint().fingerprint();
    let prints = [base, merged("projections", 1.0).fingerprint(), merged("projections", 0.5).fingerprint()];
    assert!(prints[0] != prints[1] && prints[1] != prints[2] && prints[0] != prints[2]);
    assert_eq!(prints[1], merged("projections", 1.0).fingerprint());
}

/// The base's folder with the adapter in it, and the adapter's tensors in the model's own file, as PEFT names them there.
#[test]
fn adapters_in_the_models_folder_and_file() {
    let Expected { tokens, last_logits, base } = expected("projections");
    let base = Golden::named(&base).folder;
    let beside = tempdir().unwrap();
    for (from, name) in [
        (&base, "config.json"),
        (&base, "model.safetensors"),
        (&folder("projections"), "adapter_config.json"),
        (&folder("projections"), "adapter_model.safetensors"),
    ] {
        fs::copy(from.join(name), beside.path().join(name)).unwrap();
    }
    let checkpoint = Checkpoint::open(beside.path()).unwrap();
    assert!(checkpoint.notes()[0].contains("rank 4, alpha 8, on 8 matrices"), "{:?}", checkpoint.notes());
    assert_close("beside", &block_on(logits(&checkpoint, &Backend::Cpu, &tokens)), &last_logits, LOGITS, 0.0);

    let config = fs::read(base.join("config.json")).unwrap();
    let read = |path: &Path| Model::read(&config, &fs::read(path).unwrap());
    for whole in [false, true] {
        let mut model = read(&base.join("model.safetensors"));
        for t in &mut model.tensors {
            let wrapped = ["in_proj.", "x_proj.", "dt_proj.", "out_proj."].iter().any(|m| t.name.contains(m));
            if whole {
                let end = if wrapped { t.name.rfind('.').unwrap() } else { 0 };
                if wrapped {
                    t.name.insert_str(end, ".base_layer");
                }
                t.name.insert_str(0, "base_model.model.");
            }
        }
        let adapter = read(&folder("projections").join("adapter_model.safetensors"));
        let named = |name: String| match whole {
            true => name.replace(".weight", ".default.weight"),
            false => name.replace("base_model.model.", ""),
        };
        model.tensors.extend(adapter.tensors.into_iter().map(|t| make::Tensor { name: named(t.name), ..t }));
        let inside = tempdir().unwrap();
        model.save(inside.path());
        // Without its alpha it cannot be weighed.
        let error = Checkpoint::open(inside.path()).unwrap_err().to_string();
        assert!(error.contains("lora_A") && error.contains("adapter_config.json"), "{error}");
        fs::copy(folder("projections").join("adapter_config.json"), inside.path().join("adapter_config.json")).unwrap();
        let checkpoint = Checkpoint::open(inside.path()).unwrap();
        assert_close("inside", &block_on(logits(&checkpoint, &Backend::Cpu, &tokens)), &last_logits, LOGITS, 0.0);
    }
}

#[test]
fn what_cannot_be_applied_is_refused_by_name() {
    let base = || Golden::named(&expected("projections").base).checkpoint();
    let layer = "base_model.model.backbone.layers.0.mixer";
    let refused = |words: &[&str], change: &dyn Fn(&mut Model)| {
        let folder = changed(&folder("projections"), change);
        let result = Adapter::open(folder.path()).and_then(|adapter| base().with_adapter(adapter, 1.0));
        let error = result.map(|_| ()).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "no {word} in: {error}"));
    };
    let add = |name: String, shape: &'static [usize]| {
        move |model: &mut Model| {
            let data = vec![0; 4 * shape.iter().product::<usize>()];
            model.tensors.push(make::Tensor { name: name.clone(), dtype: "F32".into(), shape: shape.into(), data });
        }
    };
    let set = |key: &'static str, value: Value| move |model: &mut Model| model.config[key] = value.clone();
    refused(&["lora_magnitude_vector", "DoRA"], &add(format!("{layer}.in_proj.lora_magnitude_vector"), &[96]));
    refused(&["lora_B.bias"], &add(format!("{layer}.in_proj.lora_B.bias"), &[96]));
    refused(&["ia3_l", "(IA)3"], &add(format!("{layer}.in_proj.ia3_l"), &[96]));
    refused(&["q_proj.lora_A", "q_proj.weight", "another model"], &|model: &mut Model| {
        model.tensors.iter_mut().for_each(|t| t.name = t.name.replace("x_proj", "q_proj"));
    });
    refused(&["lora_A.weight", "is missing"], &|model: &mut Model| {
        model.tensors.retain(|t| !(t.name.contains("layers.1.mixer.x_proj.lora_A")));
    });
    refused(&["x_proj.lora_B.weight", "[5, 4]", "[4, 4]"], &|model: &mut Model| {
        let t = model.tensors.iter_mut().find(|t| t.name.ends_with("0.mixer.x_proj.lora_B.weight")).unwrap();
        (t.shape, t.data) = (vec![5, 4], vec![0; 80]);
    });
    refused(&["conv1d.lora_A", "no matrix"], &|model: &mut Model| {
        for t in model.tensors.iter_mut().filter(|t| t.name.contains("layers.0.mixer.x_proj")) {
            t.name = t.name.replace("x_proj", "conv1d");
        }
    });
    refused(&["use_dora", "DoRA"], &set("use_dora", json!(true)));
    refused(&["`peft_type` is \"LOHA\""], &set("peft_type", json!("LOHA")));
    refused(&["pissa"], &set("init_lora_weights", json!("pissa")));
    refused(&["`r` is 5", "rank 4"], &set("r", json!(5)));
    refused(&["modules_to_save", "lm_head"], &set("modules_to_save", json!(["lm_head"])));
    refused(&["in_proj.bias", "[96]", "[95]"], &add(format!("{layer}.in_proj.bias"), &[95]));
    let other = adapter("bf16");
    let wrong = base().with_adapter(other, 1.0).unwrap_err();
    assert!(matches!(wrong, LoadError::Shape { .. }), "{wrong}");
    let none = Adapter::open(&Golden::named("bf16").folder).map(|_| ()).unwrap_err();
    assert!(matches!(none, LoadError::NoAdapter { .. }), "{none}");
    let alone = Checkpoint::open(&folder("projections")).unwrap_err().to_string();
    assert!(alone.contains("its base model, bias-conv2-state1") && alone.contains("--lora"), "{alone}");
}

/// `--lora DIR` and `--lora DIR=SCALE`, as every command takes it.
#[test]
fn the_program_merges_adapters() {
    let Expected { tokens, last_logits, base } = expected("projections");
    let (base, adapter) = (Golden::named(&base).folder, folder("projections"));
    let (base, adapter) = (base.to_str().unwrap(), adapter.to_str().unwrap());
    let program = |arguments: &[&str]| {
        let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
        command.args(arguments).output().unwrap()
    };
    let ids = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let half = format!("{adapter}=0.5");
    for lora in [&["--lora", adapter][..], &["--lora", &half, "--lora", &half]] {
        let output =
            program(&[&["logits", "--json", "--backend", "cpu", "--tokens", &ids, "--model", base], lora].concat());
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let got: Vec<f64> = value["last_logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_close("logits", &got, &last_logits, LOGITS, 0.0);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.matches("merged LoRA adapter").count(), lora.len() / 2, "{said}");
    }
    let shown = program(&["inspect-model", "--json", "--model", base, "--lora", &half]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let shown = &shown["adapters"][0];
    assert_eq!((&shown["ranks"], &shown["alpha"], &shown["scale"]), (&json!([4]), &json!(8.0), &json!(0.5)));
    assert_eq!(shown["targets"], json!(["dt_proj", "in_proj", "out_proj", "x_proj"]));
    for (bad, code, word) in [
        ("/no/such/adapter", 1, "/no/such/adapter"),
        (base, 1, "no LoRA adapter"),
        ("=0.5", 2, "scale"),
        ("ad=abc", 2, "\"abc\", behind the folder \"ad\", is no number"),
        ("ad=inf", 2, "finite"),
    ] {
        let output = program(&["logits", "--backend", "cpu", "--tokens", "1", "--model", base, "--lora", bad]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(word), "{bad}: {said}");
    }
    let out = tempdir().unwrap();
    let small = out.path().join("small");
    let small = small.to_str().unwrap();
    assert!(program(&["quantize", base, small, "--to", "q8", "--lora", adapter]).status.success());
    // Beside an adapter the new model would be another one: merged once more.
    let taken = out.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    for name in files {
        fs::copy(folder("projections").join(name), taken.join(name)).unwrap();
    }
    let taken = taken.to_str().unwrap();
    for lora in [adapter, taken] {
        let output = program(&["quantize", base, taken, "--to", "q8", "--lora", lora]);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(files.iter().all(|name| Path::new(taken).join(name).exists()));
    }
    let forced = program(&["quantize", base, taken, "--to", "q8", "--lora", adapter, "--force"]);
    assert!(forced.status.success() && files.iter().all(|name| !Path::new(taken).join(name).exists()));
    let file = |folder: &str| fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    assert_eq!(file(taken), file(small));
    // A weight that only the adapter makes infinite is not the base's fault.
    let huge = format!("{adapter}=3e38");
    let output = program(&["logits", "--backend", "cpu", "--tokens", "1", "--model", base, "--lora", &huge]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("once the LoRA adapter is added"), "{said}");
    let written = Checkpoint::open(Path::new(small)).unwrap();
    let got = block_on(logits(&written, &Backend::Cpu, &tokens));
    assert_close("quantised", &got, &last_logits, 0.5, 0.0);
}
