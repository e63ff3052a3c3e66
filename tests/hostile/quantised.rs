//! Quantised checkpoints whose parts are missing, of the wrong shape or type, or contradict the metadata.

use crate::{
    convert,
    make::{Model, Tensor},
};
use mamba_wgpu::model::{synthetic::Spec, Checkpoint, Dtype, LoadError};
use serde_json::{json, Value};
use std::borrow::Cow;

fn tiny(dtype: Dtype) -> Model {
    Model::new(&Spec { dtype, ..Spec::preset("tiny").unwrap() })
}

const IN_PROJ: &str = "backbone.layers.1.mixer.in_proj.weight";

#[test]
fn good_ones_open() {
    for dtype in [Dtype::Q8, Dtype::Q4] {
        let checkpoint = tiny(dtype).open().unwrap();
        assert!(checkpoint.warnings().is_empty(), "{:?}", checkpoint.warnings());
        convert(&checkpoint).unwrap();
        let info = checkpoint.tensors().find(|t| t.name == IN_PROJ).expect("one tensor, by the matrix's name");
        assert_eq!((info.dtype, info.shape), (dtype.to_string().to_uppercase(), &[52, 13][..]));
        assert_eq!(info.bytes, 52 * if dtype == Dtype::Q8 { 34 } else { 18 });
        let weights = checkpoint.weights();
        assert_eq!(weights.layers[0].get("mixer.dt_proj.weight").unwrap().dtype, Dtype::F16);
        assert!(weights.layers[0].get("mixer.in_proj.weight").unwrap().rows_to_f32(51..53).is_err());
        // Sharded by somebody else: each shard has the metadata of its own tensors.
        let model = tiny(dtype);
        let shapes: Value = serde_json::from_str(model.metadata["quantisation_shapes"].as_str().unwrap()).unwrap();
        let shards = [true, false].map(|first| {
            let mine = |name: &str| name.contains("layers.0") == first;
            let shapes: serde_json::Map<_, _> =
                shapes.as_object().unwrap().clone().into_iter().filter(|(n, _)| mine(n)).collect();
            let mut shard = tiny(dtype).metadata("quantisation_shapes", json!(Value::Object(shapes).to_string()));
            shard.tensors.retain(|t| mine(&t.name));
            Cow::Owned(shard.safetensors())
        });
        convert(&Checkpoint::from_bytes(&model.config_json(), shards.into(), None).unwrap()).unwrap();
    }
}

#[test]
fn metadata_that_are_missing_or_unknown() {
    let with = |key: &str, value: Value| tiny(Dtype::Q8).metadata(key, value).open();
    for (key, value, words) in [
        ("quantisation", Value::Null, ["has no `quantisation`", ".q8"]),
        ("quantisation", json!("q5"), ["\"q5\"", "q8 and q4"]),
        ("quantisation", json!(""), ["`quantisation`", "q8 and q4"]),
        ("quantisation_version", Value::Null, ["without", "`quantisation_version`"]),
        ("quantisation_version", json!("2"), ["\"2\"", "version 1"]),
        ("quantisation_block", Value::Null, ["without", "`quantisation_block`"]),
        ("quantisation_block", json!("64"), ["\"64\"", "32"]),
        ("quantisation_block", json!("many"), ["\"many\"", "32"]),
        ("quantisation_shapes", Value::Null, ["without", "`quantisation_shapes`"]),
        ("quantisation_shapes", json!("[1"), ["`quantisation_shapes`", "[n, k]"]),
        ("quantisation_shapes", json!("{\"a\": [1]}"), ["`quantisation_shapes`", "[n, k]"]),
        ("quantisation_shapes", json!("{\"a\": [1, -2]}"), ["`quantisation_shapes`", "[n, k]"]),
        ("quantisation_shapes", json!("{}"), ["belongs to no matrix", "`quantisation_shapes`"]),
        (
            "quantisation_shapes",
            json!(format!("{{\"{IN_PROJ}\": [52, 18446744073709551615]}}")),
            ["18446744073709551615", IN_PROJ],
        ),
        ("quantisation_shapes", json!("{\"backbone.norm_f.weight\": [1, 13]}"), ["norm_f", "quantised and as F16"]),
        ("quantisation_shapes", json!("{\"backbone.layers.0.mixer.A\": [1, 13]}"), ["mixer.A", "never quantised"]),
    ] {
        refused!(with(key, value), Quantisation, "model.safetensors", words[0], words[1]);
    }
    let mut model = tiny(Dtype::Q4);
    model.metadata = Value::Null;
    refused!(model.open(), Quantisation, "model.safetensors", ".q4`", "has no `quantisation`");
    // q8's tensors under q4's name.
    refused!(with("quantisation", json!("q4")), MissingTensor, "model.safetensors", ".q4`");
    // No text: not even safetensors allows that.
    refused!(with("quantisation_version", json!(1)), Header, "model.safetensors");
}

