//! A run's folder:
//!
//! ```text
//! training.json            the settings
//! checkpoint-000400/       after step 400: a model as any other (config.json, model.safetensors, tokenizer.json and what else goes
//!                          along with it), and
//!   optimizer.safetensors  AdamW's moments, m.NAME and v.NAME
//!   state.json             the step
//! best-000300/             the model that did best on the validation data, likewise
//! ```
//!
//! A checkpoint is written into a folder of another name, brought to the disk, and renamed at the end: whatever ends the program
//! before that, the checkpoints that were there are whole, and what is not whole is never taken for one.

use super::trainer::TrainerState;
use super::{NamedTensor, Settings, TrainError};
use crate::checkpoint::sniff::instead;
use crate::checkpoint::write::{header, Entry};
use crate::files::{self, sync_folder, UNFINISHED};
use crate::model::{Dtype, Sidecars};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(super) const SETTINGS: &str = "training.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

#[derive(Serialize, Deserialize)]
struct StateFile {
    step: u64,
    best: Option<f64>,
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> TrainError + '_ {
    |reason| TrainError::Io { path: path.display().to_string(), reason }
}

/// A file, on the disk when this returns.
fn write_file(path: &Path, parts: &[&[u8]]) -> Result<(), TrainError> {
    let write = || {
        let mut out = io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
        parts.iter().try_for_each(|part| out.write_all(part))?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()
    };
    write().map_err(io_error(path))
}

fn write_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, &'a NamedTensor)> + Clone,
) -> Result<(), TrainError> {
    let named: Vec<(String, &NamedTensor)> = tensors.collect();
    let entries = named.iter().map(|(name, t)| Entry { name, shape: &t.shape, dtype: Dtype::F32 });
    let header = header(entries);
    let mut parts: Vec<&[u8]> = vec![&header];
    // Little-endian, as every target that wgpu runs on.
    parts.extend(named.iter().map(|(_, t)| bytemuck::cast_slice::<f32, u8>(&t.values)));
    write_file(path, &parts)
}

fn read_tensors(path: &Path) -> Result<Vec<NamedTensor>, TrainError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    let bad = |message: String| TrainError::Malformed { file: path.display().to_string(), message };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
    let mut tensors = Vec::new();
    for (name, view) in file.iter() {
        if view.dtype() != safetensors::Dtype::F32 {
            return Err(bad(format!("tensor `{name}` is {}, expected F32", view.dtype())));
        }
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(bad(format!("tensor `{name}` is {} at {at}", values[at])));
        }
        tensors.push(NamedTensor { name: name.into(), shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, TrainError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    let message = |e: serde_json::Error| instead(&bytes).unwrap_or_else(|| e.to_string());
    let bad = |e| TrainError::Malformed { file: path.display().to_string(), message: message(e) };
    serde_json::from_slice(&bytes).map_err(bad)
}

/// The settings of a run's folder, or of a checkpoint in it.
///
/// # Errors
/// No such file, or one that is not understood.
pub fn read_settings(folder: &Path) -> Result<Settings, TrainError> {
    let here = folder.join(SETTINGS);
    match folder.parent() {
        Some(parent) if !here.exists() && parent.join(SETTINGS).exists() => read_json(&parent.join(SETTINGS)),
        _ if !here.exists() => Err(TrainError::NotARun { path: folder.display().to_string() }),
        _ => read_json(&here),
    }
}

/// Folders `KIND-STEP` of a run, by step. What is unfinished has another name.
fn checkpoints(folder: &Path, kind: &str) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let step = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let number = name.strip_prefix(kind)?.strip_prefix('-')?;
        Some((number.parse().ok()?, entry.path()))
    };
    let mut found: Vec<(u64, PathBuf)> = entries.filter_map(step).collect();
    found.sort();
    found
}

/// The newest whole checkpoint of a run (`kind`: "checkpoint" or "best").
pub fn latest_checkpoint(folder: &Path, kind: &str) -> Option<PathBuf> {
    checkpoints(folder, kind).pop().map(|(_, path)| path)
}

/// Removes all but the newest `keep` checkpoints of a kind, and what never was finished.
///
/// # Errors
/// Folders that cannot be removed.
pub fn remove_old(folder: &Path, kind: &str, keep: usize) -> Result<(), TrainError> {
    let found = checkpoints(folder, kind);
    let old = found.len().saturating_sub(keep);
    for (_, path) in &found[..old] {
        // First by name, so that half of a folder is never a checkpoint.
        let gone = PathBuf::from(format!("{}{UNFINISHED}", path.display()));
        fs::rename(path, &gone).map_err(io_error(path))?;
        fs::remove_dir_all(&gone).map_err(io_error(&gone))?;
    }
    for entry in fs::read_dir(folder).map_err(io_error(folder))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(kind) && name.ends_with(UNFINISHED) {
            fs::remove_dir_all(entry.path()).map_err(io_error(&entry.path()))?;
        }
    }
    Ok(())
}

