//! Checkpoints from the file system.

use super::{
    find::{entries, file_name, is_beside_weights, locate, ADAPTER_CONFIG},
    pickle,
    reading::{beginning, io_error, is_there, read_optional},
    Checkpoint, Parts,
};
use crate::checkpoint::{
    adapter::Adapter,
    config::RawConfig,
    layout::Table,
    shard::{Shard, Stored},
    sidecars::CHAT_TEMPLATES,
    sniff::{is_safetensors, sniff, trim_bom, GGUF_ADVICE},
    LoadError, Sidecars,
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: [&str; 4] = [".bin", ".pt", ".pth", ".ckpt"];

impl Checkpoint {
    /// Opens a folder, a `.safetensors` file, or an index of shards (`model.safetensors.index.json`); or what [`locate`] finds
    /// around another path ([`Checkpoint::notes`] say what was taken).
    ///
    /// In a folder: `config.json`, which must be there; `tokenizer.json`, which may; and the weights as
    /// `model.safetensors`, an index with its shards, or a single .safetensors file of another name. Beside a file that is
    /// named itself, `config.json` may be missing: then the tensors' shapes say all, and a warning says so. A LoRA adapter in the
    /// model's folder (`adapter_config.json` and `adapter_model.safetensors`, PEFT's format) is merged.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let located = locate(path)?;
        let mut checkpoint = Self::open_at(&located.path)?;
        checkpoint.notes.splice(0..0, located.note);
        Ok(checkpoint)
    }

    fn open_at(path: &Path) -> Result<Self, LoadError> {
        let is_dir = path.is_dir();
        let mut warnings = Vec::new();
        let folder = if is_dir { path } else { path.parent().unwrap_or(Path::new("")) };
        let shards = if is_dir { open_folder(path, &mut warnings) } else { open_file(path, folder, &mut warnings) }?;
        let config_path = folder.join("config.json");
        let config_json = read_optional(&config_path)?;
        let config = match &config_json {
            Some(bytes) => Some(RawConfig::parse(&config_path.display().to_string(), bytes)?),
            None if is_dir => return Err(LoadError::ConfigMissing { path: path.display().to_string() }),
            None => None,
        };
        let checkpoint = Self::build(Parts {
            source: path.display().to_string(),
            config,
            config_json: config_json.map(Cow::Owned),
            table: Table::new(shards)?,
            sidecars: Sidecars::read(folder)?,
            adapter: Adapter::in_folder(folder)?,
            warnings,
        });
        match checkpoint {
            // A shard was named where the whole was meant.
            Err(LoadError::MissingTensor { file, tensor, .. }) if !is_dir && folder.join(INDEX).exists() => {
                let hint = format!(": perhaps it is in another shard; give the folder, or its {INDEX}");
                Err(LoadError::MissingTensor { file, tensor, hint })
            }
            result => result,
        }
    }
}

impl Sidecars {
    /// Those in a folder.
    ///
    /// # Errors
    /// Files that are there and cannot be read.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let mut names: Vec<String> = Self::names().map(str::to_owned).collect();
        // No such folder, or one that cannot be listed: no templates.
        for entry in fs::read_dir(folder.join(CHAT_TEMPLATES)).into_iter().flatten().flatten() {
            names.extend(entry.file_name().to_str().map(|name| format!("{CHAT_TEMPLATES}/{name}")));
        }
        let mut sidecars = Self::default();
        for name in names.iter().filter(|name| Self::takes(name)) {
            if let Some(bytes) = read_optional(&folder.join(name))? {
                sidecars.insert(name, Cow::Owned(bytes));
            }
        }
        Ok(sidecars)
    }
}

type Shards = Vec<(Shard, Vec<Stored>)>;

fn open_file(path: &Path, folder: &Path, warnings: &mut Vec<String>) -> Result<Shards, LoadError> {
    let name = file_name(path);
    if name.ends_with(".index.json") && !name.ends_with(".bin.index.json") {
        return open_index(path, warnings);
    }
    if name.starts_with("adapter_") {
        return Err(only_adapter(path, folder));
    }
    if name.ends_with(".safetensors") {
        return Ok(vec![Shard::map(path)?]);
    }
    if name.ends_with(".bin.index.json") || PICKLES.iter().any(|end| name.ends_with(end)) {
        return Err(pickle::refused(path, &pickled_with(path, folder)?));
    }
    let start = beginning(path);
    if is_safetensors(&start) {
        return Ok(vec![Shard::map(path)?]);
    }
    if !path.is_file() {
        return Err(LoadError::NotAFile { path: path.display().to_string() });
    }
    let hint = sniff(&start).map_or_else(String::new, |(what, advice)| format!(", but {what}: {advice}"));
    Err(LoadError::NotSafetensors { path: path.display().to_string(), hint })
}

fn only_adapter(path: &Path, folder: &Path) -> LoadError {
    let base =
        Adapter::base_of(folder).map_or_else(|| "its base model".to_owned(), |base| format!("its base model, {base}"));
    LoadError::OnlyAdapter { path: path.display().to_string(), base, adapter: folder.display().to_string() }
}

/// The pickles that make up the model that one of them, or their index, is of.
fn pickled_with(path: &Path, folder: &Path) -> Result<Vec<String>, LoadError> {
    let name = file_name(path);
    let index = folder.join("pytorch_model.bin.index.json");
    if !index.exists() || !(name.starts_with("pytorch_model-") || path == index) {
        return Ok(vec![name]);
    }
    let bytes = read_optional(&index)?.unwrap_or_default();
    // Where the index cannot be read, the files that are there.
    let listed: BTreeSet<String> = weight_map(&index, &bytes).unwrap_or_default().into_values().collect();
    let there = || entries(folder).iter().map(|path| file_name(path)).filter(|name| name.ends_with(".bin")).collect();
    Ok(if listed.is_empty() { there() } else { listed.into_iter().collect() })
}

