//! What can go wrong in training.

use super::TextId;
use std::io;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that makes no sense.
    #[error("{what} {value}: it must be {expected}")]
    Setting { what: &'static str, value: String, expected: String },
    /// The loss or a gradient became NaN or infinite. The parameters are those from before the step.
    #[error("step {step}: {what} of `{tensor}` is not finite (loss {loss}); the parameters of step {} are kept", step - 1)]
    NotFinite { step: u64, loss: f32, what: &'static str, tensor: String },
    /// The self-test found the gradients wrong on this device.
    #[error("this device computes gradients wrongly (`mamba-wgpu doctor` says which): it cannot train")]
    Unfit,
    /// A model that a run cannot begin with.
    #[error("{model} cannot be trained: {what}")]
    Untrainable { model: String, what: String },
    /// Batches of other shapes than the trainer was made for.
    #[error("{what}: {got}, the trainer was made for {expected}")]
    BatchShape { what: &'static str, got: usize, expected: usize },
    /// A checkpoint lacks a tensor, or has it in another shape.
    #[error("{file}: tensor `{tensor}` {problem}")]
    Tensor { file: String, tensor: String, problem: String },
    /// A file of a run that cannot be understood.
    #[error("{file}: {message}")]
    Malformed { file: String, message: String },
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    /// A run would go on with another text than it began with.
    #[error("{what}: this run began with {began}, and this is {now}: give it the text that it began with, or begin another run")]
    OtherText { what: &'static str, began: TextId, now: TextId },
    /// There is nothing to resume.
    #[error("{path}: no checkpoint to go on from")]
    NoCheckpoint { path: String },
    #[cfg(not(target_arch = "wasm32"))]
    #[error(transparent)]
    Text(#[from] super::tasks::TextError),
}
