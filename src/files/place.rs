//! Where a path leads, and how that is written to.

use super::{FileError, Replacement};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Links that are followed one by one, before they are taken for a circle.
const LINKS: usize = 40;

#[derive(Debug)]
pub(super) enum Place {
    /// A regular file, links followed, or where one will be.
    File(PathBuf),
    /// A regular file whose folder takes no other: it is written to where it is.
    Kept(PathBuf),
    /// No regular file: opened, to be written through.
    Stream(File),
    /// This process's own: opened again it would begin at its start.
    Stdout,
}

impl Place {
    pub fn find(path: &Path) -> Result<Self, FileError> {
        let failed = |e| FileError::io(path, e);
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => Err(failed(io::Error::other("it is a folder"))),
            Ok(there) if is_stdout(&there) => Ok(Self::Stdout),
            Ok(there) if !there.is_file() => open_stream(path, &there).map(Self::Stream),
            // A file that a shell has opened for this program: another in its place would not be the one that it has open.
            Ok(_) if leads_to_descriptor(path) => {
                OpenOptions::new().append(true).open(path).map(Self::Stream).map_err(failed)
            }
            Ok(_) => Self::try_file(fs::canonicalize(path).map_err(failed)?).map_err(failed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let (target, _) = follow(path).map_err(failed)?;
                Self::try_file(target).map_err(failed)
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Makes a temporary file where the real one would be made, and removes it.
    fn try_file(target: PathBuf) -> io::Result<Self> {
        match Replacement::of(&target) {
            Ok(unused) => {
                drop(unused);
                Ok(Self::File(target))
            }
            Err(e) => match OpenOptions::new().append(true).open(&target) {
                Ok(_) => Ok(Self::Kept(target)),
                Err(_) => Err(e),
            },
        }
    }

    pub fn regular(&self) -> Option<&Path> {
        match self {
            Self::File(target) | Self::Kept(target) => Some(target),
            Self::Stream(_) | Self::Stdout => None,
        }
    }

    /// What only `force` writes to, whatever is in it.
    pub fn check_force(&self, path: &Path, force: bool) -> Result<(), FileError> {
        let taken = |what: &str| Err(FileError::Taken { path: path.display().to_string(), what: what.into() });
        match self {
            _ if force => Ok(()),
            Self::File(target) if fs::metadata(target).is_ok_and(|m| m.permissions().readonly()) => {
                taken("it is there already and write-protected")
            }
            Self::Stream(file) if file.metadata().is_ok_and(|m| is_block_device(&m)) => {
                taken("it is a disk or a part of one, and what it holds would be lost")
            }
            _ => Ok(()),
        }
    }
}

/// The path that `path` leads to through links, whether anything is there or not, and whether it comes through a descriptor.
fn follow(path: &Path) -> io::Result<(PathBuf, bool)> {
    let mut path = path.to_path_buf();
    let mut descriptor = false;
    for _ in 0..LINKS {
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        let real = fs::canonicalize(folder)?;
        descriptor |= is_descriptors(&real);
        match fs::read_link(&path) {
            // An absolute one replaces the folder.
            Ok(to) => path = folder.join(to),
            Err(_) => {
                let name = path.file_name().ok_or_else(|| io::Error::other("it is no file's name"))?;
                return Ok((real.join(name), descriptor));
            }
        }
    }
    Err(io::Error::other("its links lead round in a circle"))
}

/// Folders whose entries are a process's open files.
fn is_descriptors(folder: &Path) -> bool {
    folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
}

fn leads_to_descriptor(path: &Path) -> bool {
    follow(path).is_ok_and(|(_, descriptor)| descriptor)
}

/// Whether standard output goes nowhere: what is mixed there harms nobody.
pub fn stdout_is_null() -> bool {
    fs::metadata("/dev/null").is_ok_and(|null| is_stdout(&null))
}

#[cfg(unix)]
mod system {
    use super::*;
    use rustix::fs::OFlags;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    /// How long a FIFO is given to find a reader: who starts both at once need not hurry.
    const PATIENCE: Duration = Duration::from_secs(2);

    fn is_stream_of(there: &Metadata, ours: impl AsFd) -> bool {
        let ours = ours.as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
        ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }

    pub fn is_stdout(there: &Metadata) -> bool {
        is_stream_of(there, io::stdout())
    }

    /// Whether it is what this program's standard output or error goes to.
    pub fn is_standard_stream(there: &Metadata) -> bool {
        is_stdout(there) || is_stream_of(there, io::stderr())
    }

    /// Whether both are one pipe, file or socket. (A terminal takes anything, and the null device.)
    pub fn is_one_stream(here: &File, there: &File) -> bool {
        let (Ok(here), Ok(there)) = (here.metadata(), there.metadata()) else { return false };
        (here.dev(), here.ino()) == (there.dev(), there.ino()) && !here.file_type().is_char_device()
    }

    pub fn is_block_device(there: &Metadata) -> bool {
        there.file_type().is_block_device()
    }

    pub fn open_stream(path: &Path, there: &Metadata) -> Result<File, FileError> {
        let failed = |e| FileError::io(path, e);
        if there.file_type().is_socket() {
            return UnixStream::connect(path).map(|s| File::from(OwnedFd::from(s))).map_err(failed);
        }
        // Neither to wait for a reader or a line, nor to make a terminal this process's own.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let begin = Instant::now();
        let file = loop {
            match OpenOptions::new().write(true).custom_flags(flags).open(path) {
                Ok(file) => break file,
                Err(e)
                    if there.file_type().is_fifo()
                        && e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) =>
                {
                    if begin.elapsed() > PATIENCE {
                        return Err(FileError::NoReader { path: path.display().to_string() });
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => return Err(failed(e)),
            }
        };
        // From here on writing may wait.
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|e| failed(e.into()))?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        Ok(file)
    }
}

#[cfg(not(unix))]
mod system {
    use super::*;

    pub fn is_stdout(_: &Metadata) -> bool {
        false
    }

    pub fn is_standard_stream(_: &Metadata) -> bool {
        false
    }

    pub fn is_one_stream(_: &File, _: &File) -> bool {
        false
    }

    pub fn is_block_device(_: &Metadata) -> bool {
        false
    }

    pub fn open_stream(path: &Path, _: &Metadata) -> Result<File, FileError> {
        OpenOptions::new().write(true).open(path).map_err(|e| FileError::io(path, e))
    }
}

pub(super) use system::is_one_stream;
pub(crate) use system::is_standard_stream;
use system::{is_block_device, is_stdout, open_stream};
