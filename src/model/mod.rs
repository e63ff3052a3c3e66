//! Checkpoints: reading them, checking them, and running them on a backend.
//!
//! [`Checkpoint`] opens a folder, file or bytes; [`ModelConfig`] and [`ModelWeights`] are what it holds, with every shape
//! checked against the others and against the config, so that the backends need no more checks.

#[cfg(not(target_arch = "wasm32"))]
mod adapter;
mod checkpoint;
mod config;
mod cpu;
#[cfg(feature = "embedded-model")]
pub mod embedded;
mod fingerprint;
mod generation_config;
pub mod golden;
mod gpu;
mod layout;
mod lm;
mod load_error;
mod names;
mod patch;
mod quantise;
mod quantised;
mod saved_state;
mod shard;
pub(crate) mod sidecars;
pub(crate) mod sniff;
pub mod synthetic;
mod types;
mod weights;
pub(crate) mod write;

#[cfg(not(target_arch = "wasm32"))]
pub use adapter::{Adapter, AdapterInfo};
#[cfg(not(target_arch = "wasm32"))]
pub use checkpoint::{locate, Contents, FileInfo, Listed, Located};
pub use checkpoint::{Checkpoint, TensorInfo};
pub use config::{Arch, ModelConfig};
pub use fingerprint::Fingerprint;
pub use generation_config::GenerationConfig;
pub use lm::{Backend, LanguageModel, Session};
pub use load_error::LoadError;
#[cfg(not(target_arch = "wasm32"))]
pub use quantise::quantise_to_folder;
pub use quantise::{quantise, Progress, QuantiseError, Summary, TensorSummary};
pub use saved_state::{ModelId, SavedState, StateError};
pub use sidecars::Sidecars;
pub(crate) use types::check_tokens;
pub use types::{ActivationDtype, ModelOptions, Scan, Scores, StateData, WeightDtype};
pub use weights::{Dtype, LayerWeights, ModelWeights, TensorView};
