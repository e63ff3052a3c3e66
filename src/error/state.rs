//! What can be wrong with a state file.

/// A state file cannot be used, or could not be written. `file` is its path, or what the caller calls it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Something else.
    #[error("{file}: not a state file of mamba-wgpu")]
    NotAState { file: String },
    /// Written by a later version of this program.
    #[error(
        "{file}: a state file of version {found}, and this program reads up to version {supported}: use a newer one"
    )]
    Newer { file: String, found: u32, supported: u32 },
    /// Cut short, or bytes have changed.
    #[error("{file}: damaged state file: {reason}")]
    Damaged { file: String, reason: String },
    /// The state was computed with other weights: it means nothing to this model.
    #[error("{file}: the state of another model ({theirs}); this one is {ours}")]
    OtherModel { file: String, theirs: String, ours: String },
    /// The text's tokens are another tokenizer's: as this one's they would be another text.
    #[error(
        "{file}: the text was made with another tokenizer (fingerprint {theirs}) than this model's (fingerprint {ours}), \
         to which its tokens mean another text: use the tokenizer files that it was made with"
    )]
    OtherTokenizer { file: String, theirs: String, ours: String },
    /// The operating system refused to read it.
    #[error("{path}: {reason}")]
    Io { path: String, reason: std::io::Error },
    /// It cannot be written.
    #[cfg(not(target_arch = "wasm32"))]
    #[error(transparent)]
    File(#[from] crate::files::FileError),
}
