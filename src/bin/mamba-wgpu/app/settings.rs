//! What the window remembers from one start to the next, as a JSON file in the user's configuration folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mamba_wgpu::files::{replace, FileError};
use mamba_wgpu::generate::{GenerateOptions, GenerationSettings, SamplingParams};
use serde::{Deserialize, Serialize};

/// Models remembered.
const RECENT: usize = 10;

/// Which model to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The one compiled into the program.
    Embedded,
    /// A folder or a .safetensors file.
    Path(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded => f.write_str("the model built into this program"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// What to compute on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The best hardware GPU there is, or the CPU.
    #[default]
    Auto,
    Cpu,
    /// By name and API: numbers change when a card is added.
    Adapter {
        name: String,
        backend: String,
    },
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("the fastest device"),
            Self::Cpu => f.write_str("the CPU"),
            Self::Adapter { name, backend } => write!(f, "{name} ({backend})"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub const ALL: [Theme; 3] = [Theme::System, Theme::Light, Theme::Dark];
    pub fn name(self) -> &'static str {
        match self {
            Theme::System => "As the system",
            Theme::Light => "Light",
            Theme::Dark => "Dark",
        }
    }
}

/// The flags of `mamba-wgpu generate`, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    /// None: another one each time.
    pub seed: Option<u64>,
    pub max_tokens: usize,
    /// As typed: one a line, with \n and \t for a line break and a tab.
    pub stop: String,
    pub ignore_eos: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: None,
            max_tokens: 128,
            stop: String::new(),
            ignore_eos: false,
        }
    }
}

impl Sampling {
    /// As the library wants it; `random` stands in where no seed was chosen.
    pub fn options(&self, random: u64) -> GenerateOptions {
        GenerateOptions {
            max_tokens: self.max_tokens,
            params: SamplingParams {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed.unwrap_or(random),
            },
            stop: stop_strings(&self.stop),
            ignore_eos: self.ignore_eos,
            ..GenerateOptions::default()
        }
    }
}

impl Sampling {
    /// Takes over what a model says.
    pub fn take(&mut self, model: &GenerationSettings) {
        let GenerationSettings { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop } = model;
        self.max_tokens = max_tokens.unwrap_or(self.max_tokens);
        self.temperature = temperature.unwrap_or(self.temperature);
        self.top_k = top_k.unwrap_or(self.top_k);
        self.top_p = top_p.unwrap_or(self.top_p);
        self.min_p = min_p.unwrap_or(self.min_p);
        self.repetition_penalty = repetition_penalty.unwrap_or(self.repetition_penalty);
        if let Some(stop) = stop {
            let escape = |line: &String| line.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t");
            self.stop = stop.iter().map(escape).collect::<Vec<_>>().join("\n");
        }
    }
}

/// One stop string a line; empty lines are none. `\n`, `\t` and `\\` stand for a line break, a tab and a backslash.
fn stop_strings(text: &str) -> Vec<String> {
    let unescape = |line: &str| {
        let mut out = String::new();
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match (c, chars.clone().next()) {
                ('\\', Some(next @ ('n' | 't' | '\\'))) => {
                    chars.next();
                    out.push(match next {
                        'n' => '\n',
                        't' => '\t',
                        other => other,
                    });
                }
                _ => out.push(c),
            }
        }
        out
    };
    text.lines().filter(|line| !line.is_empty()).map(unescape).collect()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// None: the embedded one.
    pub model: Option<PathBuf>,
    /// Models opened before, the last one first.
    pub recent: Vec<PathBuf>,
    pub device: Device,
    pub sampling: Sampling,
    pub prompt: String,
    pub theme: Theme,
    pub zoom: f32,
    /// Whether each device is checked when a model is brought to it.
    pub check: bool,
    /// Width and height of the window, in points.
    pub window: [f32; 2],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            recent: Vec::new(),
            device: Device::default(),
            sampling: Sampling::default(),
            prompt: "It is a truth universally acknowledged, that".into(),
            theme: Theme::default(),
            zoom: 1.0,
            check: true,
            window: [1080.0, 720.0],
        }
    }
}

impl Settings {
    /// Where they are kept; `None` on a system without a home folder.
    pub fn default_path() -> Option<PathBuf> {
        let dirs = directories::ProjectDirs::from("", "", "mamba-wgpu")?;
        Some(dirs.config_dir().join("app.json"))
    }

