//! Everything that this crate writes to files goes through here: states, checkpoints, logs, pages, pictures, quantised models.
//!
//! - A regular file is replaced as a whole ([`Replacement`]): the new one is written beside it, brought to the disk, and takes its
//!   name and its permissions. Until then the old one is as it was. A link stays a link: what it leads to is replaced.
//! - What is no regular file (a device, a FIFO, a socket, a pipe under /dev/fd, standard output by any name) is opened and written
//!   through. A FIFO that nobody reads is refused, since opening it would wait for ever.
//! - A file of another kind than what is to be written ([`Kind`]) is a stranger's: it is refused unless the caller says otherwise.
//! - [`Output::new`] tries all of it before there is anything to write, and leaves nothing behind.
//! - Temporary files are locked while they are in use; those that are not any more are removed the next time.

mod lock;
mod place;
mod replacement;
#[cfg(test)]
mod tests;
mod unfinished;

pub use lock::{holder, lock, Lock};
pub(crate) use place::is_standard_stream;
pub use replacement::Replacement;
pub(crate) use replacement::UNFINISHED;
pub use unfinished::remove_unfinished;

use place::Place;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Why a place cannot be written to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is something that would be lost. Who knows that can force it.
    #[error("{path}: {what}")]
    Taken { path: String, what: String },
    /// A FIFO without a reader.
    #[error("{path}: nobody reads this FIFO: start its reader first")]
    NoReader { path: String },
    /// Standard output whose reader has gone, as `| head` does: mostly no reason to complain.
    #[error("{path}: standard output is closed")]
    Closed { path: String },
    /// A folder, a place in a folder that is not there, a full disk, ... (The reason is part of the message and no source: nothing is
    /// said twice.)
    #[error("{path}: {reason}")]
    Io { path: String, reason: io::Error },
}

impl FileError {
    pub(crate) fn io(path: &Path, reason: io::Error) -> Self {
        Self::Io { path: path.display().to_string(), reason }
    }
}

/// What is written to a place, by which a file that is there is told from a stranger's.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As in "it is no ...".
    pub name: &'static str,
    /// Whether a file that begins with these bytes (16 MiB at most) is of this kind.
    pub is: fn(&[u8]) -> bool,
}

impl Kind {
    /// What any file may be replaced by.
    pub const ANY: Kind = Kind { name: "file", is: |_| true };
    /// For [`Output::append`]: lines can be added to any text.
    pub const TEXT: Kind = Kind { name: "text", is: is_text };
}

fn is_text(bytes: &[u8]) -> bool {
    // What is looked at may end within a character.
    !bytes.contains(&0) && std::str::from_utf8(bytes).map_or_else(|e| e.error_len().is_none(), |_| true)
}

/// How much of a file is looked at to tell its kind.
const LOOK: u64 = 16 << 20;

/// A place that something will be written to, tried beforehand.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    place: Place,
}

impl Output {
    /// Finds out whether `path` can be written to, without changing anything. `force`: whatever file is there may be replaced. A
    /// FIFO is given two seconds to find a reader, and stays open until this is dropped.
    ///
    /// # Errors
    /// [`FileError`]: everything that can be known before there is something to write.
    pub fn new(path: &Path, kind: Kind, force: bool) -> Result<Self, FileError> {
        let place = Place::find(path)?;
        let output = Self { path: path.into(), place };
        if !force {
            output.check_kind(kind)?;
        }
        output.place.check_force(path, force)?;
        Ok(output)
    }

    /// What a user calls it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The regular file that it is or will be, links followed; `None` for what is written through.
    pub fn file(&self) -> Option<&Path> {
        self.place.regular()
    }

    /// Whether it is this program's standard output, unless that goes nowhere.
    pub fn is_stdout(&self) -> bool {
        matches!(self.place, Place::Stdout) && !place::stdout_is_null()
    }

    /// Whether what is written to both would be mixed, or the one lost by the other.
    pub fn collides(&self, other: &Output) -> bool {
        match (&self.place, &other.place) {
            (Place::Stdout, Place::Stdout) => self.is_stdout(),
            (Place::Stream(here), Place::Stream(there)) => place::is_one_stream(here, there),
            (Place::Stream(_), _) | (_, Place::Stream(_)) => false,
            _ => self.place.regular().is_some_and(|here| other.is_same(here)),
        }
    }

