//! Damaged, foreign and malicious checkpoints: each is refused with an error of the right kind whose message names the file,
//! tensor or key, and nothing panics. The last part damages a good checkpoint at random.

#[path = "common/make.rs"]
mod make;

use make::{safetensors_of, with_header, write_index, Model};
use mamba_wgpu::model::{synthetic::Spec, Arch, Checkpoint, LoadError};
use proptest::prelude::*;
use serde_json::{json, Value};
use std::{borrow::Cow, fs, path::Path};
use tempfile::{tempdir, TempDir};

/// Asserts the kind of an error and that its message contains every one of some words.
macro_rules! refused {
    ($result:expr, $variant:ident, $($word:expr),+) => {{
        let error = $result.err().expect("it was accepted");
        assert!(matches!(error, LoadError::$variant { .. }), "another error: {error:?}");
        let message = error.to_string();
        $(assert!(message.contains($word), "no `{}` in: {message}", $word);)+
    }};
}

/// The weights are read as a backend would.
fn convert(checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let mut result = Ok(());
    checkpoint.weights().for_each(|t| {
        if let (Ok(()), Err(e)) = (&result, t.to_f32()) {
            result = Err(e);
        }
    });
    result
}

/// A folder with a good checkpoint.
fn good() -> TempDir {
    let folder = tempdir().unwrap();
    Model::tiny().save(folder.path());
    folder
}

/// A folder with a good config and these bytes for weights.
fn with_weights(bytes: &[u8]) -> TempDir {
    let folder = good();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

fn with_config(text: &str) -> TempDir {
    let folder = good();
    fs::write(folder.path().join("config.json"), text).unwrap();
    folder
}

// --- files and folders ---

#[test]
fn no_folder() {
    refused!(Checkpoint::open(Path::new("/no/such/model")), NotFound, "/no/such/model");
    refused!(Checkpoint::open(Path::new("")), NotFound, "no such file");
}

#[test]
fn empty_folder() {
    let folder = tempdir().unwrap();
    refused!(Checkpoint::open(folder.path()), NoWeights, folder.path().to_str().unwrap(), "model.safetensors");
}

#[test]
fn empty_file() {
    refused!(Checkpoint::open(with_weights(b"").path()), EmptyFile, "model.safetensors", "0 bytes");
}

#[test]
fn a_folder_for_a_file() {
    let folder = good();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    refused!(Checkpoint::open(folder.path()), NotAFile, "model.safetensors");
}

#[cfg(unix)]
#[test]
fn a_device_for_a_config() {
    let folder = good();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("config.json")).unwrap();
    refused!(Checkpoint::open(folder.path()), NotAFile, "config.json");
}

#[test]
fn pickle_only() {
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let folder = tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::write(folder.path().join(name), "PK").unwrap();
        refused!(Checkpoint::open(folder.path()), PickleOnly, name, "save_file(", "weights_only=True");
        if name.ends_with(".bin") {
            refused!(Checkpoint::open(&folder.path().join(name)), PickleOnly, name, "save_file(");
        }
    }
}

#[test]
fn a_file_of_another_format() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, "GGUF").unwrap();
    refused!(Checkpoint::open(&path), NotSafetensors, "model.gguf");
}