/// What a checkpoint consists of.
#[derive(Debug, Clone)]
pub struct Saved<'a> {
    pub settings: &'a Settings,
    pub state: &'a TrainerState,
    /// What goes along with the model: a text model's tokenizer, and what was beside the model that the run began with.
    pub sidecars: &'a Sidecars,
    /// Of the best model so far: a text's validation loss, the part of a task's targets that are wrong.
    pub best: Option<f64>,
}

impl Saved<'_> {
    /// The `config.json` that goes with the model. That of an LTI model has a family of its own, which nothing but training
    /// and evaluation knows.
    pub fn config_json(&self) -> String {
        let shape = &self.settings.shape;
        let mut config = shape.spec(self.settings.task.vocab_size(), 0).config();
        if shape.layer.lti {
            config["model_type"] = json!("mamba_lti");
            config["architectures"] = json!(["MambaLtiForCausalLM"]);
        }
        if let Some(origin) = &self.settings.origin {
            config["eos_token_id"] = match origin.eos_token_id.as_slice() {
                [] => json!(null), // mamba-ssm's models do not say
                [one] => json!(one),
                several => json!(several),
            };
            config["bos_token_id"] = json!(origin.bos_token_id);
        }
        format!("{config:#}\n")
    }

    /// Begins a run's folder: the settings.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn begin(folder: &Path, settings: &Settings) -> Result<(), TrainError> {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
        let json = serde_json::to_string_pretty(settings)
            .map_err(|e| TrainError::Malformed { file: SETTINGS.into(), message: e.to_string() })?;
        Ok(files::replace(&folder.join(SETTINGS), &[json.as_bytes(), b"\n"].concat())?)
    }

    /// Writes the checkpoint of a kind ("checkpoint", "best"), whole or not at all; gives its folder.
    ///
    /// # Errors
    /// A folder that cannot be written to, a full disk: those that were there before are as they were.
    pub fn write(&self, folder: &Path, kind: &str) -> Result<PathBuf, TrainError> {
        let path = folder.join(format!("{kind}-{:06}", self.state.step));
        if path.exists() {
            return Ok(path); // the same step of the same run: the same bytes
        }
        let unfinished = PathBuf::from(format!("{}{UNFINISHED}", path.display()));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(io_error(&unfinished))?;
        }
        fs::create_dir_all(&unfinished).map_err(io_error(&unfinished))?;
        if let Err(error) = self.write_files(&unfinished) {
            let _ = fs::remove_dir_all(&unfinished); // a full disk has better uses for what it takes
            return Err(error);
        }
        fs::rename(&unfinished, &path).map_err(io_error(&path))?;
        sync_folder(folder);
        Ok(path)
    }

    fn write_files(&self, unfinished: &Path) -> Result<(), TrainError> {
        let s = self.state;
        write_tensors(&unfinished.join(MODEL), s.parameters.iter().map(|t| (t.name.clone(), t)))?;
        let moments = |prefix: &'static str, tensors| {
            let tensors: &[NamedTensor] = tensors;
            tensors.iter().map(move |t| (format!("{prefix}.{}", t.name), t))
        };
        write_tensors(&unfinished.join(OPTIMIZER), moments("m", &s.m).chain(moments("v", &s.v)))?;
        write_file(&unfinished.join("config.json"), &[self.config_json().as_bytes()])?;
        for (name, bytes) in self.sidecars.iter() {
            let file = unfinished.join(name);
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).map_err(io_error(folder))?;
            }
            write_file(&file, &[bytes])?;
        }
        let state = serde_json::to_vec(&StateFile { step: s.step, best: self.best.filter(|best| best.is_finite()) })
            .map_err(|e| TrainError::Malformed { file: STATE.into(), message: e.to_string() })?;
        write_file(&unfinished.join(STATE), &[&state])?;
        sync_folder(unfinished);
        Ok(())
    }

    /// A model's parameters, of a checkpoint's folder.
    ///
    /// # Errors
    /// Files that are missing, damaged, or hold what is not finite.
    pub fn read_parameters(checkpoint: &Path) -> Result<Vec<NamedTensor>, TrainError> {
        read_tensors(&checkpoint.join(MODEL))
    }

    /// All that a run goes on from, of a checkpoint's folder, and how good the best model until then was.
    ///
    /// # Errors
    /// As [`Saved::read_parameters`].
    pub fn read(checkpoint: &Path) -> Result<(TrainerState, Option<f64>), TrainError> {
        let state: StateFile = read_json(&checkpoint.join(STATE))?;
        let parameters = Self::read_parameters(checkpoint)?;
        let (mut m, mut v) = (Vec::new(), Vec::new());
        for tensor in read_tensors(&checkpoint.join(OPTIMIZER))? {
            let (list, name) = match tensor.name.split_once('.') {
                Some(("m", name)) => (&mut m, name.to_owned()),
                Some(("v", name)) => (&mut v, name.to_owned()),
                _ => continue,
            };
            list.push(NamedTensor { name, ..tensor });
        }
        Ok((TrainerState { step: state.step, parameters, m, v }, state.best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Decay, Optimiser, Schedule, Shape, Task, TaskKind, Trained};

    fn run() -> (Settings, TrainerState) {
        let settings = Settings {
            task: Task::paper(TaskKind::InductionHeads).with_length(16),
            shape: Shape { layer: Trained { d_state: 4, ..Trained::default() }, ..Shape::new(1, 8) },
            batch: 2,
            accumulate: 1,
            label_smoothing: 0.0,
            optimiser: Optimiser { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 },
            schedule: Schedule { peak: 1e-3, warmup: 0, steps: 10, decay: Decay::Constant, floor: 0.0 },
            seed: 1,
            origin: None,
            text: None,
            validation_text: None,
        };
        let parameters = crate::train::parameters::initial(&settings).unwrap();
        (settings, TrainerState { step: 7, m: parameters.clone(), v: parameters.clone(), parameters })
    }

    fn sorted(mut tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors
    }

    #[test]
    fn what_is_written_is_read_and_runs_as_a_model() {
        let (settings, state) = run();
        let folder = tempfile::tempdir().unwrap();
        Saved::begin(folder.path(), &settings).unwrap();
        let saved = Saved { settings: &settings, state: &state, sidecars: &Sidecars::default(), best: Some(1.5) };
        let path = saved.write(folder.path(), "checkpoint").unwrap();
        assert_eq!(latest_checkpoint(folder.path(), "checkpoint"), Some(path.clone()));
        assert_eq!(read_settings(folder.path()).unwrap(), settings);
        assert_eq!(read_settings(&path).unwrap(), settings);
        let (read, best) = Saved::read(&path).unwrap();
        assert_eq!((read.step, best), (7, Some(1.5)));
        assert_eq!(sorted(read.parameters), sorted(state.parameters.clone()));
        assert_eq!(sorted(read.v), sorted(state.v.clone()));
        let checkpoint = crate::model::Checkpoint::open(&path).unwrap();
        assert!(checkpoint.warnings().is_empty(), "{:?}", checkpoint.warnings());
        assert_eq!(checkpoint.config().dimension("d_state"), Some(4));
    }

    #[test]
    fn what_is_not_finished_is_no_checkpoint_and_goes_away() {
        let (settings, mut state) = run();
        let folder = tempfile::tempdir().unwrap();
        let unfinished = folder.path().join("checkpoint-000009.unfinished");
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join(MODEL), b"half").unwrap();
        assert_eq!(latest_checkpoint(folder.path(), "checkpoint"), None);
        for step in [9, 10, 12] {
            state.step = step;
            Saved { settings: &settings, state: &state, sidecars: &Sidecars::default(), best: Some(1.5) }
                .write(folder.path(), "checkpoint")
                .unwrap();
        }
        fs::create_dir(&unfinished).unwrap();
        remove_old(folder.path(), "checkpoint", 2).unwrap();
        let left: Vec<u64> = checkpoints(folder.path(), "checkpoint").into_iter().map(|(step, _)| step).collect();
        assert_eq!(left, [10, 12]);
        assert!(!unfinished.exists());
    }

    #[test]
    fn damaged_files_are_named() {
        let (settings, state) = run();
        let folder = tempfile::tempdir().unwrap();
        let saved = Saved { settings: &settings, state: &state, sidecars: &Sidecars::default(), best: Some(1.5) };
        let path = saved.write(folder.path(), "best").unwrap();
        let file = path.join(OPTIMIZER);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
        let error = Saved::read(&path).unwrap_err().to_string();
        assert!(error.contains("optimizer.safetensors"), "{error}");
        let mut bad = bytes.clone();
        let end = bad.len();
        bad[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&file, &bad).unwrap();
        let error = Saved::read(&path).unwrap_err().to_string();
        assert!(error.contains("NaN"), "{error}");
    }
}
