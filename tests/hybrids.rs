//! What is particular to models with attention: texts that share pages, states in files, going back, quantising, and the families that
//! are refused. Their numbers are compared in tests/goldens.rs.

mod common;

use common::{assert_close, load, Golden, On, REFUSED, WHOLE};
use mamba_wgpu::generate::Text;
use mamba_wgpu::model::{Checkpoint, LanguageModel, ModelId, SavedState, Scan};
use pollster::block_on;

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
    let golden = Golden::hybrid_named("granite-hub");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("q8");
    let program = assert_cmd::cargo::cargo_bin!("mamba-wgpu");
    let arguments = ["quantize", golden.folder.to_str().unwrap(), out.to_str().unwrap(), "--to", "q8"];
    assert!(std::process::Command::new(program).args(arguments).status().unwrap().success());
    let (original, small) = (golden.checkpoint(), Checkpoint::open(&out).unwrap());
    let names = |c: &Checkpoint| -> std::collections::BTreeSet<String> {
        c.tensors().map(|t| t.name.trim_end_matches(".scales").to_owned()).collect()
    };
    assert_eq!(names(&small), names(&original));
    let q8 = small.tensors().filter(|t| t.dtype == "Q8").count();
    assert_eq!(q8, 3 * 2 + 2 * 4 + 5 * 2 + 1, "in and out, q k v o, up and down, the embedding");
    block_on(async {
        let tokens = long(30);
        let mut logits = Vec::new();
        for (checkpoint, on) in [(&original, On::Cpu), (&small, On::Cpu), (&small, On::Gpu)] {
            let model = load(checkpoint, &on.open().await, Scan::default(), WHOLE).await;
            logits.push(after(&model, &tokens).await);
        }
        assert_close("on both backends", &logits[2], &logits[1], CLOSE, 0.0);
        assert_close("near the original", &logits[1], &logits[0], 0.25, 0.0);
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
            let said = ["`model_type`", "`num_local_experts`", "`layers_block_type`", "`hybrid_override_pattern`"];
            assert!(said.iter().any(|key| error.contains(key)), "{name}: {error}");
        }
    }
    assert!(refused >= 8, "{refused}");
}

/// A golden with its config changed: what is said of it.
fn changed(name: &str, change: &dyn Fn(&mut serde_json::Value)) -> String {
    let golden = Golden::hybrid_named(name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden.folder.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let text = std::fs::read_to_string(golden.folder.join("config.json")).unwrap();
    let mut config =
        serde_json::from_str(&text.replace(": Infinity", ": 1e30").replace("    Infinity", "    1e30")).unwrap();
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Checkpoint::open(folder.path()).map_or_else(|error| error.to_string(), |_| "opened".into())
}

/// What a config says and the tensors do not is found, and named by its key.
#[test]
fn configs_that_the_tensors_contradict_are_refused() {
    let null = serde_json::Value::Null;
    for (name, key, value, words) in [
        ("llama", "num_hidden_layers", 2.into(), "`num_hidden_layers` is 2, but there is a tensor `layers.2."),
        ("llama", "num_hidden_layers", 9.into(), "`layers.3.input_layernorm.weight` is missing"),
        ("llama", "num_hidden_layers", 1_000_000_000u64.into(), "`num_hidden_layers` is 1000000000"),
        ("llama", "num_attention_heads", 0.into(), "`num_attention_heads` is 0: it must be above 0"),
        ("llama", "num_attention_heads", null.clone(), "`num_attention_heads` is absent"),
        ("llama", "num_key_value_heads", 3.into(), "`num_key_value_heads` is 3, but there are 4 heads"),
        ("llama", "head_dim", 3.into(), "`head_dim` is 3"),
        ("llama", "attention_bias", true.into(), "`attention_bias` is true, but the layers do not have"),
        ("llama-bias", "mlp_bias", false.into(), "`mlp_bias` is false, but the layers have"),
        ("llama", "hidden_act", "quick_gelu".into(), "`hidden_act` is \"quick_gelu\""),
        ("granite", "layer_types", serde_json::json!(["mamba"]), "`layer_types` names 1"),
        ("granite", "layer_types", serde_json::json!(["mamba", "x", "x", "x"]), "`layer_types`"),
        ("granite", "residual_multiplier", 0.into(), "`residual_multiplier` is 0"),
        ("granite", "mamba_expand", 5.into(), "`mamba_expand` is 5"),
        ("granite", "mamba_d_state", 8.into(), "in_proj.weight"),
        ("nemotron-h", "layers_block_type", serde_json::json!(["full_attention"]), "there is a tensor"),
        ("nemotron-h", "layers_block_type", null, "absent"),
        ("falcon-h1", "ssm_multipliers", serde_json::json!([1, 2]), "`ssm_multipliers` is [1,2]"),
        ("falcon-h1", "mamba_rms_norm", false.into(), "mamba.norm.weight"),
        ("falcon-h1-hub", "mamba_rms_norm", true.into(), "mamba.norm.weight` is missing"),
        ("falcon-h1", "mamba_d_ssm", 10.into(), "`mamba_d_ssm` is 10, but there are 6 heads of 12"),
    ] {
        let said = changed(name, &|config| config[key] = value.clone());
        assert!(said.contains(words), "{name}, {key} {value}: {said}");
    }
    assert_eq!(changed("llama", &|_| ()), "opened");
}