#[test]
fn several_files_without_an_index() {
    let folder = good();
    let path = |name| folder.path().join(name);
    fs::rename(path("model.safetensors"), path("a.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().warnings().len(), 1);
    fs::copy(path("a.safetensors"), path("b.safetensors")).unwrap();
    refused!(Checkpoint::open(folder.path()), SeveralFiles, "2 .safetensors files", "index.json");
}

// --- the safetensors header ---

#[test]
fn truncated_anywhere() {
    let bytes = Model::tiny().safetensors();
    for length in [1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        refused!(Checkpoint::open(with_weights(&bytes[..length]).path()), Header, "model.safetensors");
    }
}

#[test]
fn bytes_after_the_end() {
    let mut bytes = Model::tiny().safetensors();
    bytes.push(0);
    refused!(Checkpoint::open(with_weights(&bytes).path()), Header, "model.safetensors", "after the last tensor");
}

#[test]
fn header_length_beyond_all_bounds() {
    for length in [1 << 63, u64::MAX, u64::MAX - 7, 100_000_001, 1 << 32] {
        let mut bytes = Model::tiny().safetensors();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused!(Checkpoint::open(with_weights(&bytes).path()), Header, "model.safetensors", &length.to_string());
    }
}

#[test]
fn header_that_is_not_json_or_not_tensors() {
    let deep = "[".repeat(100_000);
    let list = [
        "",
        "{",
        "[]",
        "3",
        "{\"t\": 3}",
        "{\"t\": {}}",
        "\u{1}",
        "{\"t\": {\"dtype\": \"F99\", \"shape\": [], \"data_offsets\": [0, 0]}}",
        &deep,
    ];
    for header in list {
        refused!(Checkpoint::open(with_weights(&with_header(header, &[])).path()), Header, "model.safetensors", "JSON");
    }
    let mut not_utf8 = with_header("{\"  \": {}}", &[]);
    not_utf8[10] = 0xff;
    refused!(Checkpoint::open(with_weights(&not_utf8).path()), Header, "model.safetensors");
}

#[test]
fn offsets_that_make_no_sense() {
    let entry =
        |a: u64, b: u64| format!(r#"{{"dtype": "U8", "shape": [{}], "data_offsets": [{a}, {b}]}}"#, b.wrapping_sub(a));
    for (header, words) in [
        (format!(r#"{{"out": {}}}"#, entry(0, 9)), ["`out`", "0..9"]),
        (format!(r#"{{"far": {}}}"#, entry(u64::MAX - 1, u64::MAX)), ["`far`", "18446744073709551615"]),
        (format!(r#"{{"back": {}}}"#, r#"{"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}"#), ["`back`", "4..0"]),
        (format!(r#"{{"a": {}, "b": {}}}"#, entry(0, 6), entry(4, 8)), ["`b`", "overlaps"]),
        (format!(r#"{{"a": {}, "b": {}}}"#, entry(0, 2), entry(4, 8)), ["`b`", "gap"]),
        (r#"{"size": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}"#.into(), ["`size`", "[3]"]),
        (
            r#"{"big": {"dtype": "F32", "shape": [9223372036854775808, 8], "data_offsets": [0, 8]}}"#.into(),
            ["`big`", "F32"],
        ),
        (r#"{"odd": {"dtype": "F4", "shape": [17], "data_offsets": [0, 8]}}"#.into(), ["`odd`", "F4"]),
    ] {
        let result = Checkpoint::open(with_weights(&with_header(&header, &[0; 8])).path());
        refused!(result, Header, "model.safetensors", words[0], words[1]);
    }
    // 2^64 bytes in sum, in steps that are no overflow each.
    let step = 1u64 << 61;
    let eight: Vec<String> =
        (0..8).map(|i| format!(r#""t{i}": {}"#, entry(i * step, (i * step).saturating_add(step - i / 7)))).collect();
    let result = Checkpoint::open(with_weights(&with_header(&format!("{{{}}}", eight.join(",")), &[0; 8])).path());
    refused!(result, Header, "model.safetensors", "`t0`");
}

#[test]
fn the_same_name_twice() {
    let model = Model::tiny();
    let twice = safetensors_of(model.tensors.iter().chain(model.tensors.iter().take(1)));
    refused!(
        Checkpoint::open(with_weights(&twice).path()),
        DuplicateTensor,
        "model.safetensors",
        &model.tensors[0].name
    );
    let shard = || Cow::Owned(model.safetensors());
    let result = Checkpoint::from_bytes(&model.config_json(), vec![shard(), shard()], None);
    refused!(result, DuplicateTensor, "model-00002-of-00002", "model-00001-of-00002");
    refused!(Checkpoint::from_bytes(&model.config_json(), vec![], None), NoWeights, "memory");
}

// --- the index of shards ---

fn with_index(change: impl FnOnce(&mut Value)) -> Result<Checkpoint, LoadError> {
    let folder = tempdir().unwrap();
    let mut index = Model::tiny().save_sharded(folder.path());
    Checkpoint::open(folder.path()).expect("the good index");
    change(&mut index);
    write_index(folder.path(), &index);
    Checkpoint::open(folder.path())
}

#[test]
fn index_that_is_no_index() {
    refused!(with_index(|index| *index = json!([])), Index, "model.safetensors.index.json");
    refused!(with_index(|index| *index = json!({ "weight_map": { "a": 3 } })), Index, "model.safetensors.index.json");
    refused!(with_index(|index| index["weight_map"] = json!({})), Index, "empty");
}

#[test]
fn index_that_names_a_missing_shard() {
    let change = |index: &mut Value| index["weight_map"]["backbone.norm_f.weight"] = json!("model-00009.safetensors");
    refused!(with_index(change), MissingShard, "index.json", "`backbone.norm_f.weight`", "model-00009.safetensors");
}

#[test]
fn index_that_leaves_its_folder() {
    for shard in ["../evil.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\..\\b", "c:x", "x/"] {
        let change = |index: &mut Value| index["weight_map"]["backbone.norm_f.weight"] = json!(shard);
        refused!(with_index(change), ShardPath, "index.json", "`backbone.norm_f.weight`", shard);
    }
}

#[test]
fn index_that_promises_a_tensor() {
    let change = |index: &mut Value| index["weight_map"]["ghost"] = json!("model-00001-of-00002.safetensors");
    refused!(with_index(change), NotInShard, "index.json", "`ghost`", "model-00001-of-00002.safetensors");
}

#[test]
fn index_without_a_tensor_that_is_needed() {
    let change =
        |index: &mut Value| drop(index["weight_map"].as_object_mut().unwrap().remove("backbone.norm_f.weight"));
    refused!(with_index(change), MissingTensor, "`backbone.norm_f.weight`", "model-00001-of-00002.safetensors");
}

#[test]
fn a_damaged_shard() {
    let folder = tempdir().unwrap();
    Model::tiny().save_sharded(folder.path());
    fs::write(folder.path().join("model-00002-of-00002.safetensors"), "short").unwrap();
    refused!(Checkpoint::open(folder.path()), Header, "model-00002-of-00002.safetensors");
}

// --- config.json ---

#[test]
fn config_missing() {
    let folder = good();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    refused!(Checkpoint::open(folder.path()), ConfigMissing, folder.path().to_str().unwrap(), "config.json");
    // A file named itself is taken for what its tensors say.
    let checkpoint = Checkpoint::open(&folder.path().join("model.safetensors")).unwrap();
    let c = checkpoint.config();
    assert_eq!((c.d_model, c.d_inner, c.d_state, c.d_conv, c.dt_rank, c.n_layer), (13, 26, 5, 3, 2, 2));
    assert_eq!((c.norm_eps, c.tie_embeddings, checkpoint.warnings().len()), (1e-5, true, 1));
}

#[test]
fn config_not_json() {
    let deep = "[".repeat(100_000);
    for text in ["", "{", "hidden_size: 3", "[1]", "null", "{\"a\": nan}", "\u{0}", &deep, "{} {}"] {
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
        Model::tiny().config("model_type", json!("llama")).open(),
        UnknownArchitecture,
        "config.json",
        "\"llama\""
    );
    let m = Model::tiny().config("model_type", Value::Null).config("architectures", json!(["JambaForCausalLM"]));
    refused!(m.open(), UnknownArchitecture, "`architectures`", "JambaForCausalLM");
}

#[test]
fn mamba2() {
    refused!(
        Model::tiny().config("model_type", json!("mamba2")).open(),
        Mamba2,
        "config.json",
        "not supported (Mamba-2)"
    );
    let m = Model::tiny().without("dt_proj").without("x_proj").add("backbone.layers.0.mixer.dt_bias", &[4], 0.0);
    refused!(m.open(), Mamba2, "`backbone.layers.0.mixer.dt_bias`", "not supported (Mamba-2)");
    let mut m = Model::tiny().original();
    m.config["ssm_cfg"]["layer"] = json!("Mamba2");
    refused!(m.open(), Mamba2, "config.json", "ssm_cfg.layer");
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

// --- tensors ---

#[test]
fn wrong_dtype() {
    let as_type = |dtype: &'static str, bytes: usize| {
        Model::tiny().edit("1.mixer.in_proj.weight", |t| {
            t.dtype = dtype.into();
            t.data = vec![0; t.shape.iter().product::<usize>() * bytes];
        })
    };
    for (dtype, bytes) in [("I8", 1), ("F8_E4M3", 1), ("F64", 8), ("I64", 8), ("BOOL", 1)] {
        refused!(
            as_type(dtype, bytes).open(),
            Dtype,
            "model.safetensors",
            "`backbone.layers.1.mixer.in_proj.weight`",
            dtype
        );
    }
    convert(&as_type("F16", 2).open().unwrap()).expect("mixed types are fine");
}

#[test]
fn wrong_shape() {
    for (end, shape) in [
        ("0.norm.weight", &[12][..]),
        ("1.norm.weight", &[13, 1]),
        ("1.mixer.in_proj.weight", &[13, 52]),
        ("0.mixer.conv1d.weight", &[26, 3, 1]),
        ("1.mixer.conv1d.weight", &[26, 1, 4]),
        ("0.mixer.conv1d.bias", &[27]),
        ("0.mixer.x_proj.weight", &[13, 26]),
        ("1.mixer.dt_proj.weight", &[26, 3]),
        ("0.mixer.dt_proj.bias", &[26, 1]),
        ("1.mixer.A_log", &[26, 6]),
        ("1.mixer.D", &[25]),
        ("0.mixer.out_proj.weight", &[26, 13]),
        ("norm_f.weight", &[14]),
    ] {
        let result = Model::tiny().reshape(end, shape).open();
        refused!(result, Shape, "model.safetensors", end, &format!("{shape:?}"), "expected (");
    }
    for (end, shape) in
        [("embeddings.weight", &[481][..]), ("0.mixer.A_log", &[130]), ("0.mixer.conv1d.weight", &[26, 3])]
    {
        refused!(Model::tiny().reshape(end, shape).open(), Rank, "model.safetensors", end, &format!("{shape:?}"));
    }
}

#[test]
fn every_tensor_is_needed() {
    let model = Model::tiny();
    for i in 0..model.tensors.len() {
        let mut damaged = Model::tiny();
        let name = damaged.tensors.remove(i).name;
        let result = damaged.open();
        if name.ends_with("conv1d.bias") {
            refused!(result, MissingTensor, "model.safetensors", &name, "has one");
        } else {
            refused!(result, MissingTensor, "model.safetensors", &name);
        }
    }
    let m = Model::tiny().without("conv1d.bias").config("use_conv_bias", Value::Null);
    m.open().expect("the convolution's bias may be missing in all layers");
}

#[test]
fn a_gap_between_layers() {
    let m = Model::tiny().rename("layers.1.", "layers.2.").config("num_hidden_layers", json!(3));
    refused!(m.open(), MissingTensor, "model.safetensors", "`backbone.layers.1.norm.weight`", "layer 2");
    let m = Model::tiny().rename("layers.1.", "layers.18446744073709551615.");
    refused!(m.open(), MissingTensor, "`backbone.layers.1.norm.weight`");
    refused!(Model::tiny().without("layers.").open(), MissingTensor, "`backbone.layers.0.norm.weight`", "no layers");
}

#[test]
fn no_tensors_at_all() {
    refused!(
        Checkpoint::open(with_weights(&with_header("{}", &[])).path()),
        MissingTensor,
        "model.safetensors",
        "embeddings.weight"
    );
}

#[test]
fn dimensions_of_zero() {
    for (end, shape) in [
        ("embeddings.weight", &[0, 13][..]),
        ("embeddings.weight", &[37, 0]),
        ("0.mixer.A_log", &[26, 0]),
        ("0.mixer.conv1d.weight", &[26, 1, 0]),
        ("0.mixer.dt_proj.weight", &[26, 0]),
        ("1.mixer.D", &[0]),
        ("1.mixer.in_proj.weight", &[0, 0]),
    ] {
        refused!(Model::tiny().reshape(end, shape).open(), ZeroSize, "model.safetensors", end, &format!("{shape:?}"));
    }
    // An element count of zero hides a huge dimension.
    let m = Model::tiny().edit("0.mixer.A_log", |t| (t.shape, t.data) = (vec![usize::MAX / 64, 0], vec![]));
    refused!(m.open(), ZeroSize, "0.mixer.A_log");
}

#[test]
fn non_finite_weights() {
    for (end, at, value) in [
        ("1.mixer.A_log", 7, f32::NAN),
        ("embeddings.weight", 480, f32::INFINITY),
        ("norm_f.weight", 0, f32::NEG_INFINITY),
    ] {
        let m = Model::tiny().edit(end, |t| t.data[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes()));
        let checkpoint = m.open().expect("values are read when they are used");
        refused!(
            convert(&checkpoint),
            NonFinite,
            "model.safetensors",
            end,
            &format!("{value}"),
            &format!("element {at}:")
        );
    }
}

#[test]
fn heads_tied_and_untied() {
    let untied = || Model::new(&Spec { tied: false, ..Spec::preset("tiny").unwrap() });
    assert!(!untied().open().unwrap().config().tie_embeddings);
    // Untied, but no head stored.
    refused!(untied().without("lm_head").open(), MissingTensor, "model.safetensors", "`lm_head.weight`", "config");
    // Tied, but a different head stored: the config is wrong, as transformers 5 sees it.
    let checkpoint = untied().config("tie_word_embeddings", json!(true)).open().unwrap();
    assert!(!checkpoint.config().tie_embeddings && checkpoint.weights().lm_head.is_some());
    assert!(checkpoint.warnings()[0].contains("`lm_head.weight` differs"), "{:?}", checkpoint.warnings());
    // Tied, and the same matrix stored twice.
    let mut same = Model::tiny();
    let data = same.tensors.iter().find(|t| t.name.ends_with("embeddings.weight")).unwrap().data.clone();
    same = same.add("lm_head.weight", &[37, 13], 0.0).edit("lm_head.weight", |t| t.data = data);
    let checkpoint = same.open().unwrap();
    assert!(
        checkpoint.config().tie_embeddings
            && checkpoint.weights().lm_head.is_none()
            && checkpoint.warnings().is_empty()
    );
    // Tied, stored under the head's name only.
    let checkpoint = Model::tiny().rename("backbone.embeddings.weight", "lm_head.weight").open().unwrap();
    assert!(checkpoint.config().tie_embeddings && checkpoint.weights().embedding.name == "lm_head.weight");
    // A head of another shape.
    refused!(untied().reshape("lm_head.weight", &[40, 13]).open(), Shape, "`lm_head.weight`", "[40, 13]", "[37, 13]");
}

#[test]
fn tensors_beside_the_known_ones() {
    let checkpoint = Model::tiny().add("backbone.layers.0.mixer.extra", &[3], 0.0).open().unwrap();
    assert!(checkpoint.warnings()[0].contains("`backbone.layers.0.mixer.extra`"));
    assert_eq!(checkpoint.tensors().filter(|t| !t.used).count(), 1);
    for name in
        ["backbone.norm_f.bias", "backbone.layers.1.norm.bias", "backbone.layers.0.mixer.x_proj.bias", "lm_head.bias"]
    {
        refused!(Model::tiny().add(name, &[13], 0.0).open(), UnsupportedTensor, "model.safetensors", name);
    }
}

#[test]
fn names_of_every_scheme() {
    for (from, to) in
        [("embeddings.", "embedding."), ("backbone.", "model.backbone."), ("backbone.", "model."), ("backbone.", "")]
    {
        let checkpoint = Model::tiny().rename(from, to).open().unwrap();
        assert!(checkpoint.warnings().is_empty());
        convert(&checkpoint).unwrap();
    }
    let m = Model::tiny().add("embedding.weight", &[37, 13], 0.0);
    refused!(m.open(), AmbiguousNames, "memory", "`backbone.embeddings.weight`", "`embedding.weight`");
    let falcon = Model::new(&Spec { arch: Arch::FalconMamba, ..Spec::preset("tiny").unwrap() }).open().unwrap();
    assert_eq!((falcon.config().arch, falcon.config().mixer_rms_eps), (Arch::FalconMamba, 1e-6));
}

#[test]
fn rows_outside_a_tensor() {
    let checkpoint = Model::tiny().open().unwrap();
    let embedding = checkpoint.weights().embedding;
    refused!(embedding.rows_to_f32(30..38), Rows, "`backbone.embeddings.weight`", "30..38", "37");
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 5..3;
    refused!(embedding.rows_to_f32(backwards), Rows, "5..3");
    refused!(embedding.rows_to_f16(0..1), Dtype, "`backbone.embeddings.weight`", "f32");
}

// --- at random ---

/// Opens and converts; only panics fail.
fn survives(config: &[u8], weights: Vec<u8>) {
    if let Ok(checkpoint) = Checkpoint::from_bytes(config, vec![Cow::Owned(weights)], None) {
        let _ = convert(&checkpoint);
        let _ = checkpoint.tensors().count();
    }
}

/// Where to damage `length` bytes: the header and what follows are hit alike.
fn positions(length: usize) -> impl Strategy<Value = Vec<(usize, u8)>> {
    let position = prop_oneof![0..16usize, 0..length.min(3000), 0..length];
    prop::collection::vec((position, any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn damaged_weights_never_panic(damage in positions(Model::tiny().safetensors().len()), cut in 0..4000usize) {
        let model = Model::tiny();
        let mut bytes = model.safetensors();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if cut % 3 == 0 {
            bytes.truncate(bytes.len().saturating_sub(cut));
        }
        survives(&model.config_json(), bytes);
    }

    /// Numbers and punctuation of the header replaced by others: mostly still JSON.
    #[test]
    fn altered_headers_never_panic(edits in prop::collection::vec((0..3000usize, prop::sample::select(b"0123456789,:[]{}\"F".to_vec())), 1..5)) {
        let model = Model::tiny();
        let mut bytes = model.safetensors();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, byte) in edits {
            bytes[8 + at % header] = byte;
        }
        survives(&model.config_json(), bytes);
    }

    #[test]
    fn damaged_configs_never_panic(damage in positions(Model::tiny().config_json().len())) {
        let model = Model::tiny();
        let mut config = model.config_json();
        for (at, byte) in damage {
            let at = at % config.len();
            config[at] = byte;
        }
        survives(&config, model.safetensors());
    }
}
