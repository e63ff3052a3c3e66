//! Checkpoints from the file system.

use super::{Checkpoint, Parts};
use crate::model::{
    config::RawConfig,
    layout::Table,
    shard::{Shard, Stored},
    sidecars::CHAT_TEMPLATES,
    LoadError, Sidecars,
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    path::{Component, Path},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

impl Checkpoint {
    /// Opens a folder, a `.safetensors` file, or an index of shards (`model.safetensors.index.json`).
    ///
    /// In a folder: `config.json`, which must be there; `tokenizer.json`, which may; and the weights as
    /// `model.safetensors`, an index with its shards, or a single .safetensors file of another name. Beside a file that is
    /// named itself, `config.json` may be missing: then the tensors' shapes say all, and a warning says so.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let metadata = fs::metadata(path).map_err(|e| io_error(path, e))?;
        let mut warnings = Vec::new();
        let folder = if metadata.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let shards = if metadata.is_dir() {
            open_folder(path, &mut warnings)?
        } else {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            if name.ends_with(".index.json") {
                open_index(path, &mut warnings)?
            } else if name.ends_with(".safetensors") {
                vec![Shard::map(path)?]
            } else if [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end)) {
                return Err(pickle(path, folder));
            } else {
                return Err(LoadError::NotSafetensors { path: path.display().to_string() });
            }
        };
        let config_path = folder.join("config.json");
        let config_json = read_optional(&config_path)?;
        let config = match &config_json {
            Some(bytes) => Some(RawConfig::parse(&config_path.display().to_string(), bytes)?),
            None if metadata.is_dir() => return Err(LoadError::ConfigMissing { path: path.display().to_string() }),
            None => None,
        };
        let checkpoint = Self::build(Parts {
            source: path.display().to_string(),
            config,
            config_json: config_json.map(Cow::Owned),
            table: Table::new(shards)?,
            sidecars: Sidecars::read(folder)?,
            warnings,
        });
        match checkpoint {
            // A shard was named where the whole was meant.
            Err(LoadError::MissingTensor { file, tensor, .. }) if metadata.is_file() && folder.join(INDEX).exists() => {
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

fn io_error(path: &Path, source: io::Error) -> LoadError {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => LoadError::NotFound { path },
        _ => LoadError::Io { path, source },
    }
}

fn pickle(path: &Path, folder: &Path) -> LoadError {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    LoadError::PickleOnly { path: path.display().to_string(), folder: folder.display().to_string() }
}

/// A small file's bytes; `None` if there is no such file.
fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, e)),
        // A pipe or a device could block for ever or never end.
        Ok(metadata) if !metadata.is_file() => return Err(LoadError::NotAFile { path: path.display().to_string() }),
        Ok(_) => {}
    }
    fs::read(path).map(Some).map_err(|e| io_error(path, e))
}

fn open_folder(folder: &Path, warnings: &mut Vec<String>) -> Result<Vec<(Shard, Vec<Stored>)>, LoadError> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(vec![Shard::map(&single)?]);
    }
    let index = folder.join(INDEX);
    if index.exists() {
        return open_index(&index, warnings);
    }
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let path = entry.map_err(|e| io_error(folder, e))?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            others.push(path);
        }
    }
    match &others[..] {
        [one] => {
            warnings.push(format!("{}: no {SINGLE}: reading {} instead", folder.display(), one.display()));
            Ok(vec![Shard::map(one)?])
        }
        [] => match PICKLES.iter().map(|name| folder.join(name)).find(|path| path.exists()) {
            Some(path) => Err(pickle(&path, folder)),
            None => Err(LoadError::NoWeights { path: folder.display().to_string() }),
        },
        several => Err(LoadError::SeveralFiles { path: folder.display().to_string(), count: several.len() }),
    }
}

/// The shards that an index names, each with the tensors that the index says are in it.
fn open_index(path: &Path, warnings: &mut Vec<String>) -> Result<Vec<(Shard, Vec<Stored>)>, LoadError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let file = path.display().to_string();
    let bytes = read_optional(path)?.ok_or_else(|| LoadError::NotFound { path: file.clone() })?;
    let bad = |reason: String| LoadError::Index { file: file.clone(), reason };
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if index.weight_map.is_empty() {
        return Err(bad("its weight_map is empty".into()));
    }
    // Shard -> its tensors.
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        if !is_plain_name(&shard) {
            return Err(LoadError::ShardPath { file, tensor, shard });
        }
        shards.entry(shard).or_default().push(tensor);
    }
    let mut opened = Vec::new();
    for (shard, tensors) in shards {
        let shard_path = path.with_file_name(&shard);
        if !shard_path.exists() {
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
