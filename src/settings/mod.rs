//! What may be set: how a model is run, and how a text is written. No kernel and no file is known here.

mod model;
mod named;
mod text;

pub use model::{ActivationDtype, ModelOptions, Scan, WeightDtype};
pub(crate) use named::named;
pub use text::{GenerationSettings, SamplingParams};
