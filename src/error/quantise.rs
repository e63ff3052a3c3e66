//! Why a checkpoint was not quantised.

use super::LoadError;
use std::io;

/// Why a checkpoint was not quantised. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantiseError {
    /// The checkpoint's weights are damaged.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Rounding twice would lose more than rounding once.
    #[error("{source_name}: tensor `{tensor}` is stored as {dtype}: quantise the original instead")]
    AlreadyQuantised { source_name: String, tensor: String, dtype: String },
    /// There is something where the result should go.
    #[error("{path}: it is there already")]
    Exists { path: String },
    /// The result would replace what it is made from.
    #[error("{path}: the model that is to be quantised lies there")]
    Source { path: String },
    /// The place for the result is a file, a pipe or the like.
    #[error("{path}: not a folder")]
    NotAFolder { path: String },
    /// The result could not be written.
    #[error("{path}: {reason}")]
    Io { path: String, reason: io::Error },
    /// Another process writes there.
    #[error("{path}: another process is writing there{}", process.map_or_else(String::new, |id| format!(" (process {id})")))]
    Locked { path: String, process: Option<u32> },
    #[cfg(not(target_arch = "wasm32"))]
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// The bytes could not be written.
    #[error("the weights cannot be written: {0}")]
    Write(io::Error),
    /// `progress` said so.
    #[error("cancelled")]
    Cancelled,
}

// Not `#[from]`, which would make it the source: the message says it already.
impl From<io::Error> for QuantiseError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}
