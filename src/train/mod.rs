//! Training: the model's forward and backward pass as plans of dispatches, AdamW, checkpoints, and what to train on.
//!
//! [`Trainer`] does it all on one device, step by step; it prints nothing. All that decides what a run computes is
//! in its [`Settings`]: the same settings give the same run, and a run that goes on from a checkpoint is bit for bit
//! the one that was never interrupted. docs/training.md explains it.

#[cfg(not(target_arch = "wasm32"))]
mod folder;
mod named;
mod parameters;
mod presets;
mod pretrained;
mod questions;
pub mod random;
#[cfg(not(target_arch = "wasm32"))]
mod saved;
mod settings;
mod tape;
pub mod tasks;
mod text_id;
mod trainer;

pub use crate::error::TrainError;
pub use crate::model::blocks::mamba1::Trained;
#[cfg(not(target_arch = "wasm32"))]
pub use folder::RunFolder;
pub use named::NamedTensor;
pub use parameters::Parameters;
pub use presets::Preset;
pub use pretrained::{Origin, Pretrained};
pub use questions::Questions;
#[cfg(not(target_arch = "wasm32"))]
pub use saved::{latest_checkpoint, read_settings, remove_old, Saved};
pub use settings::{Decay, Optimiser, Schedule, Settings, Shape};
pub use tape::{Evaluation, Tape};
pub use tasks::{Batch, Data, Task, TaskKind, IGNORE};
pub use text_id::TextId;
pub use trainer::{StepRecord, Trainer, TrainerState};