fn open_folder(folder: &Path, warnings: &mut Vec<String>) -> Result<Shards, LoadError> {
    let single = folder.join(SINGLE);
    if is_there(&single)? {
        return Ok(vec![Shard::map(&single)?]);
    }
    let index = folder.join(INDEX);
    if is_there(&index)? {
        return open_index(&index, warnings);
    }
    fs::read_dir(folder).map_err(|e| io_error(folder, e))?; // that it can be read at all
    let all = entries(folder);
    let ending = |ends: &[&str]| -> Vec<&Path> {
        let has = |path: &&Path| {
            ends.iter().any(|end| file_name(path).ends_with(end)) && !is_beside_weights(&file_name(path))
        };
        all.iter().map(|path| path.as_path()).filter(has).collect()
    };
    let pickles = [".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"];
    match (&ending(&[".safetensors"])[..], &ending(&pickles)[..]) {
        ([one], _) => {
            is_there(one)?;
            warnings.push(format!("{}: no {SINGLE}: reading {} instead", folder.display(), one.display()));
            Ok(vec![Shard::map(one)?])
        }
        ([], [one]) => Err(pickle::refused(one, &pickled_with(one, folder)?)),
        // Several: one whole model, shards with their index, or without one.
        ([], several @ [_, ..]) => {
            let named = |name: &str| several.iter().find(|path| file_name(path) == name);
            match named("pytorch_model.bin").or_else(|| named("pytorch_model.bin.index.json")) {
                Some(path) => Err(pickle::refused(path, &pickled_with(path, folder)?)),
                None => {
                    Err(pickle::refused(several[0], &several.iter().map(|path| file_name(path)).collect::<Vec<_>>()))
                }
            }
        }
        ([], []) if all.iter().any(|path| file_name(path) == ADAPTER_CONFIG) => Err(only_adapter(folder, folder)),
        ([], []) => Err(LoadError::NoWeights { path: folder.display().to_string(), hint: what_else(&all) }),
        (several, _) => Err(LoadError::SeveralFiles { path: folder.display().to_string(), count: several.len() }),
    }
}

/// What a folder without weights holds instead.
fn what_else(all: &[std::path::PathBuf]) -> String {
    if let Some(gguf) = all.iter().find(|path| file_name(path).ends_with(".gguf")) {
        return format!("; there is {}, but {GGUF_ADVICE}", file_name(gguf));
    }
    let models: Vec<String> = all
        .iter()
        .filter(|path| path.join("config.json").exists())
        .map(|path| path.display().to_string())
        .take(4)
        .collect();
    if !models.is_empty() {
        return format!("; there is a model in {}: give that", models.join(" and in "));
    }
    match all {
        [] => "; it is empty".into(),
        all => {
            let names: Vec<String> = all.iter().take(8).map(|path| file_name(path)).collect();
            format!("; there are {}{}", names.join(", "), if all.len() > 8 { ", ..." } else { "" })
        }
    }
}

/// Tensors and the files that an index says they are in.
fn weight_map(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>, LoadError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let file = path.display().to_string();
    let index: Index = serde_json::from_slice(trim_bom(bytes)).map_err(|e| match sniff(bytes) {
        Some((what, advice)) => {
            LoadError::WrongFile { file: file.clone(), what, expected: "an index of shards", advice }
        }
        None => LoadError::Index { file: file.clone(), reason: e.to_string() },
    })?;
    match index.weight_map.is_empty() {
        true => Err(LoadError::Index { file, reason: "its weight_map is empty".into() }),
        false => Ok(index.weight_map),
    }
}

/// The shards that an index names, each with the tensors that the index says are in it.
fn open_index(path: &Path, warnings: &mut Vec<String>) -> Result<Shards, LoadError> {
    let file = path.display().to_string();
    let bytes = read_optional(path)?.ok_or_else(|| LoadError::NotFound { path: file.clone() })?;
    // Shard -> its tensors.
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in weight_map(path, &bytes)? {
        if !is_plain_name(&shard) {
            return Err(LoadError::ShardPath { file, tensor, shard });
        }
        shards.entry(shard).or_default().push(tensor);
    }
    let mut opened = Vec::new();
    for (shard, tensors) in shards {
        let shard_path = path.with_file_name(&shard);
        if !is_there(&shard_path)? {
            let tensor = tensors.into_iter().next().unwrap_or_default();
            return Err(LoadError::MissingShard { file, tensor, shard, path: shard_path.display().to_string() });
        }
        let (bytes, mut stored) = Shard::map(&shard_path)?;
        let there: std::collections::HashSet<&str> = stored.iter().map(|t| t.name.as_str()).collect();
        if let Some(tensor) = tensors.iter().find(|t| !there.contains(t.as_str())) {
            return Err(LoadError::NotInShard { file, tensor: tensor.clone(), shard });
        }
        // `tensors` is sorted: it came out of a BTreeMap.
        stored.retain(|t| {
            let listed = tensors.binary_search(&t.name).is_ok();
            if !listed {
                warnings.push(format!("{}: tensor `{}` is not in the index: ignored", bytes.file, t.name));
            }
            listed
        });
        opened.push((bytes, stored));
    }
    Ok(opened)
}

/// A file name without any path: what lies outside the checkpoint's folder is none of an index's business.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    // `a\..\b` is one component on Unix, `c:x` on every system but Windows, and `a/` loses its slash.
    one && !name.contains(['/', '\\', ':', '\0'])
}
