//! What is particular to models with attention: texts that share pages, states in files, going back, quantising, and the families that
//! are refused. Their numbers are compared in tests/goldens.rs.

mod common;
#[path = "common/make.rs"]
mod make;

use common::{assert_close, load, Golden, On, CPU_ONLY, REFUSED, WHOLE};
use mamba_wgpu::generate::Text;
use mamba_wgpu::model::blocks::Shape;
use mamba_wgpu::model::{Checkpoint, LanguageModel, ModelId, ModelOptions, SavedState, Scan};
use pollster::block_on;
use serde_json::{json, Value};

fn quiet(_: usize, _: usize) {}

async fn model(name: &str, on: On) -> (Checkpoint, LanguageModel) {
    let checkpoint = Golden::hybrid_named(name).checkpoint();
    let model = load(&checkpoint, &on.open().await, Scan::default(), WHOLE).await;
    (checkpoint, model)
}

/// Logits after a text, read in one go.
async fn after(model: &LanguageModel, tokens: &[u32]) -> Vec<f32> {
    let mut session = model.session().unwrap();
    session.prefill(tokens, &mut quiet).await.unwrap();
    session.logits().await.unwrap()
}

/// Tokens of a text longer than a page.
fn long(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 31 + i / 7) % 79).collect()
}

const CLOSE: f64 = 2e-4;

/// Copies of a text go on alone, whoever writes first to the page that both have begun.
#[test]
fn forks_share_pages_and_nothing_else() {
    block_on(async {
        for on in [On::Cpu, On::Gpu] {
            let (_, model) = model("granite-hub", on).await;
            let tokens = long(300);
            let mut first = model.session().unwrap();
            first.prefill(&tokens, &mut quiet).await.unwrap();
            let mut second = first.try_clone().unwrap();
            first.step(5).await.unwrap();
            second.step(7).await.unwrap();
            let mut third = second.try_clone().unwrap();
            second.prefill(&[1, 2, 3], &mut quiet).await.unwrap();
            drop(first);
            third.prefill(&[4, 5], &mut quiet).await.unwrap();
            for (session, end) in [(&mut second, &[7, 1, 2, 3][..]), (&mut third, &[7, 4, 5])] {
                let want = after(&model, &[&tokens, end].concat()).await;
                assert_close(&format!("{on:?} {end:?}"), &session.logits().await.unwrap(), &want, CLOSE, 0.0);
            }
            // The pages of a text that is gone are another's, and hold nothing of it.
            let mut fresh = model.session().unwrap();
            fresh.prefill(&tokens[..40], &mut quiet).await.unwrap();
            let want = after(&model, &tokens[..40]).await;
            assert_close(&format!("{on:?} fresh"), &fresh.logits().await.unwrap(), &want, CLOSE, 0.0);
        }
    });
}

/// A state goes through a file, to the other backend too, and back to an earlier token.
#[test]
fn states_go_through_files_and_texts_go_back() {
    block_on(async {
        let tokens = long(290);
        for (from, to) in [(On::Cpu, On::Gpu), (On::Gpu, On::Cpu)] {
            let (checkpoint, writer) = model("bamba", from).await;
            let (_, reader) = model("bamba", to).await;
            let mut text = Text::new(writer.session().unwrap()).keeping_states(64);
            for part in tokens.chunks(50) {
                text.push(part);
                text.rewind(text.tokens().len()).await.unwrap(); // feeds all but the last
            }
            let id = ModelId::of(&checkpoint);
            let bytes = text.save(&id).await.unwrap().to_bytes();
            let saved = SavedState::from_bytes("state", &bytes).unwrap();
            assert_eq!(saved.state.pages.tokens(), tokens.len() - 1);
            let mut session = reader.session().unwrap();
            session.set_state(&saved.state).unwrap();
            session.prefill(saved.pending(), &mut quiet).await.unwrap();
            let want = after(&writer, &tokens).await;
            assert_close("through a file", &session.logits().await.unwrap(), &want, CLOSE, 0.0);

            // Undone: back over the border of a page, and another way from there.
            text.rewind(200).await.unwrap();
            text.push(&[9, 8, 7]);
            let id_of_branch = text.save(&id).await.unwrap();
            session.set_state(&id_of_branch.state).unwrap();
            session.prefill(id_of_branch.pending(), &mut quiet).await.unwrap();
            let want = after(&reader, &[&tokens[..200], &[9, 8, 7]].concat()).await;
            assert_close("undone", &session.logits().await.unwrap(), &want, CLOSE, 0.0);

            // What is said of its pages must be true.
            let mut wrong = saved.clone();
            wrong.consumed -= 1;
            let error = SavedState::from_bytes("state", &wrong.to_bytes()).unwrap_err();
            assert!(error.to_string().contains("keys and values"), "{error}");
            let (_, other) = model("llama", to).await;
            let error = other.session().unwrap().set_state(&saved.state).unwrap_err();
            assert!(error.to_string().contains("conv_state"), "{error}");
        }
    });
}

