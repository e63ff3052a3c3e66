//! Damaged and malicious indices of shards.

use crate::make::{write_index, Model};
use mamba_wgpu::model::{Checkpoint, LoadError};
use serde_json::{json, Value};
use std::fs;
use tempfile::tempdir;

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

#[test]
fn a_shard_named_for_the_whole() {
    let folder = tempdir().unwrap();
    Model::tiny().save_sharded(folder.path());
    let path = |name: &str| folder.path().join(name);
    let shard = path("model-00001-of-00002.safetensors");
    refused!(Checkpoint::open(&shard), MissingTensor, "model-00001-of-00002", "give the folder");
    let index = Checkpoint::open(&path("model.safetensors.index.json")).unwrap();
    assert_eq!(index.files().count(), 2);
}