    /// Reads them. A file that cannot be read is put aside, and said so in words: nothing of it is lost.
    pub fn read(path: &Path) -> (Self, Option<String>) {
        let failed = |what: String| (Self::default(), Some(what));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Self::default(), None),
            Err(error) => return failed(format!("{}: {error}. The window starts with its defaults.", path.display())),
        };
        match serde_json::from_str::<Self>(&text) {
            Ok(settings) => (settings.within_bounds(), None),
            Err(error) => {
                let aside = path.with_extension("json.unreadable");
                let kept = match fs::rename(path, &aside) {
                    Ok(()) => format!("it is kept as {}", aside.display()),
                    Err(error) => format!("it could not be put aside ({error})"),
                };
                failed(format!("{}: {error}. The window starts with its defaults; {kept}.", path.display()))
            }
        }
    }

    /// Writes them; the old file stays whole until the new one is.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let json = serde_json::to_string_pretty(self)? + "\n";
        replace(path, json.as_bytes()).map_err(|error| match error {
            FileError::Io { reason, .. } => reason, // the window names the file
            other => io::Error::other(other),
        })
    }

    /// A window and text that can be seen, whatever the file says.
    fn within_bounds(mut self) -> Self {
        let bounded = |x: f32, least, most, or: f32| if x.is_finite() { x.clamp(least, most) } else { or };
        self.zoom = bounded(self.zoom, 0.4, 4.0, 1.0);
        self.window = self.window.map(|x| bounded(x, 360.0, 8192.0, 720.0));
        self.recent.truncate(RECENT);
        self
    }

    /// A model was opened.
    pub fn opened(&mut self, source: &Source) {
        let Source::Path(path) = source else {
            self.model = None;
            return;
        };
        // An absolute path means the same from everywhere.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        self.recent.retain(|other| *other != path);
        self.recent.insert(0, path.clone());
        self.recent.truncate(RECENT);
        self.model = Some(path);
    }

    /// What to open at the start.
    pub fn source(&self) -> Source {
        self.model.clone().map_or(Source::Embedded, Source::Path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_settings_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/app.json");
        assert_eq!(Settings::read(&path), (Settings::default(), None), "none yet");
        let mut settings = Settings { zoom: 1.5, theme: Theme::Dark, ..Settings::default() };
        settings.device = Device::Adapter { name: "A".into(), backend: "vulkan".into() };
        settings.sampling.seed = Some(7);
        settings.opened(&Source::Path(folder.path().into()));
        settings.write(&path).unwrap();
        assert_eq!(Settings::read(&path), (settings, None));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_damaged_file_is_kept_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        fs::write(&path, "{\"zoom\": 2").unwrap();
        let (settings, problem) = Settings::read(&path);
        assert_eq!(settings, Settings::default());
        let problem = problem.unwrap();
        assert!(problem.contains("app.json") && problem.contains("unreadable"), "{problem}");
        assert_eq!(fs::read_to_string(path.with_extension("json.unreadable")).unwrap(), "{\"zoom\": 2");
    }

    #[test]
    fn a_part_of_the_fields_is_enough_and_bounds_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        fs::write(&path, r#"{"zoom": 900, "window": [1, 1e9], "sampling": {"temperature": 0}}"#).unwrap();
        let (settings, problem) = Settings::read(&path);
        assert_eq!(problem, None);
        assert_eq!((settings.zoom, settings.window), (4.0, [360.0, 8192.0]));
        assert_eq!(settings.sampling, Sampling { temperature: 0.0, ..Sampling::default() });
    }

    #[test]
    fn recent_models_come_once_and_last_first() {
        let mut settings = Settings::default();
        for name in ["/a", "/b", "/a"] {
            settings.opened(&Source::Path(name.into()));
        }
        assert_eq!(settings.recent, [PathBuf::from("/a"), "/b".into()]);
        assert_eq!(settings.source(), Source::Path("/a".into()));
        settings.opened(&Source::Embedded);
        assert_eq!((settings.source(), settings.recent.len()), (Source::Embedded, 2));
        (0..30).for_each(|i| settings.opened(&Source::Path(format!("/{i}").into())));
        assert_eq!(settings.recent.len(), RECENT);
    }

    #[test]
    fn stop_strings_are_lines_with_escapes() {
        assert_eq!(stop_strings("\\n\\n\nEND\n\n a\\\\n"), ["\n\n", "END", " a\\n"]);
        assert!(stop_strings("\n").is_empty());
    }

    #[test]
    fn a_seed_of_ones_own_or_the_random_one() {
        let sampling = Sampling::default();
        assert_eq!(sampling.options(5).params.seed, 5);
        assert_eq!(Sampling { seed: Some(9), ..sampling }.options(5).params.seed, 9);
    }
}
