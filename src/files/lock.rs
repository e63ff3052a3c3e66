//! Locks between processes. The system lets go of them when a process ends, however it ends.

use super::unfinished::{forget, remember};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file that one process at a time holds; it is there as long as it is held, and says by whom.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Held as long as it is open.
    _file: File,
}

/// Takes the lock, or gives the number of the process that holds it, as far as it is known.
///
/// # Errors
/// The operating system's.
pub fn lock(path: &Path) -> io::Result<Result<Lock, Option<u32>>> {
    loop {
        let mut file = match open(path) {
            Ok(file) => file,
            Err(e) if is_held(&e) => return Ok(Err(number(path))),
            Err(e) => return Err(e),
        };
        // Where there are no locks there is nothing to be had.
        if let Ok(false) = try_lock(&file) {
            return Ok(Err(number(path)));
        }
        // Its last holder may have removed it meanwhile.
        if !is_at(&file, path) {
            continue;
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        remember(path);
        return Ok(Ok(Lock { path: path.into(), _file: file }));
    }
}

/// Who holds a lock that is not to be taken: the number of the process, as far as it is known; `None` if nobody does.
pub fn holder(path: &Path) -> Option<Option<u32>> {
    let held = match open_only(path) {
        Ok(file) => matches!(try_lock(&file), Ok(false)),
        Err(e) => is_held(&e),
    };
    held.then(|| number(path))
}

impl Drop for Lock {
    fn drop(&mut self) {
        forget(&self.path);
        // While it is held: nobody else can have it yet.
        let _ = fs::remove_file(&self.path);
    }
}

fn number(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path).ok()?.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// On Windows whoever opens it for writing holds it; others may read.
#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const SHARE_READ_AND_DELETE: u32 = 1 | 4;
    OpenOptions::new().write(true).create(true).truncate(false).share_mode(SHARE_READ_AND_DELETE).open(path)
}

#[cfg(not(any(unix, windows)))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// The same of a file that is there.
fn open_only(path: &Path) -> io::Result<File> {
    match path.exists() {
        true => open(path),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

fn is_held(error: &io::Error) -> bool {
    const SHARING_VIOLATION: i32 = 32;
    cfg!(windows) && error.raw_os_error() == Some(SHARING_VIOLATION)
}

/// Locks an open file; `false` if another process has.
#[cfg(unix)]
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    use rustix::fs::{flock, FlockOperation};
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(unix))]
pub(super) fn try_lock(_: &File) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: &fs::Metadata| (m.dev(), m.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}
