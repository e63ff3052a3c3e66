//! Configs that are damaged, foreign, or contradict the tensors.

use crate::{good, make::Model, with_config};
use mamba_wgpu::model::{synthetic::Spec, Checkpoint, LoadError};
use serde_json::{json, Value};
use std::fs;

#[test]
fn config_missing() {
    let folder = good();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    refused!(Checkpoint::open(folder.path()), ConfigMissing, folder.path().to_str().unwrap(), "config.json");
    // A file named itself is taken for what its tensors say.
    let checkpoint = Checkpoint::open(&folder.path().join("model.safetensors")).unwrap();
    let c = checkpoint.config();
    let sizes: Vec<_> = c.layers[1].dimensions().into_iter().map(|(_, size)| size).collect();
    assert_eq!((c.d_model, c.n_layer(), sizes), (13, 2, vec![26, 5, 3, 2]));
    assert_eq!((c.norm_eps, c.tie_embeddings, checkpoint.warnings().len()), (1e-5, true, 1));
}

#[test]
fn config_not_json() {
    let deep = "[".repeat(100_000);
    refused!(Checkpoint::open(with_config("").path()), EmptyFile, "config.json");
    for text in ["{", "hidden_size: 3", "[1]", "null", "{\"a\": nan}", "\u{0}", &deep, "{} {}"] {
        refused!(Checkpoint::open(with_config(text).path()), ConfigSyntax, "config.json");
    }
}

#[test]
fn config_with_non_finite_numbers_is_read() {
    let config = Model::tiny().config("time_step_limit", json!("HERE")).config.to_string();
    let folder = with_config(&config.replace("\"HERE\"", "[0.0, Infinity, -Infinity, NaN]"));
    assert!(Checkpoint::open(folder.path()).unwrap().warnings().is_empty());
    let config = Model::tiny().config("layer_norm_epsilon", json!("HERE")).config.to_string();
    let folder = with_config(&config.replace("\"HERE\"", "NaN"));
    refused!(Checkpoint::open(folder.path()), ConfigValue, "config.json", "`layer_norm_epsilon`", "NaN");
}

#[test]
fn config_values_of_the_wrong_kind() {
    for (key, value) in [
        ("hidden_size", json!("13")),
        ("hidden_size", json!(-13)),
        ("hidden_size", json!(1e300)),
        ("num_hidden_layers", json!([2])),
        ("vocab_size", json!(true)),
        ("layer_norm_epsilon", json!(0)),
        ("layer_norm_epsilon", json!(1e60)),
        ("tie_word_embeddings", json!("yes")),
        ("eos_token_id", json!({})),
        ("model_type", json!(7)),
        ("time_step_rank", json!("automatic")),
    ] {
        refused!(
            Model::tiny().config(key, value.clone()).open(),
            ConfigValue,
            "config.json",
            &format!("`{key}`"),
            &value.to_string()
        );
    }
}

#[test]
fn config_that_contradicts_the_tensors() {
    for (key, value, found) in [
        ("hidden_size", json!(64), "d_model 13 (`backbone.embeddings.weight [37, 13]`)"),
        ("num_hidden_layers", json!(24), "2 layers stored is `backbone.layers.1.*`"),
        ("num_hidden_layers", json!(1), "2 layers"),
        ("state_size", json!(16), "d_state 5 (`backbone.layers.0.mixer.A_log [26, 5]`)"),
        ("conv_kernel", json!(4), "d_conv 3 (`backbone.layers.0.mixer.conv1d.weight [26, 1, 3]`)"),
        ("intermediate_size", json!(52), "d_inner 26"),
        ("time_step_rank", json!(3), "dt_rank 2 (`backbone.layers.0.mixer.dt_proj.weight [26, 2]`)"),
        ("time_step_rank", json!("auto"), "dt_rank 2"),
        ("vocab_size", json!(50280), "37 rows"),
        ("use_bias", json!(true), "in_proj.bias"),
        ("use_conv_bias", json!(false), "conv1d.bias"),
    ] {
        refused!(Model::tiny().config(key, value).open(), Contradiction, "config.json", &format!("`{key}`"), found);
    }
    let mut original = Model::tiny().original();
    original.open().unwrap();
    original.config["ssm_cfg"]["d_state"] = json!(16);
    refused!(original.open(), Contradiction, "`ssm_cfg.d_state`", "d_state 5");
}

/// Leftovers in published configs that no library reads.
#[test]
fn harmless_contradictions_are_warnings() {
    let model = |change: &dyn Fn(Model) -> Model| change(Model::tiny()).open().unwrap().warnings().to_vec();
    assert!(model(&|m| m).is_empty());
    for (key, value) in
        [("expand", json!(16)), ("d_inner", json!(160)), ("d_model", json!(1)), ("vocab_size", json!(30))]
    {
        let warnings = model(&|m| m.config(key, value.clone()));
        assert!(warnings.len() == 1 && warnings[0].contains(&format!("`{key}`")), "{warnings:?}");
    }
    // Padded to a multiple of 8 as mamba-ssm does, 33 to 40.
    assert!(model(&|m| m.reshape("embeddings.weight", &[40, 13]).config("vocab_size", json!(33))).is_empty());
    // Without intermediate_size, expand decides.
    let m = Model::tiny().config("intermediate_size", Value::Null).config("expand", json!(16));
    refused!(m.open(), Contradiction, "`expand`", "d_inner 26");
}