/// In a batch each text has pages of its own.
#[test]
fn texts_of_a_batch_are_what_they_are_alone() {
    block_on(async {
        for on in [On::Cpu, On::Gpu] {
            let (_, model) = model("nemotron-h", on).await;
            let mut batch = model.batch(2).unwrap();
            let (a, b) = (long(40), long(9));
            batch.prefill(0, &a, &mut quiet).await.unwrap();
            batch.prefill(1, &b, &mut quiet).await.unwrap();
            batch.step(&[(0, 3), (1, 4)]).await.unwrap();
            for (slot, text) in [(0, [&a[..], &[3]].concat()), (1, [&b[..], &[4]].concat())] {
                let want = after(&model, &text).await;
                let got = batch.logits(slot).await.unwrap();
                assert_close(&format!("{on:?} slot {slot}"), &got, &want, CLOSE, 0.0);
            }
        }
    });
}

/// A quantised copy has the names of the original, and is near it.
#[test]
fn hybrids_are_quantised() {
    // In and out, q k v o, up and down, the embedding.
    quantised_to("q8", "granite-hub", 3 * 2 + 2 * 4 + 5 * 2 + 1);
    // Experts in one tensor, with what all tokens share; and experts in tensors of their own, between projections to fewer columns.
    quantised_to("q8", "granite-moe", 2 + 2 * 4 + 3 * 4 + 2);
    quantised_to("q4", "granite-moe-hub", 2 * 2 + 2 * 4 + 4 * 4 + 1);
    quantised_to("q8", "nemotron-h-moe", 2 + 2 * 4 + 2 * (6 * 2 + 2 + 2) + 2);
}

fn quantised_to(to: &str, name: &str, matrices: usize) {
    let golden = Golden::hybrid_named(name);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join(to);
    let program = assert_cmd::cargo::cargo_bin!("mamba-wgpu");
    let arguments = ["quantize", golden.folder.to_str().unwrap(), out.to_str().unwrap(), "--to", to];
    assert!(std::process::Command::new(program).args(arguments).status().unwrap().success());
    let (original, small) = (golden.checkpoint(), Checkpoint::open(&out).unwrap());
    let names = |c: &Checkpoint| -> std::collections::BTreeSet<String> {
        c.tensors().map(|t| t.name.trim_end_matches(".scales").to_owned()).collect()
    };
    assert_eq!(names(&small), names(&original));
    let quantised = small.tensors().filter(|t| t.dtype == to.to_uppercase()).count();
    assert_eq!(quantised, matrices, "{name}");
    block_on(async {
        let tokens = long(30);
        let mut logits = Vec::new();
        for (checkpoint, on) in [(&original, On::Cpu), (&small, On::Cpu), (&small, On::Gpu)] {
            let model = load(checkpoint, &on.open().await, Scan::default(), WHOLE).await;
            logits.push(after(&model, &tokens).await);
        }
        assert_close(&format!("{name} on both backends"), &logits[2], &logits[1], CLOSE, 0.0);
        // Which experts a token is given to may change with the roundings: then nothing near is promised.
        if to == "q8" && !name.contains("moe") {
            assert_close("near the original", &logits[1], &logits[0], 0.25, 0.0);
        }
    });
}

/// What is not run is said to be so, by the key that says it.
#[test]
fn other_families_are_refused() {
    let folder = std::fs::read_dir("tests/golden/hybrids").unwrap();
    let mut refused = 0;
    for name in folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        if REFUSED.iter().any(|family| name.starts_with(family)) {
            refused += 1;
            let path = std::path::Path::new("tests/golden/hybrids").join(&name);
            let error = Checkpoint::open(&path).unwrap_err().to_string();
            assert!(error.contains("`model_type`"), "{name}: {error}");
        }
    }
    assert!(refused >= 5, "{refused}");
}

