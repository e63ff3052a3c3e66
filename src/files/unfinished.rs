//! What this process has to remove should it end at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// The temporary files of this process.
static IN_USE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn in_use() -> MutexGuard<'static, Vec<PathBuf>> {
    IN_USE.lock().unwrap_or_else(|e| e.into_inner())
}

pub(super) fn remember(path: &Path) {
    in_use().push(path.into());
}

/// Whether it was there.
pub(super) fn forget(path: &Path) -> bool {
    let mut paths = in_use();
    let before = paths.len();
    paths.retain(|p| p != path);
    paths.len() < before
}

/// Removes the temporary files of this process: for a program that ends at once.
pub fn remove_unfinished() {
    for path in in_use().drain(..) {
        let _ = fs::remove_file(path);
    }
}
