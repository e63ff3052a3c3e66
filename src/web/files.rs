//! A checkpoint's files, filled chunk by chunk as they come from the network or the disk, so that none is held twice.

use super::error;
use crate::model::{Checkpoint, LoadError, Sidecars};
use js_sys::Uint8Array;
use std::borrow::Cow;
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

/// Files by name: `config.json`, those of [`Sidecars`] (the tokenizer's, `generation_config.json`), and safetensors under any other
/// names. Other `.json` and `.txt` files are let pass.
#[wasm_bindgen]
#[derive(Default)]
pub struct Files(RefCell<Vec<(String, Vec<u8>)>>);

#[wasm_bindgen]
impl Files {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives up all that has come.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    /// Begins a file of so many bytes (0 if that is not known). One of the same name is given up.
    pub fn begin(&self, name: String, bytes: f64) -> Result<(), JsValue> {
        let mut files = self.0.borrow_mut();
        files.retain(|(n, _)| *n != name);
        let mut content = Vec::new();
        if content.try_reserve_exact(bytes as usize).is_err() || bytes > usize::MAX as f64 {
            return Err(no_room(&name, bytes));
        }
        files.push((name, content));
        Ok(())
    }

    /// Adds to the file begun last.
    pub fn append(&self, chunk: &Uint8Array) -> Result<(), JsValue> {
        let mut files = self.0.borrow_mut();
        let Some((name, content)) = files.last_mut() else { return Err(error::fault("append before begin")) };
        let (at, more) = (content.len(), chunk.length() as usize);
        // Exactly what was announced; amortised growth only where nothing was, and where there is room for it.
        if content.try_reserve(more).is_err() && content.try_reserve_exact(more).is_err() {
            return Err(no_room(name, (at + more) as f64));
        }
        content.resize(at + more, 0);
        chunk.copy_to(&mut content[at..]);
        Ok(())
    }

    /// Bytes of the file begun last that are there.
    pub fn received(&self) -> f64 {
        self.0.borrow().last().map_or(0.0, |(_, content)| content.len() as f64)
    }
}

const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

impl Files {
    /// The checkpoint that they make.
    pub(super) fn open(self, source: &str) -> Result<Checkpoint, LoadError> {
        let known = |name: &str| name == "config.json" || Sidecars::takes(name) || ADAPTER_FILES.contains(&name);
        let other = |name: &str| (name.ends_with(".json") || name.ends_with(".txt")) && !known(name);
        let files = self.0.into_inner().into_iter().filter(|(name, _)| !other(name));
        let files: Vec<_> = files.map(|(name, content)| (name, Cow::Owned(content))).collect();
        // Ignored, it would leave the base model where another was meant.
        if let Some((name, _)) = files.iter().find(|(name, _)| ADAPTER_FILES.contains(&name.as_str())) {
            return Err(LoadError::AdapterHere { path: format!("{source}/{name}") });
        }
        Checkpoint::from_files(source, files)
    }
}

fn no_room(name: &str, bytes: f64) -> JsValue {
    let mib = bytes / f64::from(1 << 20);
    let message = format!("{name}: {mib:.0} MiB do not fit into a page's memory (4 GiB for all that it holds)");
    error::with_code("page-memory", &message)
}
