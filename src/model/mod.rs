//! Models on a backend: [`LanguageModel`] takes what a [`Checkpoint`] holds to one, a [`Session`] is one text on it.

mod batch;
pub mod blocks;
mod cpu;
mod explanation;
pub mod golden;
mod gpu;
mod lm;
mod pages;
mod parts;
mod saved_state;
mod span;
mod types;

pub use crate::checkpoint::*;
pub use crate::settings::{ActivationDtype, ModelOptions, Scan, WeightDtype};
pub use batch::Batch;
pub use explanation::{ChannelExplanation, ExplainOptions, LayerExplanation, Skip, Unit, Units};
pub use lm::{Backend, LanguageModel, Session};
pub use pages::Pages;
pub use parts::{Part, Placed};
pub use saved_state::{ModelId, SavedState, StateError};
pub(crate) use types::check_tokens;
pub use types::{Scores, StateData};
