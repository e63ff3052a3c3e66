//! A quantised checkpoint as a folder, whole or not at all.

use super::{quantise, Progress, QuantiseError, Summary};
use crate::checkpoint::synthetic::Spec;
use crate::checkpoint::{Checkpoint, Sidecars};
use crate::files::{create_folder, lock, FileError, Kind, Lock, Output, Replacement};
use crate::reference::Quant;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
/// What beside the new weights would change them, or stand for others: an adapter is merged wherever it lies.
const MISLEADING: [&str; 4] =
    ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "model.safetensors.index.json"];

/// Quantises `checkpoint` into the folder `out`, which is made if it is not there: `model.safetensors`, and `config.json`
/// and the [`Sidecars`] as they are beside the original. Each file is written under another name, brought to the disk, and
/// renamed at the end ([`crate::files`]); whatever goes wrong before leaves nothing behind, and what a process that was killed left
/// is removed. `force`: files of these names are replaced (and those that the original does not have removed: they would be another
/// model's).
///
/// # Errors
/// As [`quantise`]; files that are there already; a folder that cannot be written to.
pub fn quantise_to_folder(
    checkpoint: &Checkpoint,
    quant: Quant,
    out: &Path,
    force: bool,
    progress: &mut Progress<'_>,
) -> Result<Summary, QuantiseError> {
    check_place(checkpoint, out, force)?;
    let stale = sidecars_in(out);
    let mut folder = Unfinished::new(out)?;
    check_place(checkpoint, out, force)?; // as the one that was waited for left it
    let error = |reason| QuantiseError::Io { path: out.join(WEIGHTS).display().to_string(), reason };
    let mut writer = io::BufWriter::with_capacity(1 << 20, folder.file(WEIGHTS)?);
    let summary = quantise(checkpoint, quant, &mut writer, progress).map_err(|e| match e {
        QuantiseError::Write(reason) => error(reason),
        other => other,
    })?;
    writer.into_inner().map_err(|e| error(e.into_error()))?;
    folder.write(CONFIG, &config_json(checkpoint))?;
    for (name, bytes) in checkpoint.sidecars().iter() {
        folder.write(name, bytes)?;
    }
    folder.finish()?;
    let stale = stale.iter().map(String::as_str).filter(|name| checkpoint.sidecars().get(name).is_none());
    for name in stale.chain(MISLEADING) {
        remove(&out.join(name))?;
    }
    Ok(summary)
}

/// Names of the sidecars in a folder.
fn sidecars_in(folder: &Path) -> Vec<String> {
    let there = Sidecars::read(folder).unwrap_or_default();
    there.iter().map(|(name, _)| name.to_owned()).collect()
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), QuantiseError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(QuantiseError::Io { path: path.display().to_string(), reason: e })
        }
        _ => Ok(()),
    }
}

fn check_place(checkpoint: &Checkpoint, out: &Path, force: bool) -> Result<(), QuantiseError> {
    let path = |path: &Path| path.display().to_string();
    if out.exists() && !out.is_dir() {
        return Err(QuantiseError::NotAFolder { path: path(out) });
    }
    // Replacing the original's files would lose it.
    let canonical = |path: &Path| path.canonicalize().ok();
    let sources = checkpoint.files().filter_map(|file| canonical(Path::new(file)).map(|p| p.with_file_name("")));
    let adapters = checkpoint.adapters().filter_map(|adapter| canonical(Path::new(&adapter.source)));
    if let Some(here) = canonical(out).map(|p| p.join("")) {
        if sources.chain(adapters.map(|p| p.join(""))).any(|source| source == here) {
            return Err(QuantiseError::Source { path: path(out) });
        }
    }
    let mut names = [WEIGHTS, CONFIG].into_iter().chain(MISLEADING).chain(Sidecars::names()).map(|name| out.join(name));
    match names.find(|path| path.exists()) {
        Some(there) if !force => Err(QuantiseError::Exists { path: path(&there) }),
        Some(there) if !there.is_file() => Err(QuantiseError::Exists { path: path(&there) }),
        _ => Ok(()),
    }
}

/// The original's, or for weights without one what says the same.
fn config_json(checkpoint: &Checkpoint) -> Vec<u8> {
    if let Some(json) = checkpoint.config_json() {
        return typed(json).unwrap_or_else(|| json.to_vec());
    }
    let (c, weights) = (checkpoint.config(), checkpoint.weights());
    let first = weights.layers.first();
    let has = |name| first.is_some_and(|layer| layer.get(name).is_some());
    let plain = Spec::new(c.n_layer(), c.d_model, c.vocab_size);
    let spec = Spec {
        arch: c.arch,
        layer: c.first().copied().unwrap_or(plain.layer),
        tied: c.tie_embeddings,
        use_bias: has("mixer.in_proj.bias"),
        use_conv_bias: has("mixer.conv1d.bias"),
        ..plain
    };
    spec.config_json().into_bytes()
}

/// A config whose counts are written as 2.0, which transformers refuses, with whole numbers in their place; `None` where there is nothing
/// to mend.
fn typed(json: &[u8]) -> Option<Vec<u8>> {
    let mut config: serde_json::Value = serde_json::from_slice(json).ok()?;
    let mut mended = false;
    for key in
        ["expand", "hidden_size", "intermediate_size", "num_hidden_layers", "state_size", "conv_kernel", "vocab_size"]
    {
        let count = config.get(key).filter(|value| value.is_f64()).and_then(serde_json::Value::as_f64);
        if let Some(count) = count.filter(|count| count.fract() == 0.0 && (0.0..1e15).contains(count)) {
            config[key] = serde_json::json!(count as u64);
            mended = true;
        }
    }
    mended.then(|| format!("{config:#}\n").into_bytes())
}

/// Files under their temporary names; what is not finished is removed.
struct Unfinished {
    folder: PathBuf,
    /// Whether it was made for this.
    made_folder: bool,
    files: Vec<(PathBuf, Replacement)>,
    lock: Option<Lock>,
}

impl Unfinished {
    fn new(folder: &Path) -> Result<Self, QuantiseError> {
        let error = |reason| QuantiseError::Io { path: folder.display().to_string(), reason };
        let made_folder = !folder.exists();
        create_folder(folder)?;
        let mut unfinished = Self { folder: folder.into(), made_folder, files: Vec::new(), lock: None };
        match lock(&folder.join(".lock")).map_err(error)? {
            Ok(lock) => unfinished.lock = Some(lock),
            Err(process) => return Err(QuantiseError::Locked { path: folder.display().to_string(), process }),
        }
        Ok(unfinished)
    }

    /// Where to write a file meanwhile.
    fn file(&mut self, name: &str) -> Result<&mut fs::File, QuantiseError> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent().filter(|folder| *folder != self.folder) {
            fs::create_dir_all(folder).map_err(|e| FileError::io(folder, e))?;
        }
        let file = Output::new(&path, Kind::ANY, true)?.begin()?;
        let at = self.files.len();
        self.files.push((path, file));
        Ok(self.files[at].1.file())
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), QuantiseError> {
        let path = self.folder.join(name);
        self.file(name)?.write_all(bytes).map_err(|e| FileError::io(&path, e).into())
    }

    /// Gives the files their names, the weights last: until then a folder that was empty holds no model.
    fn finish(mut self) -> Result<(), QuantiseError> {
        while let Some((path, file)) = self.files.pop() {
            file.commit().map_err(|e| FileError::io(&path, e))?;
            self.made_folder = false;
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.files.clear();
        self.lock = None;
        if self.made_folder {
            let _ = fs::remove_dir(&self.folder); // not if somebody else has put something there
        }
    }
}
