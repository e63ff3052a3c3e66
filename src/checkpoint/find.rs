//! Where the model is, given a path that somebody has at hand: its folder or file, or something around it.

use super::reading::{io_error, is_there};
use crate::checkpoint::LoadError;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A model's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// A folder with weights, or a file of weights or their index.
    pub path: PathBuf,
    /// What it is that was taken, where it is not the path that was given.
    pub note: Option<String>,
}

/// Finds the model that a path means: the path itself, or
///
/// - in a folder of Hugging Face's cache (`models--OWNER--NAME`, its `snapshots`, or the cache with one model in it): the snapshot
///   of `refs/main`, else the newest; of a blob: the snapshot that links to it
/// - in a run's folder of `mamba-wgpu train`: its best model, else its newest checkpoint
/// - in a trainer's output folder: the checkpoint-N of the highest number
/// - of config.json, tokenizer.json and the like: their folder
///
/// A path in which nothing of this is found is given back as it is; opening it says what is wrong.
///
/// # Errors
/// [`LoadError::NotFound`], [`LoadError::DanglingLink`], [`LoadError::SeveralModels`] and a folder that cannot be read.
pub fn locate(path: &Path) -> Result<Located, LoadError> {
    if !is_there(path)? {
        let name = path.display().to_string();
        return Err(match meant(&name) {
            Some(hint) => LoadError::NotLocal { path: name, hint },
            None => LoadError::NotFound { path: name },
        });
    }
    let given = || Located { path: path.into(), note: None };
    let found = match path.is_dir() {
        false => Ok(beside(path)),
        true if !holds_weights(path) => inside(path),
        true => Ok(None),
    }?;
    Ok(found.map_or_else(given, |(path, what)| Located { note: Some(format!("{what}: {}", path.display())), path }))
}

/// What else than a path somebody may have meant.
fn meant(name: &str) -> Option<String> {
    if name == "embedded" {
        return Some("the model built into the program is what is taken where none is named: leave it out".into());
    }
    let address = name.split_once("://");
    let rest = address.map_or(name, |(_, rest)| rest);
    let on_hub = ["huggingface.co/", "hf.co/"].iter().find_map(|host| rest.strip_prefix(host));
    let repository = match address {
        Some(("hf", rest)) => Some(rest),
        Some(_) => on_hub,
        None => on_hub.or(Some(name)),
    };
    let mut parts = repository.unwrap_or_default().split('/');
    let named = parts.next().zip(parts.next()).filter(|(owner, model)| is_name(owner) && is_name(model));
    let is_address = address.is_some() || on_hub.is_some();
    // A path of more parts, or in a folder that is there, is no model's name.
    let mut is_path = || parts.next().is_some() || Path::new(name).parent().is_some_and(Path::exists);
    if !is_address && (named.is_none() || is_path()) {
        return None;
    }
    let named = named.map_or("OWNER/NAME".into(), |(owner, model)| format!("{owner}/{model}"));
    Some(format!(
        "nothing is downloaded here: download the folder, e.g. with `hf download {named} --local-dir DIR`, and give DIR"
    ))
}

/// Whether it may be an owner's or a model's name on Hugging Face.
fn is_name(part: &str) -> bool {
    let file = [".json", ".safetensors", ".bin", ".gguf", ".pt"].iter().any(|end| part.ends_with(end));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && part.chars().all(plain) && !part.starts_with('.') && !file
}

