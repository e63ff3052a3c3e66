//! Paths that are not checkpoints.

use crate::{good, with_weights};
use mamba_wgpu::model::{Checkpoint, LoadError};
use std::{fs, path::Path};
use tempfile::tempdir;

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
    refused!(Checkpoint::open(&path), NotSafetensors, "model.gguf", "GGUF is not read yet");
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