#[test]
fn another_architecture() {
    refused!(
        Model::tiny().config("model_type", json!("rwkv")).open(),
        UnknownArchitecture,
        "config.json",
        "\"rwkv\"",
        "granitemoehybrid"
    );
    let m = Model::tiny().config("model_type", Value::Null).config("architectures", json!(["JambaForCausalLM"]));
    refused!(m.open(), UnknownArchitecture, "`architectures`", "JambaForCausalLM");
}

#[test]
fn mamba2() {
    // A config that says Mamba-2 of Mamba-1's tensors, and the reverse.
    refused!(Model::tiny().config("model_type", json!("mamba2")).open(), MissingTensor, "mixer.dt_bias");
    let m = Model::tiny().without("dt_proj").without("x_proj").add("backbone.layers.0.mixer.dt_bias", &[4], 0.0);
    refused!(m.open(), Contradiction, "`model_type`", "`backbone.layers.0.mixer.dt_bias`", "only Mamba-2");
    let mut m = Model::tiny().original();
    m.config["ssm_cfg"]["layer"] = json!("Mamba2");
    refused!(m.open(), MissingTensor, "mixer.dt_bias");
    // The key that decided is named, or said to be absent.
    let mamba2 = || Model::new(&Spec::preset("mamba2-tiny").unwrap());
    let only = "only Mamba-2";
    refused!(mamba2().config("model_type", json!("mamba")).open(), Contradiction, "`model_type` is \"mamba\"", only);
    let bare = || mamba2().config("model_type", Value::Null).config("architectures", Value::Null);
    refused!(bare().open(), Contradiction, "`model_type` is absent, which makes it a Mamba-1", only);
    let of_class = bare().config("architectures", json!(["MambaForCausalLM"]));
    refused!(of_class.open(), Contradiction, "`architectures` is [\"MambaForCausalLM\"]", only);
    let layer = |ssm_cfg| bare().config("ssm_cfg", ssm_cfg).open();
    refused!(layer(json!({ "layer": "Mamba1" })), Contradiction, "`ssm_cfg.layer` is \"Mamba1\"", only);
    refused!(layer(json!({})), Contradiction, "`ssm_cfg.layer` is absent, which makes it a Mamba-1", only);
}

/// A checkpoint of tests/golden/mamba2 in mamba-ssm's layout, with a key of its `ssm_cfg` set, or with null removed.
fn mamba_ssm(name: &str, key: &str, value: Value) -> Model {
    let file = |file: &str| fs::read(format!("tests/golden/mamba2/{name}/{file}")).unwrap();
    let text = String::from_utf8(file("config.json")).unwrap().replace("Infinity", "1e30");
    let mut m = Model::read(text.as_bytes(), &file("model.safetensors"));
    let ssm_cfg = m.config["ssm_cfg"].as_object_mut().unwrap();
    match value {
        Value::Null => ssm_cfg.remove(key),
        value => ssm_cfg.insert(key.into(), value),
    };
    m
}

#[test]
fn groups_that_shapes_leave_open() {
    let model = || Model::new(&Spec::preset("mamba2-tiny").unwrap());
    let rows = "B and C have 21 rows each (`backbone.layers.0.mixer.conv1d.weight [72, 1, 3]`)";
    // Another number of groups would fit the tensors, but for the states that the config says.
    refused!(
        model().config("n_groups", json!(1)).open(),
        Contradiction,
        "`n_groups` is 1",
        rows,
        "3 groups of `state_size` 7"
    );
    let absent = "`n_groups` is absent, which transformers takes as 8";
    refused!(model().config("n_groups", Value::Null).open(), Contradiction, absent, rows);
    // Where it is they that are wrong, they are named.
    refused!(model().config("state_size", json!(5)).open(), Contradiction, "`state_size` is 5", "d_state 7");
    assert!(model().config("state_size", Value::Null).open().is_ok(), "the groups say how many");

    mamba_ssm("ssm-norm-first", "chunk_size", json!(64)).open().unwrap();
    let one = "`ssm_cfg.ngroups` is absent, which mamba-ssm takes as 1";
    let rows = "B and C have 12 rows each";
    let absent = mamba_ssm("ssm-norm-first", "ngroups", Value::Null).open();
    refused!(absent, Contradiction, one, rows, "2 groups of `ssm_cfg.d_state` 6");
    let mut both = mamba_ssm("ssm-norm-first", "ngroups", Value::Null);
    both.config["ssm_cfg"].as_object_mut().unwrap().remove("d_state");
    refused!(both.open(), Contradiction, one, rows, "`ssm_cfg.d_state` is absent too: mamba-ssm takes it as 128");
    // All defaults, and tensors that have them.
    assert_eq!(mamba_ssm("original", "headdim", json!(64)).open().unwrap().config().dimension("d_state"), Some(128));
}