/// A golden, to be changed.
fn golden(name: &str) -> make::Model {
    let folder = Golden::hybrid_named(name).folder;
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = text.replace(": Infinity", ": 1e30").replace("    Infinity", "    1e30");
    make::Model::read(config.as_bytes(), &std::fs::read(folder.join("model.safetensors")).unwrap())
}

/// What is said of it.
fn said(model: &make::Model) -> String {
    model.open().map_or_else(|error| error.to_string(), |_| "opened".into())
}

/// With a key set, be it to null.
fn with(mut model: make::Model, key: &str, value: Value) -> make::Model {
    model.config[key] = value;
    model
}

fn without_keys(model: make::Model, keys: &[&str]) -> make::Model {
    keys.iter().fold(model, |model, key| model.config(key, Value::Null))
}

/// Whether it gives the logits that transformers gives of the golden, on the CPU.
async fn is_still(name: &str, model: &make::Model) {
    let expected = Golden::hybrid_named(name).expected;
    let text = expected.sequences.iter().max_by_key(|s| s.tokens.len()).unwrap();
    let model = load(&model.open().unwrap(), &On::Cpu.open().await, Scan::default(), WHOLE).await;
    assert_close(name, &after(&model, &text.tokens).await, &text.last_logits, CLOSE, 0.0);
}

