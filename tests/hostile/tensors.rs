//! Tensors that are missing, superfluous, of the wrong shape or type, or not finite.

use crate::{
    convert,
    make::{with_header, Model},
    with_weights,
};
use mamba_wgpu::model::{synthetic::Spec, Arch, Checkpoint, LoadError};
use serde_json::{json, Value};

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
        ("0.mixer.conv1d.weight", &[26, 3, 2]),
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
    let falcon = Model::new(&Spec::preset("tiny").unwrap().of(Arch::FalconMamba)).open().unwrap();
    let eps = falcon.config().layers[1].mamba1().unwrap().mixer_rms_eps;
    assert_eq!((falcon.config().arch, eps), (Arch::FalconMamba, Some(1e-6)));
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
