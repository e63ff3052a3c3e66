//! The folder of a run: whether it may be one, and for one process at a time.

use super::saved::{read_settings, SETTINGS};
use super::{latest_checkpoint, TrainError};
use crate::files::{create_folder, holder, is_standard_stream, lock, Lock, UNFINISHED};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const LOCK: &str = ".lock";

/// A run's folder, held by this process until this is dropped (or the process ends). A folder that was made for it and in which
/// nothing was left goes away again.
#[derive(Debug)]
pub struct RunFolder {
    lock: Option<Lock>,
    /// Folders that were not there, the innermost first.
    made: Vec<PathBuf>,
}

impl RunFolder {
    /// Takes a folder for a new run, and makes it if it is not there. It may hold an earlier run that left no checkpoint, empty
    /// files and such as what this program prints is going to; `force`: anything but a run with checkpoints.
    ///
    /// # Errors
    /// [`TrainError::Begun`], [`TrainError::Foreign`], [`TrainError::Locked`]; a folder that cannot be written to.
    pub fn begin(path: &Path, force: bool) -> Result<Self, TrainError> {
        let mut folder = Self { lock: None, made: create_folder(path)? };
        folder.hold(path)?;
        if let Some(busy) = ["checkpoint", "best"].iter().find_map(|kind| latest_checkpoint(path, kind)) {
            return Err(TrainError::Begun { path: busy.display().to_string() });
        }
        match stranger(path).map_err(|e| io_error(path, e))? {
            Some(what) if !force => Err(TrainError::Foreign { path: path.display().to_string(), what }),
            _ => Ok(folder),
        }
    }

    /// Takes the folder of a run to go on with it, from its newest checkpoint.
    ///
    /// # Errors
    /// [`TrainError::NotARun`], [`TrainError::Locked`], [`TrainError::NoneYet`]; a folder that cannot be written to.
    pub fn go_on(path: &Path) -> Result<(Self, PathBuf), TrainError> {
        // A run that has just begun has no settings yet, and its lock.
        if !path.join(SETTINGS).exists() && !path.join(LOCK).exists() {
            return Err(TrainError::NotARun { path: path.display().to_string() });
        }
        let mut folder = Self { lock: None, made: Vec::new() };
        folder.hold(path)?;
        match latest_checkpoint(path, "checkpoint") {
            Some(checkpoint) => Ok((folder, checkpoint)),
            None => Err(TrainError::NoneYet { path: path.display().to_string() }),
        }
    }

    /// Why there is no model of a run in a folder.
    pub fn no_model(path: &Path) -> TrainError {
        let name = path.display().to_string();
        match holder(&path.join(LOCK)) {
            Some(process) => TrainError::AtWork { path: name, process },
            None if path.join(SETTINGS).exists() => TrainError::NoneYet { path: name },
            None => TrainError::NoCheckpoint { path: name },
        }
    }

    fn hold(&mut self, path: &Path) -> Result<(), TrainError> {
        let file = path.join(LOCK);
        match lock(&file).map_err(|e| io_error(&file, e))? {
            Ok(lock) => self.lock = Some(lock),
            Err(process) => return Err(TrainError::Locked { path: path.display().to_string(), process }),
        }
        Ok(())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        self.lock = None; // its file is in there
        for folder in &self.made {
            let _ = fs::remove_dir(folder); // only empty ones
        }
    }
}

fn io_error(path: &Path, reason: io::Error) -> TrainError {
    TrainError::Io { path: path.display().to_string(), reason }
}

/// What of a folder speaks against its being a run's.
fn stranger(folder: &Path) -> io::Result<Option<String>> {
    if folder.join(SETTINGS).exists() {
        return Ok(read_settings(folder).err().map(|_| format!("a {SETTINGS} that this program did not write")));
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A shell makes the file first that `train ... > out/log.txt` writes to.
        let harmless = |m: fs::Metadata| m.is_file() && m.len() == 0 || is_standard_stream(&m);
        if !(name.starts_with('.') || name.ends_with(UNFINISHED) || entry.metadata().is_ok_and(harmless)) {
            found.push(name);
        }
    }
    found.sort();
    Ok(match found.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        [one, rest @ ..] => Some(format!("{one} and {} more", rest.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_and_nothing_left_of_what_was_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("runs/a");
        let first = RunFolder::begin(&out, false).unwrap();
        for second in [RunFolder::begin(&out, true), RunFolder::go_on(&out).map(|(folder, _)| folder)] {
            let words = second.unwrap_err().to_string();
            assert!(words.contains(&format!("process {}", std::process::id())), "{words}");
        }
        assert!(matches!(RunFolder::no_model(&out), TrainError::AtWork { process: Some(_), .. }));
        drop(first);
        assert!(!folder.path().join("runs").exists());
        // What a killed process leaves holds nobody up.
        fs::create_dir_all(&out).unwrap();
        fs::write(out.join(LOCK), "1\n").unwrap();
        drop(RunFolder::begin(&out, false).unwrap());
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    }

    #[test]
    fn a_run_without_a_checkpoint_is_called_that() {
        let folder = tempfile::tempdir().unwrap();
        let go_on = || RunFolder::go_on(folder.path()).map(drop);
        assert!(matches!(go_on(), Err(TrainError::NotARun { .. })));
        assert!(matches!(RunFolder::no_model(folder.path()), TrainError::NoCheckpoint { .. }));
        fs::write(folder.path().join(SETTINGS), "{}").unwrap();
        for error in [go_on().unwrap_err(), RunFolder::no_model(folder.path())] {
            assert!(error.to_string().contains("no checkpoint yet"), "{error}");
        }
        fs::create_dir(folder.path().join("checkpoint-000001")).unwrap();
        go_on().unwrap();
    }

    #[test]
    fn a_strangers_folder_is_refused_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |force| RunFolder::begin(folder.path(), force).map(drop).map_err(|e| e.to_string());
        for empty in ["output.txt", ".gitignore"] {
            fs::write(folder.path().join(empty), "").unwrap();
        }
        begin(false).unwrap();
        for (name, text) in [("loss.svg", "<svg/>"), ("notes.txt", "mine"), (SETTINGS, "{\"lr\": 1}")] {
            fs::write(folder.path().join(name), text).unwrap();
            let words = begin(false).unwrap_err();
            assert!(words.contains(if name == SETTINGS { SETTINGS } else { "loss.svg" }), "{words}");
            begin(true).unwrap();
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), text);
        }
        fs::create_dir(folder.path().join("best-000001")).unwrap();
        assert!(begin(true).unwrap_err().contains("--resume"));
    }
}