#[test]
fn options_of_mamba_ssms_layers() {
    let with = |key, value| mamba_ssm("ssm-no-norm", key, value).open();
    with("activation", json!("swish")).unwrap();
    with("A_init_range", json!([1, 16])).unwrap();
    with("process_group", Value::Null).unwrap();
    refused!(with("activation", json!("gelu")), UnsupportedOption, "`ssm_cfg.activation` is \"gelu\"", "silu");
    refused!(with("rms_norm_eps", json!(1e-6)), UnsupportedOption, "`ssm_cfg.rms_norm_eps` is", "mamba-ssm");
    let mut m = Model::tiny().original();
    m.config["ssm_cfg"]["dt_norm"] = json!(true);
    refused!(m.open(), UnsupportedOption, "`ssm_cfg.dt_norm` is true");
    m.config["ssm_cfg"]["dt_norm"] = Value::Null;
    m.open().unwrap();
    m.config["ssm_cfg"] = json!("none");
    refused!(m.open(), ConfigValue, "`ssm_cfg` is \"none\"", "object");
    // transformers reads no such object.
    Model::tiny().config("ssm_cfg", json!({ "activation": "gelu" })).open().unwrap();
}

/// What can be wrong with a Mamba-2 of which all tensors are there.
#[test]
fn mamba2_contradictions() {
    let model = || Model::new(&Spec::preset("mamba2-tiny").unwrap());
    assert_eq!(model().open().unwrap().config().dimension("n_groups"), Some(3));
    for (key, value, found) in [
        ("n_groups", json!(4), "6 heads"),
        ("n_groups", json!(0), "6 heads"),
        ("state_size", json!(8), "d_state 7"),
        ("num_heads", json!(5), "n_heads 6"),
        ("head_dim", json!(6), "head_dim 5"),
        ("conv_kernel", json!(4), "d_conv 3"),
        ("expand", json!(3), "d_inner 30"),
    ] {
        refused!(model().config(key, value).open(), Contradiction, key, found);
    }
    let infinite = json!("Infinity");
    for limits in [
        json!([1.0, 0.5]),
        json!([0.0]),
        json!("Infinity"),
        json!([0.0, "x"]),
        json!([null, 1.0]),
        json!([infinite, infinite]),
        json!([{ "__float__": "Infinity" }, { "__float__": "Infinity" }]),
        json!([-0.1, 1.0]),
        json!(["-Infinity", "Infinity"]),
        json!(["NaN", 1.0]),
        json!([1e60, 1e61]),
    ] {
        refused!(model().config("time_step_limit", limits).open(), ConfigValue, "time_step_limit", "two numbers");
    }
    refused!(model().without("mixer.norm").open(), MissingTensor, "backbone.layers.0.mixer.norm.weight");
    // Its tensors are those of other models too.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    fs::write(&file, model().safetensors()).unwrap();
    refused!(Checkpoint::open(&file), ConfigNeeded, "model.safetensors", "config.json", "groups");
    // transformers' keys are read also where its class alone says whose they are.
    let m = model().config("model_type", Value::Null).config("architectures", json!(["Mamba2ForCausalLM"]));
    let m = m.config("time_step_limit", json!([0.25, 0.5]));
    let bare = m.open().unwrap();
    let limited = model().config("time_step_limit", json!([0.25, 0.5])).open().unwrap();
    assert_eq!(bare.config().layers, limited.config().layers);
    assert_ne!(bare.config().layers, model().open().unwrap().config().layers);
    // Rows that no sizes explain.
    let m = model().without("in_proj").add("backbone.layers.0.mixer.in_proj.weight", &[40, 15], 0.0);
    let m = m.add("backbone.layers.1.mixer.in_proj.weight", &[40, 15], 0.0);
    refused!(m.open(), Rank, "backbone.layers.0.mixer.in_proj.weight", "[40, 15]");
}

#[test]
fn options_that_are_not_implemented() {
    refused!(
        Model::tiny().config("hidden_act", json!("gelu")).open(),
        UnsupportedOption,
        "`hidden_act`",
        "gelu",
        "silu"
    );
    for (key, value) in [("rms_norm", json!(false)), ("attn_layer_idx", json!([3])), ("d_intermediate", json!(4096))] {
        refused!(
            Model::tiny().original().config(key, value).open(),
            UnsupportedOption,
            "config.json",
            &format!("`{key}`")
        );
    }
    let m = Model::tiny().original().config("attn_layer_idx", json!([])).config("d_intermediate", json!(0));
    m.open().unwrap();
}
