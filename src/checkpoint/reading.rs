//! Small files and what becomes of those that are not there.

use crate::error::LoadError;
use std::path::Path;
use std::{fs, io, io::Read};

pub(super) fn io_error(path: &Path, reason: io::Error) -> LoadError {
    let path = path.display().to_string();
    match reason.kind() {
        io::ErrorKind::NotFound => LoadError::NotFound { path },
        _ => LoadError::Io { path, reason },
    }
}

/// Whether there is such a file or folder; an error for a link to nowhere, as a download that broke off leaves them in
/// Hugging Face's cache.
pub(super) fn is_there(path: &Path) -> Result<bool, LoadError> {
    if path.exists() {
        return Ok(true);
    }
    match fs::read_link(path) {
        Ok(target) => {
            let target = target.display().to_string();
            Err(LoadError::DanglingLink { path: path.display().to_string(), target })
        }
        Err(_) => Ok(false),
    }
}

/// A small file's bytes; `None` if there is no such file.
pub(super) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    if !is_there(path)? {
        return Ok(None);
    }
    match fs::metadata(path) {
        Err(e) => return Err(io_error(path, e)),
        // A pipe or a device could block for ever or never end.
        Ok(metadata) if !metadata.is_file() => return Err(LoadError::NotAFile { path: path.display().to_string() }),
        Ok(_) => {}
    }
    fs::read(path).map(Some).map_err(|e| io_error(path, e))
}

/// The first bytes of a file, as far as there are any.
pub(super) fn beginning(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What is no file is never opened: it could block for ever.
    if path.is_file() {
        let _ = fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut bytes));
        // what could not be read tells nothing
    }
    bytes
}
