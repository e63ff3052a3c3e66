//! Paths: asked for in front of the window, picked in the system's dialog, or dropped.

use std::path::{Path, PathBuf};

use super::State;
use crate::app::messages::{Browse, Command};
use crate::app::problem::Problem;
use crate::app::settings::Source;

/// A field for a path, in front of the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    pub what: Browse,
    pub path: String,
    /// Said below the field.
    pub complaint: Option<String>,
    /// Just opened: the field takes the keyboard.
    pub fresh: bool,
    /// The system's dialog was opened and gave nothing.
    pub browsed: bool,
}

impl State {
    /// Asks for a path.
    pub fn ask(&mut self, what: Browse) {
        let possible = match what {
            Browse::ModelFolder | Browse::ModelFile => true,
            Browse::OpenState => self.can_generate(),
            Browse::SaveState => self.can_continue(),
            Browse::SaveReport => self.bench.report.is_some(),
        };
        if possible {
            let path = match what {
                Browse::SaveState => "text.mamba-state".into(),
                Browse::SaveReport => "bench.json".into(),
                _ => String::new(),
            };
            self.dialog = Some(Dialog { what, path, complaint: None, fresh: true, browsed: false });
        }
    }

    pub fn browse(&mut self, what: Browse) {
        self.outbox.push(Command::Browse(what));
    }

    /// The dialog's path was confirmed.
    pub fn confirm(&mut self) {
        let Some(dialog) = &mut self.dialog else { return };
        let path = PathBuf::from(dialog.path.trim());
        let opens = matches!(dialog.what, Browse::ModelFolder | Browse::ModelFile | Browse::OpenState);
        dialog.complaint = match () {
            () if path.as_os_str().is_empty() => Some("There is no path in the field.".into()),
            () if opens && !path.exists() => Some(format!("{}: there is no such file or folder.", path.display())),
            () if !opens && path.is_dir() => Some(format!("{} is a folder: add a name.", path.display())),
            () => None,
        };
        if dialog.complaint.is_none() {
            let what = dialog.what;
            self.dialog = None;
            self.chosen(what, path);
        }
    }

    pub(super) fn chosen(&mut self, what: Browse, path: PathBuf) {
        match what {
            Browse::ModelFolder | Browse::ModelFile => self.open(Source::Path(path)),
            Browse::OpenState if self.can_generate() => self.other("Opening a state", Command::OpenState(path)),
            Browse::SaveState if self.can_continue() => self.other("Saving", Command::SaveState(path)),
            Browse::OpenState | Browse::SaveState => {
                self.problem = Some(Problem::new("Not now", "The model is at work: stop it or wait, and try again."));
            }
            Browse::SaveReport => {
                if let Some(report) = self.bench.report.clone() {
                    self.outbox.push(Command::SaveReport { report, path });
                }
            }
        }
    }

    /// Something was dropped on the window: a state by its name's ending, a model otherwise.
    pub fn dropped(&mut self, path: &Path) {
        let state = path.extension().is_some_and(|ending| ending == "mamba-state");
        self.chosen(if state { Browse::OpenState } else { Browse::ModelFolder }, path.into());
    }
}
