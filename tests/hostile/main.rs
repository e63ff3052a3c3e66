//! Damaged, foreign and malicious checkpoints: each is refused with an error of the right kind whose message names the file,
//! tensor or key, and nothing panics. `random` damages a good checkpoint at random.

#[path = "../common/make.rs"]
mod make;

use make::Model;
use mamba_wgpu::model::{Checkpoint, LoadError};
use std::fs;
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

mod config;
mod files;
mod header;
mod index;
mod quantised;
mod random;
mod tensors;

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