type Found = Option<(PathBuf, &'static str)>;

/// What a file beside the weights stands for.
fn beside(file: &Path) -> Found {
    let name = file.file_name()?.to_string_lossy();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if name.ends_with(".json") && !name.ends_with(".index.json") && holds_weights(folder) {
        return Some((folder.into(), "taking the folder that the file is in"));
    }
    if folder.file_name()? != "blobs" {
        return None;
    }
    let blob = file.canonicalize().ok()?;
    let links =
        |snapshot: PathBuf| entries(&snapshot).into_iter().find(|link| link.canonicalize().is_ok_and(|at| at == blob));
    let link = entries(&folder.with_file_name("snapshots")).into_iter().find_map(links)?;
    // A shard or a config is not to be opened by itself.
    let whole = link.file_name()? == "model.safetensors" || !holds_weights(link.parent()?);
    match whole {
        true => Some((link, "the file's name in its snapshot")),
        false => Some((link.parent()?.into(), "the snapshot that the file belongs to")),
    }
}

/// A model inside a folder that holds no weights itself.
fn inside(folder: &Path) -> Result<Found, LoadError> {
    let name = file_name(folder);
    // Hugging Face's cache: models--OWNER--NAME/{refs/main, snapshots/COMMIT, blobs}.
    let snapshots = if name == "snapshots" { folder.to_path_buf() } else { folder.join("snapshots") };
    if snapshots.is_dir() {
        let main = fs::read_to_string(snapshots.with_file_name("refs").join("main")).ok();
        let main = main.map(|commit| snapshots.join(commit.trim())).filter(|snapshot| snapshot.is_dir());
        let newest = || entries(&snapshots).into_iter().filter(|path| path.is_dir()).max_by_key(|path| modified(path));
        return Ok(main
            .map(|path| (path, "the snapshot of refs/main"))
            .or_else(|| Some((newest()?, "the newest snapshot"))));
    }
    let all = read(folder)?;
    let models: Vec<&PathBuf> = all.iter().filter(|path| file_name(path).starts_with("models--")).collect();
    match models[..] {
        [] => {}
        [one] => return inside(one),
        _ => {
            let names: Vec<_> = models.iter().take(8).map(|path| file_name(path)).collect();
            let more = if models.len() > names.len() { ", ..." } else { "" };
            let list = format!("{}{more}", names.join(", "));
            return Err(LoadError::SeveralModels { path: folder.display().to_string(), list });
        }
    }
    // `train`'s best-000300 and checkpoint-000400, a trainer's checkpoint-500.
    for (kind, what) in [("best-", "the run's best model"), ("checkpoint-", "the newest checkpoint in the folder")] {
        let step = |path: &PathBuf| file_name(path).strip_prefix(kind)?.parse::<u64>().ok();
        let whole = all.iter().filter(|path| holds_weights(path) || path.join(ADAPTER_CONFIG).exists());
        if let Some((_, path)) = whole.filter_map(|path| Some((step(path)?, path))).max() {
            return Ok(Some((path.clone(), what)));
        }
    }
    Ok(None)
}

/// What says that a folder holds an adapter.
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Whether a folder holds weights, or the remains of a download of them.
fn holds_weights(folder: &Path) -> bool {
    entries(folder).iter().any(|path| {
        let name = file_name(path);
        let weights =
            [".safetensors", ".safetensors.index.json", ".bin", ".gguf"].iter().any(|end| name.ends_with(end));
        weights && !is_beside_weights(&name)
    })
}

/// Whether a file of this name is of a trainer or an adapter, not a model's weights.
pub(super) fn is_beside_weights(name: &str) -> bool {
    ["adapter_model.", "optimizer.", "training_args.", "scheduler.", "rng_state"]
        .iter()
        .any(|start| name.starts_with(start))
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a folder holds, by name; nothing if it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    read(folder).unwrap_or_default()
}

fn read(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let entries = fs::read_dir(folder).map_err(|e| io_error(folder, e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::meant;

    #[test]
    fn names_and_addresses_of_models_are_told_from_paths() {
        for (name, repository) in [
            ("state-spaces/mamba-130m-hf", "state-spaces/mamba-130m-hf"),
            ("https://huggingface.co/a/b", "a/b"),
            ("https://huggingface.co/a/b/tree/main", "a/b"),
            ("hf://a/b", "a/b"),
            ("huggingface.co/a/b", "a/b"),
            ("https://example.com/model.safetensors", "OWNER/NAME"),
        ] {
            let hint = meant(name).unwrap_or_else(|| panic!("{name}"));
            assert!(hint.contains(&format!("`hf download {repository} ")), "{hint}");
        }
        assert!(meant("embedded").unwrap().contains("leave it out"));
        for path in
            ["mamba", "./a/b", "/a/b", "../a", "a/b/c", "a/model.safetensors", "src/nothing", "~/m", "a b/c", "a/", ""]
        {
            assert_eq!(meant(path), None, "{path}");
        }
    }
}
