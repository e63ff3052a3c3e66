//! What the window tells the threads that compute, and what it hears from them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamba_wgpu::bench;
use mamba_wgpu::generate::{FinishReason, GenerateOptions, GenerationSettings, Stats};
use mamba_wgpu::gpu::AdapterSummary;
use mamba_wgpu::gpu::Variant;
use mamba_wgpu::model::SavedState;

use super::explain_state::Explained;
use super::problem::Problem;
use super::settings::{Device, Source};

/// Where a text goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A new text.
    Prompt(String),
    /// The present one, with this added.
    Add(String),
    /// The present one.
    Continue,
}

#[derive(Debug)]
pub enum Command {
    // To the worker, which does one after the other:
    Load {
        source: Source,
        device: Device,
    },
    Generate {
        start: Start,
        options: Box<GenerateOptions>,
    },
    /// Keeps the present point, under this name.
    Fork(String),
    Restore(Arc<SavedState>),
    /// Back to the first so many tokens.
    Rewind(usize),
    /// What the model sees in this text.
    Explain(String),
    SaveState(PathBuf),
    OpenState(PathBuf),
    /// The check found these wanting: models loaded from now on do without.
    SwitchOff {
        device: Device,
        variants: Vec<Variant>,
    },
    // To threads of their own:
    Check(Device),
    Bench {
        device: Device,
        options: Box<bench::Options>,
    },
    SaveReport {
        report: Arc<bench::Report>,
        path: PathBuf,
    },
    /// Shows the system's dialog.
    Browse(Browse),
}

/// What the system's dialog is to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Browse {
    ModelFolder,
    ModelFile,
    OpenState,
    SaveState,
    SaveReport,
}

/// A loaded model, in words and numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    pub source: Source,
    /// "Mamba, 8 layers x 256, ...".
    pub description: String,
    pub parameters: u64,
    pub weight_bytes: u64,
    /// What it runs on, in words.
    pub device: String,
    /// Asked for, resolved: never [`Device::Auto`].
    pub on: Device,
    /// Whether that is the window's own wgpu device.
    pub shared: bool,
    /// Bytes of GPU memory held.
    pub memory: Option<u64>,
    /// How its generation_config.json would have texts drawn.
    pub sampling: GenerationSettings,
    pub warnings: Vec<String>,
}

/// How fast a text came, by the clock of the worker.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speed {
    pub stats: Stats,
    pub first_token: Option<Duration>,
    /// Tokens a second, of the prompt and of what came after the first token.
    pub prefill_rate: Option<f64>,
    pub decode_rate: Option<f64>,
    pub memory: Option<u64>,
}

/// A check's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub passed: bool,
    /// Whether models may be run on it: what failed has a stand-in.
    pub usable: bool,
    /// One sentence.
    pub words: String,
    /// One line a failure.
    pub details: Vec<String>,
    pub switched_off: Vec<Variant>,
}

#[derive(Debug)]
pub enum Event {
    Devices(Vec<AdapterSummary>),
    Loading {
        done: u64,
        total: u64,
    },
    Loaded(Box<ModelInfo>),
    LoadFailed {
        source: Source,
        problem: Problem,
    },
    /// The text as it stands before new tokens, and in it the prompt.
    Began {
        text: String,
        seed: u64,
    },
    /// The prompt is being read.
    Reading {
        done: usize,
        total: usize,
    },
    Piece {
        text: String,
        speed: Speed,
    },
    /// `tokens`: of the whole text.
    Finished {
        reason: FinishReason,
        speed: Speed,
        tokens: usize,
    },
    /// The text was put there: from a file, a branch, or an earlier point.
    Text {
        text: String,
        tokens: usize,
        note: Option<String>,
    },
    Explaining {
        done: usize,
        total: usize,
    },
    Explained(Arc<Explained>),
    Forked {
        name: String,
        state: Arc<SavedState>,
    },
    Saved(PathBuf),
    /// What the worker was doing went wrong; the text is what it was, unless another event says so.
    Failed(Problem),
    Checking {
        device: Device,
        done: usize,
        total: usize,
    },
    Checked {
        device: Device,
        verdict: Result<Verdict, String>,
    },
    Measuring {
        done: usize,
        total: usize,
        what: String,
        rows: Vec<bench::Row>,
    },
    Measured(Arc<bench::Report>),
    BenchFailed(Problem),
    /// What the system's dialog gave; `None`: it was closed, or there is none.
    Browsed {
        what: Browse,
        path: Option<PathBuf>,
    },
}
