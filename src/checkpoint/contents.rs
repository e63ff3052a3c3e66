//! What is at a path, whether or not it is a model that can be opened.

use super::{
    find::{entries, file_name, locate},
    reading::beginning,
};
use crate::checkpoint::{
    quantised,
    shard::{Shard, Stored},
    sniff::sniff,
    LoadError,
};
use std::path::{Path, PathBuf};

/// A file, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub name: String,
    pub bytes: u64,
    /// What it is, where it is not what its name says, or why it cannot be read.
    pub remark: Option<String>,
}

/// A stored tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// As safetensors writes it.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: u64,
    pub file: String,
}

/// The files at a path and the tensors in those that are safetensors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// The folder or file.
    pub source: String,
    pub files: Vec<FileInfo>,
    pub tensors: Vec<Listed>,
}

impl Contents {
    /// Lists what is there, found as [`locate`] finds a model. What cannot be read is listed with the reason.
    ///
    /// # Errors
    /// [`LoadError::NotFound`] and the others of [`locate`].
    pub fn of(path: &Path) -> Result<Self, LoadError> {
        let path = locate(path)?.path;
        let mut contents = Self { source: path.display().to_string(), ..Self::default() };
        let files: Vec<PathBuf> = if path.is_dir() { entries(&path) } else { vec![path] };
        files.iter().for_each(|file| contents.add(file));
        Ok(contents)
    }

    fn add(&mut self, path: &Path) {
        let metadata = std::fs::metadata(path);
        let name = match path.is_dir() {
            true => format!("{}/", file_name(path)),
            false => file_name(path),
        };
        let bytes = metadata.as_ref().map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        let foreign = |start: &[u8]| sniff(start).map(|(what, _)| what);
        let remark = match metadata {
            Err(e) if path.is_symlink() => Some(format!("a link to nowhere ({e})")),
            Err(e) => Some(e.to_string()),
            Ok(m) if !m.is_file() => None,
            Ok(_) if name.ends_with(".safetensors") => match Shard::map(path) {
                Ok((shard, tensors)) => {
                    self.list(&shard, tensors);
                    None
                }
                // Without the path, which stands before it.
                Err(LoadError::WrongFile { what, .. }) => Some(what),
                Err(LoadError::Header { reason, .. }) => Some(format!("damaged: {reason}")),
                Err(LoadError::EmptyFile { .. }) => Some("empty".into()),
                Err(e) => Some(e.to_string()),
            },
            Ok(_) => foreign(&beginning(path)),
        };
        self.files.push(FileInfo { name, bytes, remark });
    }

    fn list(&mut self, shard: &Shard, tensors: Vec<Stored>) {
        // What is quantised here, as the matrices that it makes; if that is damaged, as it is stored.
        let stored = |t: Stored| Listed {
            bytes: (t.range.len() + t.quantised.as_ref().map_or(0, |(_, scales)| scales.len())) as u64,
            dtype: t.quantised.as_ref().map_or(t.dtype.to_string(), |(quant, _)| quant.tag().to_uppercase()),
            name: t.name,
            shape: t.shape,
            file: shard.file.clone(),
        };
        match quantised::gather(shard, tensors) {
            Ok(tensors) => self.tensors.extend(tensors.into_iter().map(stored)),
            Err(_) => {
                let again = Shard::map(Path::new(&shard.file)).map(|(_, tensors)| tensors).unwrap_or_default();
                self.tensors.extend(again.into_iter().map(stored));
            }
        }
    }
}