    /// Whether both lead to one regular file.
    pub fn is_same(&self, other: &Path) -> bool {
        let target = |path: &Path| fs::canonicalize(path).ok();
        match self.place.regular() {
            Some(here) => here == other || target(here).is_some_and(|here| target(other) == Some(here)),
            None => false,
        }
    }

    /// A file that is there must be empty or of this kind.
    fn check_kind(&self, kind: Kind) -> Result<(), FileError> {
        let Some(path) = self.place.regular() else { return Ok(()) };
        let taken = |what: String| FileError::Taken { path: self.path.display().to_string(), what };
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(LOOK).read_to_end(&mut bytes)) {
            Ok(_) if bytes.is_empty() || (kind.is)(&bytes) => Ok(()),
            Ok(_) => Err(taken(format!("it is there already and is no {}", kind.name))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(taken(format!("it is there already and cannot be read ({e}): it may be no {}", kind.name))),
        }
    }

    /// Writes it: all of it, or what was there stays.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write(&self, bytes: &[u8]) -> Result<(), FileError> {
        let written = match &self.place {
            Place::Stdout => to_stdout(bytes),
            Place::Stream(file) => write_through(file, bytes),
            Place::Kept(target) => in_place(target, bytes),
            Place::File(target) => Replacement::of(target).and_then(|mut new| {
                new.file().write_all(bytes)?;
                new.commit()
            }),
        };
        written.map_err(|e| self.failed(e))
    }

    fn failed(&self, reason: io::Error) -> FileError {
        match (&self.place, reason.kind()) {
            (Place::Stdout, io::ErrorKind::BrokenPipe) => FileError::Closed { path: self.path.display().to_string() },
            _ => FileError::io(&self.path, reason),
        }
    }

    /// Begins a new file in its place, for what is too large to be held in memory.
    ///
    /// # Errors
    /// [`FileError`]; what is no regular file cannot be replaced.
    pub fn begin(&self) -> Result<Replacement, FileError> {
        let target = self.place.regular().ok_or_else(|| io::Error::other("it is no regular file"));
        target.and_then(Replacement::of).map_err(|e| FileError::io(&self.path, e))
    }

    /// Adds to its end, in one piece, after a line break where a line was left open. What could not be written as a whole is taken
    /// back.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn append(&self, bytes: &[u8]) -> Result<(), FileError> {
        let written = match &self.place {
            Place::Stdout => to_stdout(bytes),
            Place::Stream(file) => write_through(file, bytes),
            Place::File(target) | Place::Kept(target) => add(target, bytes),
        };
        written.map_err(|e| self.failed(e))
    }
}

/// Replaces whatever regular file is there, or writes through.
///
/// # Errors
/// [`FileError`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    Output::new(path, Kind::ANY, true)?.write(bytes)
}

/// Makes a folder and those around it; gives those that were not there, the innermost first.
///
/// # Errors
/// [`FileError::Io`]: something else in its place, a link to nowhere among them.
pub fn create_folder(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let real: Vec<&Path> = path.ancestors().filter(|path| *path != Path::new("")).collect();
    // The system says of one that something is there, or that nothing is.
    for link in real.iter().filter(|path| !path.exists()) {
        if let Ok(target) = fs::read_link(link) {
            let target = target.display();
            let words = format!("a link to {target}, where nothing is: make that folder, or take the link away");
            return Err(FileError::io(link, io::Error::other(words)));
        }
    }
    if path.exists() && !path.is_dir() {
        return Err(FileError::io(path, io::Error::other("it is no folder")));
    }
    let made = real.into_iter().take_while(|path| !path.exists()).map(Path::to_path_buf).collect();
    fs::create_dir_all(path).map_err(|e| FileError::io(path, e))?;
    Ok(made)
}

/// What a folder lists, on the disk when this returns (where folders can be synced: not on Windows).
pub(crate) fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

fn to_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn write_through(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.flush()
}

/// For a file that can be written to in a folder that cannot.
fn in_place(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(target)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

fn add(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(target)?;
    let before = file.metadata()?.len();
    let open_line = before > 0 && !ends_a_line(target)?;
    let whole = if open_line { [b"\n", bytes].concat() } else { bytes.to_vec() };
    file.write_all(&whole).inspect_err(|_| {
        // A half line is worse than none; another program's is left alone.
        if file.metadata().is_ok_and(|m| m.len() < before + whole.len() as u64) {
            let _ = file.set_len(before);
        }
    })
}

fn ends_a_line(path: &Path) -> io::Result<bool> {
    use io::{Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