/// Changes the shape that the metadata give a matrix.
fn with_shape(model: Model, name: &str, shape: Value) -> Model {
    let mut shapes: Value = serde_json::from_str(model.metadata["quantisation_shapes"].as_str().unwrap()).unwrap();
    shapes[name] = shape;
    model.metadata("quantisation_shapes", json!(shapes.to_string()))
}

#[test]
fn shapes_that_do_not_fit() {
    for dtype in [Dtype::Q8, Dtype::Q4] {
        let part = format!("{IN_PROJ}.{dtype}");
        // Against the parts' own shapes.
        refused!(with_shape(tiny(dtype), IN_PROJ, json!([53, 13])).open(), Shape, "model.safetensors", &part, "[53, ");
        refused!(with_shape(tiny(dtype), IN_PROJ, json!([52, 33])).open(), Shape, "model.safetensors", &part);
        refused!(with_shape(tiny(dtype), IN_PROJ, json!([0, 13])).open(), ZeroSize, IN_PROJ, "[0, 13]");
        refused!(with_shape(tiny(dtype), IN_PROJ, json!([52, 0])).open(), ZeroSize, IN_PROJ, "[52, 0]");
        // Against the model: 14 columns take the same blocks as 13.
        refused!(
            with_shape(tiny(dtype), IN_PROJ, json!([52, 14])).open(),
            Shape,
            IN_PROJ,
            "[52, 14]",
            "(2 d_inner, d_model)"
        );
        // The scales.
        let short = |t: &mut Tensor| (t.shape, t.data) = (vec![51, 1], vec![0; 102]);
        let model = tiny(dtype).edit(&format!("{IN_PROJ}.scales"), short);
        refused!(model.open(), Shape, "model.safetensors", &format!("{IN_PROJ}.scales"), "[51, 1]", "[52, 1]");
        let flat = |t: &mut Tensor| t.shape = vec![52];
        refused!(tiny(dtype).edit(&format!("{IN_PROJ}.scales"), flat).open(), Shape, &format!("{IN_PROJ}.scales"));
    }
}

#[test]
fn parts_that_are_missing_or_superfluous() {
    for dtype in [Dtype::Q8, Dtype::Q4] {
        for part in [format!("{IN_PROJ}.{dtype}"), format!("{IN_PROJ}.scales")] {
            refused!(
                tiny(dtype).without(&part).open(),
                MissingTensor,
                "model.safetensors",
                &format!("`{part}`"),
                IN_PROJ
            );
        }
        // The same matrix as plain numbers too.
        let model = tiny(dtype).add(IN_PROJ, &[52, 13], 0.0);
        refused!(model.open(), Quantisation, "model.safetensors", IN_PROJ, "quantised and as F32");
        // A part of a matrix that the metadata do not name.
        let model = tiny(dtype).add("backbone.layers.7.mixer.in_proj.weight.scales", &[1], 0.0);
        refused!(
            model.open(),
            Quantisation,
            "model.safetensors",
            "layers.7.mixer.in_proj.weight.scales",
            "belongs to no"
        );
    }
    // Both kinds in one file, and in two.
    let mut model = tiny(Dtype::Q8);
    model.tensors.push(Tensor {
        name: format!("{IN_PROJ}.q4"),
        dtype: "U8".into(),
        shape: vec![52, 16],
        data: vec![0; 832],
    });
    refused!(model.open(), Quantisation, "model.safetensors", "in_proj.weight.q4", "belongs to no");
    let shards = [Dtype::Q8, Dtype::Q4].map(|dtype| Cow::Owned(tiny(dtype).safetensors()));
    let config = tiny(Dtype::Q8).config_json();
    refused!(Checkpoint::from_bytes(&config, shards.into(), None), Quantisation, "model-00002-of-00002", "q4", "q8");
}