/// What a config says and the tensors do not is found, and named by its key.
#[test]
fn configs_that_the_tensors_contradict_are_refused() {
    let null = Value::Null;
    for (name, key, value, words) in [
        ("llama", "num_hidden_layers", 2.into(), "is 2, but there is a tensor `model.layers.2.input_layernorm.weight`"),
        ("llama", "num_hidden_layers", 9.into(), "`model.layers.3.input_layernorm.weight` is missing"),
        (
            "llama",
            "num_hidden_layers",
            1_000_000_000u64.into(),
            "is 1000000000: it must be a whole number from 1 to 4,096",
        ),
        ("llama", "num_hidden_layers", 5000.into(), "is 5000: it must be a whole number from 1 to 4,096"),
        ("llama", "num_hidden_layers", 0.into(), "`num_hidden_layers` is 0: it must be above 0"),
        ("llama", "num_attention_heads", 0.into(), "`num_attention_heads` is 0: it must be above 0"),
        ("llama", "num_attention_heads", null.clone(), "`num_attention_heads` is absent"),
        ("llama", "num_key_value_heads", 3.into(), "`num_key_value_heads` is 3, but there are 4 heads"),
        ("llama", "head_dim", 3.into(), "`head_dim` is 3"),
        (
            "llama",
            "attention_bias",
            true.into(),
            "the layers do not have a tensor `model.layers.0.self_attn.q_proj.bias`",
        ),
        ("llama-bias", "mlp_bias", false.into(), "`mlp_bias` is false, but the layers have"),
        ("llama", "hidden_act", "quick_gelu".into(), "`hidden_act` is \"quick_gelu\""),
        ("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), "no window is in use"),
        ("granite", "layer_types", json!(["mamba"]), "`layer_types` names 1"),
        ("granite", "layer_types", json!(["mamba", "x", "x", "x"]), "`layer_types`"),
        (
            "granite",
            "layer_types",
            null.clone(),
            "by the config's `layer_types`, which is absent, this layer's mixer is mamba2",
        ),
        ("granite", "residual_multiplier", 0.into(), "`residual_multiplier` is 0"),
        ("granite", "residual_multiplier", 2e-38.into(), "it must be nearer to 1: f32 does not hold its products"),
        ("granite", "embedding_multiplier", 1e-25.into(), "it must be nearer to 1: f32 does not hold its products"),
        ("granite", "embedding_multiplier", 1e30.into(), "it must be nearer to 1: f32 does not hold its products"),
        ("granite", "mamba_expand", 5.into(), "`mamba_expand` is 5"),
        ("granite", "mamba_d_state", 8.into(), "in_proj.weight"),
        ("granite-moe", "num_local_experts", 3.into(), "tensor `model.layers.0.block_sparse_moe.router.layer.weight`"),
        ("granite-moe", "num_local_experts", 5000.into(), "there is room for 1,024 experts"),
        ("granite-moe", "num_local_experts", 0.into(), "block_sparse_moe"),
        ("granite-moe", "num_experts_per_tok", 5.into(), "`num_experts_per_tok` is 5, but `num_local_experts` is 4"),
        ("granite-moe", "num_experts_per_tok", 0.into(), "`num_experts_per_tok` is 0"),
        ("granite-moe", "intermediate_size", 23.into(), "tensor `model.layers.0.block_sparse_moe.input_linear.weight`"),
        ("nemotron-h-moe", "mlp_bias", true.into(), "`mlp_bias` is true"),
        ("nemotron-h-moe", "n_group", 4.into(), "`n_group` is 4, but `n_routed_experts` is 6"),
        ("nemotron-h-moe-hub", "topk_group", 1.into(), "`topk_group` is 1, but there are 4 groups of 2"),
        ("nemotron-h-moe-hub", "topk_group", 5.into(), "`topk_group` is 5"),
        ("nemotron-h-moe", "moe_latent_size", null.clone(), "backbone.layers.1.mixer.experts.0.up_proj.weight"),
        ("nemotron-h-moe", "n_routed_experts", 8.into(), "backbone.layers.1.mixer.gate.weight"),
        ("nemotron-h-moe", "routed_scaling_factor", 0.into(), "`routed_scaling_factor` is 0"),
        ("nemotron-h", "layers_block_type", json!(["full_attention"]), "a tensor `backbone.layers.1."),
        ("nemotron-h", "layers_block_type", json!([]), "`layers_block_type` is []: it must name at least one layer"),
        ("nemotron-h", "layers_block_type", null, "`hybrid_override_pattern` is absent"),
        ("nemotron-h-hub", "hybrid_override_pattern", "".into(), "`hybrid_override_pattern` is \"\": it must name"),
        ("nemotron-h-hub", "hybrid_override_pattern", "M".repeat(5000).into(), "is \"MMMM"),
        (
            "nemotron-h-hub",
            "hybrid_override_pattern",
            "MMM*-M*".into(),
            "by the config's `hybrid_override_pattern` this",
        ),
        ("bamba", "attn_layer_indices", json!([0, 99]), "`attn_layer_indices` is [0,99]: it must be a list of layers"),
        ("bamba", "attn_layer_indices", json!([-1]), "`attn_layer_indices` is [-1]"),
        ("bamba", "attn_layer_indices", "x".into(), "`attn_layer_indices` is \"x\""),
        ("bamba", "attn_layer_indices", json!([]), "by the config's `attn_layer_indices` this layer's mixer is mamba2"),
        ("falcon-h1", "ssm_multipliers", json!([1, 2]), "`ssm_multipliers` is [1,2]"),
        (
            "falcon-h1",
            "attention_in_multiplier",
            1e-25.into(),
            "it must be nearer to 1: f32 does not hold its products",
        ),
        ("falcon-h1", "mamba_rms_norm", false.into(), "mamba.norm.weight"),
        ("falcon-h1-hub", "mamba_rms_norm", true.into(), "`model.layers.0.mamba.norm.weight` is missing"),
        ("falcon-h1-hub", "projectors_bias", true.into(), "do not have a tensor `model.layers.0.mamba.out_proj.bias`"),
        ("falcon-h1", "mamba_d_ssm", 10.into(), "`mamba_d_ssm` is 10, but there are 6 heads of 12"),
    ] {
        let said = said(&with(golden(name), key, value.clone()));
        assert!(said.contains(words), "{name}, {key} {value}: {said}");
        assert!(said.contains(key) || said.contains("tensor") || value.is_null(), "{name}, {key} {value}: {said}");
    }
    assert_eq!(said(&golden("llama")), "opened");
}

/// In Mamba's layers there is SiLU, whatever MLPs have.
#[test]
fn activations_of_mamba_other_than_silu_are_refused() {
    for (name, key) in [
        ("granite", "hidden_act"),
        ("bamba", "hidden_act"),
        ("falcon-h1", "hidden_act"),
        ("nemotron-h", "mamba_hidden_act"),
    ] {
        let said = |value: &str| said(&with(golden(name), key, value.into()));
        assert!(
            said("gelu").contains(&format!("`{key}` is \"gelu\": not supported (the activation of Mamba")),
            "{name}"
        );
        assert_eq!(said("swish"), "opened", "{name}");
    }
    // Without such layers it is the MLPs' alone, and Nemotron-H's have a key of their own.
    assert_eq!(said(&with(golden("llama"), "hidden_act", "gelu".into())), "opened");
    assert_eq!(said(&with(golden("nemotron-h"), "hidden_act", "gelu".into())), "opened");
}

/// transformers' classes but Bamba's turn whole heads, and with a scaling fail on a part.
#[test]
fn only_bamba_turns_parts_of_heads() {
    block_on(async {
        for name in ["llama", "mistral-window", "qwen2", "qwen3", "granite-rope", "falcon-h1"] {
            let plain = golden(name);
            let mut inside = golden(name);
            inside.config["rope_parameters"]["partial_rotary_factor"] = 0.5.into();
            is_still(name, &inside).await;
            is_still(name, &with(plain, "partial_rotary_factor", 0.5.into())).await;
            inside.config["rope_parameters"]["rope_type"] = "linear".into();
            inside.config["rope_parameters"]["factor"] = 2.into();
            let said = said(&inside);
            assert!(said.contains("`rope_parameters.partial_rotary_factor` is 0.5"), "{name}: {said}");
        }
        // Of Bamba's, what is said outside is overwritten by its class.
        is_still("bamba", &with(golden("bamba"), "partial_rotary_factor", 0.25.into())).await;
        let mut bamba = golden("bamba");
        bamba.config["rope_parameters"]["partial_rotary_factor"] = 0.25.into();
        let dims = |m: &make::Model| match m.open().unwrap().config().layers[0] {
            Shape::Attention(s) => s.rope.unwrap().dims,
            _ => 0,
        };
        assert_eq!((dims(&golden("bamba")), dims(&bamba)), (4, 2));
    });
}

/// Words about rotations name the key that says it.
#[test]
fn rotations_that_are_not_known_are_named() {
    let mut scaled = without_keys(golden("llama"), &["rope_parameters"]);
    for (scaling, words) in [
        (json!({ "type": "dynamic", "factor": 2 }), "`rope_scaling.type` is \"dynamic\": not supported"),
        (json!({ "type": "su" }), "`rope_scaling.type` is \"su\": not supported"),
        (json!({ "rope_type": "longrope" }), "`rope_scaling.rope_type` is \"longrope\": not supported"),
        (json!({ "type": "linear" }), "`rope_scaling.factor` is absent"),
        (json!({ "type": "yarn" }), "`rope_scaling.factor` is absent"),
        (json!({ "type": "yarn", "factor": null, "original_max_position_embeddings": 256 }), "opened"),
        (json!({ "type": "linear", "factor": 1e-300 }), "`rope_scaling` is {\"factor\":1e-300"),
    ] {
        scaled.config["rope_scaling"] = scaling.clone();
        assert!(said(&scaled).contains(words), "{scaling}: {}", said(&scaled));
    }
    // Only null means the quotient of the two lengths.
    scaled.config["rope_scaling"] = json!({ "type": "yarn", "factor": null, "original_max_position_embeddings": 256 });
    let null = scaled.open().unwrap().config().clone();
    scaled.config["rope_scaling"]["factor"] = 4.into();
    assert_eq!(null, *scaled.open().unwrap().config());
}

/// Where a config does not say whether there are biases, its class does, and a file that differs is refused.
#[test]
fn biases_and_norms_of_heads_are_those_of_the_class() {
    let llama_bias = || without_keys(golden("llama-bias"), &["attention_bias"]);
    for (model, words) in [
        (
            llama_bias(),
            "`attention_bias` is absent, which makes it false, but the layers have a tensor \
            `model.layers.0.self_attn.q_proj.bias`",
        ),
        (without_keys(golden("llama-bias"), &["mlp_bias"]), "`mlp_bias` is absent, which makes it false"),
        (without_keys(golden("falcon-h1"), &["projectors_bias"]), "a tensor `model.layers.0.mamba.out_proj.bias`"),
        (without_keys(golden("bamba"), &["mamba_proj_bias"]), "a tensor `model.layers.1.mamba.in_proj.bias`"),
        (without_keys(golden("nemotron-h"), &["use_bias"]), "a tensor `backbone.layers.1.mixer.in_proj.bias`"),
        (without_keys(golden("granite"), &["mamba_conv_bias"]).without("conv1d.bias"), "which makes it true, but"),
        (
            golden("qwen3").without("q_norm"),
            "`model.layers.0.self_attn.q_norm.weight` is missing: by the config's `model_type`",
        ),
        (golden("qwen3").without("_norm."), "`model.layers.0.self_attn.q_norm.weight` is missing"),
        (golden("qwen2").without("bias"), "`model.layers.0.self_attn.q_proj.bias` is missing"),
        (golden("qwen2").without("v_proj.bias"), "`model.layers.0.self_attn.v_proj.bias` is missing"),
        (with(golden("qwen2"), "model_type", "llama".into()), "q_proj.bias`"),
        (with(golden("qwen2"), "model_type", "mistral".into()), "`model_type` is \"mistral\", but the layers have"),
        (with(golden("qwen3"), "model_type", "llama".into()), "a tensor `model.layers.0.self_attn.q_norm.weight`"),
        (with(golden("qwen3"), "model_type", "qwen2".into()), "a tensor `model.layers.0.self_attn.q_norm.weight`"),
        // Nemotron-H's class does not read what its config says of these.
        (with(golden("nemotron-h"), "attention_bias", true.into()), "opened"),
        // One layer that lacks what the others have.
        (golden("qwen3").without("layers.0.self_attn.q_norm"), "layer of the same kind has one, `model.layers.1."),
    ] {
        assert!(said(&model).contains(words), "{words}: {}", said(&model));
    }
}

/// Of Qwen, as transformers has it.
#[test]
fn windows_are_those_of_the_class() {
    let windows = |model: &make::Model| -> Vec<usize> {
        let checkpoint = model.open().unwrap();
        let window = |layer: &Shape| if let Shape::Attention(s) = layer { Some(s.window) } else { None };
        checkpoint.config().layers.iter().filter_map(window).collect()
    };
    let qwen = |window: Option<Value>| {
        let model = without_keys(golden("qwen2"), &["layer_types", "sliding_window"]);
        let model = with(with(model, "use_sliding_window", true.into()), "max_window_layers", 1.into());
        window.into_iter().fold(model, |model, window| with(model, "sliding_window", window))
    };
    assert_eq!(windows(&qwen(Some(7.into()))), [0, 7]);
    assert_eq!(windows(&qwen(Some(Value::Null))), [0, 0], "null is none");
    assert_eq!(windows(&qwen(None)), [0, 4096]);
    assert_eq!(windows(&with(qwen(Some(7.into())), "use_sliding_window", false.into())), [0, 0]);
    assert_eq!(windows(&golden("mistral-window")), [24; 3]);
    assert_eq!(windows(&without_keys(golden("mistral-window"), &["sliding_window"])), [4096; 3]);
    assert_eq!(windows(&with(golden("mistral-window"), "sliding_window", Value::Null)), [0; 3]);
}

/// `architectures` tells the family as well as `model_type` does, with all that a class has of its own.
#[test]
fn classes_tell_the_family() {
    block_on(async {
        for name in
            ["llama", "mistral-window", "qwen2", "qwen3", "granite", "bamba", "falcon-h1-gate-first", "nemotron-h"]
        {
            let model = golden(name);
            let class = without_keys(golden(name), &["model_type"]);
            assert_eq!(class.open().unwrap().config(), model.open().unwrap().config(), "{name}");
            is_still(name, &class).await;
        }
    });
    // Defaults of the class, not Llama's.
    let said_of = |name: &str, keys: &[&str]| said(&without_keys(without_keys(golden(name), &["model_type"]), keys));
    assert!(said_of("qwen3", &["head_dim"]).contains("= [512, 32]"), "heads of 128");
    assert!(said_of("mistral-window", &["num_key_value_heads"]).contains("absent, which makes it 8, but"));
    assert!(said_of("nemotron-h", &["num_key_value_heads"]).contains("absent, which makes it 8, but"));
    assert!(said_of("qwen2", &["num_key_value_heads"]).contains("absent, which makes it 32, but"));
    assert!(said_of("falcon-h1", &["mamba_d_ssm"]).contains("`mamba_d_ssm` is 1024, but"));
    let class =
        |class: &str| said(&with(without_keys(golden("llama"), &["model_type"]), "architectures", json!([class])));
    assert_eq!(class("LlamaModel"), "opened");
    for other in ["Llama4ForCausalLM", "Qwen2MoeForCausalLM", "MistralCommonForCausalLM"] {
        assert!(class(other).contains("`architectures` is"), "{other}: {}", class(other));
    }
}

/// The CPU runs heads of any size; the kernels read four channels at a time.
#[test]
fn heads_of_other_than_fours_are_for_the_cpu() {
    block_on(async {
        for name in CPU_ONLY {
            let golden = Golden::hybrid_named(name);
            let loaded = async |on: On| {
                let backend = on.open().await;
                LanguageModel::load(&golden.checkpoint(), &backend, ModelOptions::default(), &mut |_, _| {}).await
            };
            assert!(loaded(On::Cpu).await.is_ok());
            let error = loaded(On::Gpu).await.err().unwrap().to_string();
            assert!(error.contains("heads of 10 channels") && error.contains("choose the CPU"), "{error}");
        }
    });
}
