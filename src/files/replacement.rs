//! A file that takes another's place once it is whole.

use super::lock::try_lock;
use super::sync_folder;
use super::unfinished::{forget, remember};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// At the end of temporary names; none of them ends like what it will be.
pub(crate) const UNFINISHED: &str = ".unfinished";
/// Of a name in a temporary one: file systems allow 255 bytes in all.
const NAME: usize = 180;

/// The new content of a file, under a temporary name in the same folder: `.NAME.PROCESS-NUMBER.unfinished`. Dropped before
/// [`Replacement::commit`] it is removed.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Replacement {
    /// Begins to replace `target`, which is no link. Those that were begun for it and never finished are removed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn of(target: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| io::Error::other("it is no file's name"))?;
        let prefix = prefix(&name.to_string_lossy());
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        remove_stale(folder, &prefix);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let temporary = folder.join(format!("{prefix}{}-{count}{UNFINISHED}", std::process::id()));
            let file = match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                // Of a process of the same number in another container.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            // Where there are no locks, nothing is ever taken for stale.
            let _ = try_lock(&file);
            if is_there(&file) {
                remember(&temporary);
                return Ok(Self { file, temporary, target: target.into() });
            }
        }
    }

    /// To write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Brings it to the disk and gives it the name and the permissions of the file that it replaces.
    ///
    /// # Errors
    /// The operating system's: the file is as it was, then.
    pub fn commit(self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Ok(old) = fs::metadata(&self.target) {
            keep_permissions(&self.file, &old)?;
        }
        match fs::rename(&self.temporary, &self.target) {
            Ok(()) => drop(forget(&self.temporary)), // nothing is left to be removed
            // A file that is mounted by itself (into a container) has a name that stays.
            Err(e) if is_mounted(&e) => drop(fs::copy(&self.temporary, &self.target)?),
            Err(e) => return Err(e),
        }
        if let Some(folder) = self.target.parent() {
            sync_folder(folder);
        }
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if forget(&self.temporary) {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// ".NAME.", shortened where it must be.
fn prefix(name: &str) -> String {
    let end = (0..=NAME.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    format!(".{}.", &name[..end])
}

/// Removes what a process that is no more began for a file and did not finish.
fn remove_stale(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(middle) = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(UNFINISHED)) else { continue };
        if middle.is_empty() || !middle.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            continue;
        }
        let path = entry.path();
        // Opened for writing, since a lock on some file systems wants that.
        if OpenOptions::new().write(true).open(&path).is_ok_and(|file| matches!(try_lock(&file), Ok(true))) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(unix)]
fn is_there(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    // Between its making and its locking another process may have taken it for stale.
    file.metadata().map_or(true, |m| m.nlink() > 0)
}

#[cfg(not(unix))]
fn is_there(_: &File) -> bool {
    true
}

#[cfg(unix)]
fn keep_permissions(file: &File, old: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{fchown, MetadataExt};
    // Only root can give a file away; for others it stays their own.
    let _ = fchown(file, Some(old.uid()), Some(old.gid()));
    file.set_permissions(old.permissions())
}

#[cfg(not(unix))]
fn keep_permissions(_: &File, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn is_mounted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error())
}

#[cfg(not(unix))]
fn is_mounted(_: &io::Error) -> bool {
    false
}