#[test]
fn parts_of_the_wrong_type() {
    for (end, dtype, bytes, allowed) in
        [("q8", "U8", 1, "I8"), ("q8", "F16", 2, "I8"), ("scales", "F16", 2, "BF16"), ("scales", "F32", 4, "BF16")]
    {
        let name = format!("{IN_PROJ}.{end}");
        let model = tiny(Dtype::Q8).edit(&name, |t| {
            t.dtype = dtype.into();
            t.data = vec![0; t.shape.iter().product::<usize>() * bytes];
        });
        refused!(model.open(), Dtype, "model.safetensors", &name, dtype, allowed);
    }
}

#[test]
fn scales_that_are_not_finite() {
    for (value, shown) in [(half::bf16::NAN, "NaN"), (half::bf16::INFINITY, "inf"), (half::bf16::NEG_INFINITY, "-inf")]
    {
        let name = format!("{IN_PROJ}.scales");
        let model = tiny(Dtype::Q4).edit(&name, |t| t.data[14..16].copy_from_slice(&value.to_le_bytes()));
        let checkpoint = model.open().expect("values are read when they are used");
        refused!(convert(&checkpoint), NonFinite, "model.safetensors", &name, shown, "element 7:");
        let weights = checkpoint.weights();
        let in_proj = weights.layers[1].get("mixer.in_proj.weight").unwrap();
        assert!(in_proj.rows_to_f32(0..7).is_ok() && in_proj.rows_to_f32(8..9).is_ok());
        refused!(in_proj.rows_to_f32(6..9), NonFinite, &name, "element 7:");
        refused!(in_proj.quantised_rows(7..8), NonFinite, &name, "element 7:");
        refused!(in_proj.quantised_rows(50..53), Rows, IN_PROJ, "50..53");
    }
    let plain = Model::tiny().open().unwrap();
    refused!(plain.weights().embedding.quantised_rows(0..1), Dtype, "embeddings.weight", "f32");
}

/// Quantised twins are tied as others are.
#[test]
fn heads_tied_and_untied() {
    let untied = || Model::new(&Spec { tied: false, dtype: Dtype::Q8, ..Spec::preset("tiny").unwrap() });
    let checkpoint = untied().open().unwrap();
    assert_eq!(checkpoint.weights().lm_head.unwrap().dtype, Dtype::Q8);
    let checkpoint = untied().config("tie_word_embeddings", json!(true)).open().unwrap();
    assert!(checkpoint.warnings()[0].contains("`lm_head.weight` differs"), "{:?}", checkpoint.warnings());
    let mut same = untied().config("tie_word_embeddings", json!(true));
    for end in ["q8", "scales"] {
        let of = |name: &str| format!("{name}.weight.{end}");
        let data = same.tensors.iter().find(|t| t.name.ends_with(&of("embeddings"))).unwrap().data.clone();
        same = same.edit(&of("lm_head"), |t| t.data = data);
    }
    let checkpoint = same.open().unwrap();
    assert!(checkpoint.weights().lm_head.is_none() && checkpoint.warnings().is_empty());
    // The same integers with other scales are another matrix.
    let scaled = same.edit("lm_head.weight.scales", |t| t.data[0] ^= 1).open().unwrap();
    assert!(scaled.weights().lm_head.is_some());
}
