//! What can go wrong in training.

use super::GenerateError;
use std::io;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that makes no sense.
    #[error("{what} {value}: it must be {expected}")]
    Setting { what: &'static str, value: String, expected: String },
    /// The loss or a gradient became NaN or infinite. The parameters are those from before the step.
    #[error("step {step}: {what} of `{tensor}` is not finite (loss {loss}); the parameters of step {} are kept: a lower learning rate or a longer warm-up mostly helps", step - 1)]
    NotFinite { step: u64, loss: f32, what: &'static str, tensor: String },
    /// The self-test found the gradients wrong on this device.
    #[error("this device computes gradients wrongly (`mamba-wgpu doctor` says which), so it cannot train: choose another adapter")]
    Unfit,
    /// A model that a run cannot begin with.
    #[error("{model}: it cannot be trained: {what}")]
    Untrainable { model: String, what: String },
    /// Batches of other shapes than the trainer was made for.
    #[error("{what}: {got}, the trainer was made for {expected}")]
    BatchShape { what: &'static str, got: usize, expected: usize },
    /// A checkpoint lacks a tensor, or has it in another shape.
    #[error("{file}: tensor `{tensor}` {problem}")]
    Tensor { file: String, tensor: String, problem: String },
    /// A file of a run that cannot be understood.
    #[error("{file}: it cannot be understood: {message}")]
    Malformed { file: String, message: String },
    /// A file that cannot be read or written.
    #[error("{path}: {reason}")]
    Io { path: String, reason: io::Error },
    /// A run would go on with another text than it began with.
    #[error("{what}: this run began with {began}, and this is {now}: give it the text that it began with, or begin another run")]
    OtherText { what: &'static str, began: String, now: String },
    /// A folder without a run's settings.
    #[error(
        "{path}: not the folder of a run, no training.json is there; give what `mamba-wgpu train` was given as --out"
    )]
    NotARun { path: String },
    /// There is nothing to resume or to evaluate.
    #[error("{path}: no checkpoint of a run is here; give what `mamba-wgpu train` was given as --out")]
    NoCheckpoint { path: String },
    /// A run that has left no checkpoint: it was ended before its first, or something else is wrong with its folder.
    #[error("{path}: the run in it has no checkpoint yet; begin it once more, with the same settings")]
    NoneYet { path: String },
    /// A run that another process is at work on.
    #[error("{path}: the run in it is at work{} and has no checkpoint yet", process.map_or_else(String::new, |id| format!(" (process {id})")))]
    AtWork { path: String, process: Option<u32> },
    /// A new run in a folder that has one.
    #[error("{path} is there already: go on with that run (--resume), or begin in another folder")]
    Begun { path: String },
    /// A new run in a folder that is something else.
    #[error("{path}: no folder of a run, it holds {what}: begin in another one")]
    Foreign { path: String, what: String },
    /// Two runs in one folder would each remove the other's checkpoints.
    #[error("{path}: another run is at work there{}", process.map_or_else(String::new, |id| format!(" (process {id})")))]
    Locked { path: String, process: Option<u32> },
    #[cfg(not(target_arch = "wasm32"))]
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    #[cfg(not(target_arch = "wasm32"))]
    #[error(transparent)]
    Text(#[from] TextError),
}

/// Why there is no text to train on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A text shorter than one window.
    #[error("{file}: {tokens} tokens, but a window takes {needed}: take a longer text or a shorter length")]
    TooShort { file: String, tokens: usize, needed: usize },
    /// The tokenizer could not be made.
    #[error("no tokenizer could be trained on the text: {message}")]
    Tokenizer { message: String },
    #[error(transparent)]
    Encode(#[from] GenerateError),
}
