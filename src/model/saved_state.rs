//! A text's state as a small file: where a model is in a text, to go on from elsewhere, natively or in a browser.
//!
//! Little-endian:
//!
//! ```text
//!  0   8  "mambaST\n"
//!  8   4  version (u32)                    2
//! 12   4  length of the header, n (u32)
//! 16   n  header, JSON: fingerprint and description of the model, the tokenizer's fingerprint if there is one, the counts
//!         of what follows, who wrote it
//!         tokens of the whole text (u32 each)
//!         the states that the header names, in its order, of each all layers' parts, as the blocks have them (f32 each);
//!         of attention keys and values, (layers, tokens, kv_heads, head_dim)
//!     32  SHA-256 of everything before
//! ```
//!
//! Version 1, which is read still, has no list of states in its header: conv_state comes first and then ssm_state, and `conv` and `ssm`
//! are their counts.
//!
//! The state has consumed the first `consumed` tokens. Those after it are pending: they are fed first when the text goes
//! on, and give the logits, which are not stored.

use super::blocks::STATES;
use super::pages::Pages;
use super::types::StateData;
use super::{Checkpoint, Fingerprint};
pub use crate::error::StateError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"mambaST\n";
const VERSION: u32 = 2;
const FIRST_VERSION: u32 = 1;
/// Before the header: magic, version, the header's length.
const PREFIX: usize = 16;
const CHECKSUM: usize = 32;

/// Which model a state belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    pub fingerprint: Fingerprint,
    /// In words, for messages.
    pub description: String,
    /// The tokenizer's, where there is one and its user cares (see [`ModelId::with_tokenizer`]).
    pub tokenizer: Option<Fingerprint>,
}

impl ModelId {
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let c = checkpoint.config();
        let fingerprint = checkpoint.fingerprint();
        let short = fingerprint.short();
        let (arch, layers, width, vocab) = (c.arch, c.n_layer(), c.d_model, c.vocab_size);
        let description = format!("{arch}, {layers} layers x {width}, {vocab} tokens, fingerprint {short}");
        Self { fingerprint, description, tokenizer: None }
    }
}

/// A point in a text, with all that is needed to go on from it.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedState {
    pub model: ModelId,
    /// The whole text, prompt and continuation.
    pub tokens: Vec<u32>,
    /// How many of them the state has seen.
    pub consumed: usize,
    pub state: StateData,
}

#[derive(Serialize, Deserialize)]
struct Header {
    fingerprint: String,
    model: String,
    /// The tokenizer's fingerprint. Files from before there was one, and texts that are only tokens, have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokenizer: Option<String>,
    tokens: usize,
    consumed: usize,
    /// What follows the tokens.
    #[serde(default)]
    states: Vec<Named>,
    /// The same in version 1: values of each.
    #[serde(default, skip_serializing)]
    conv: usize,
    #[serde(default, skip_serializing)]
    ssm: usize,
    written_by: String,
}

/// All layers' parts of a state.
#[derive(Serialize, Deserialize)]
struct Named {
    name: String,
    values: usize,
    /// Of keys and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shape: Option<[usize; 4]>,
}

/// What attention keeps, beside the [`STATES`].
const KEPT: [&str; 2] = ["keys", "values"];

impl SavedState {
    /// The tokens to be fed before anything else.
    pub fn pending(&self) -> &[u32] {
        self.tokens.get(self.consumed..).unwrap_or(&[])
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut states: Vec<_> = self.state.named().map(|(name, values)| (name, values.as_slice(), None)).into();
        let (pages, (keys, values)) = (&self.state.pages, self.state.pages.dense());
        if pages.shape()[0] > 0 {
            let shape = Some(pages.shape());
            states.extend([(KEPT[0], keys.as_slice(), shape), (KEPT[1], values.as_slice(), shape)]);
        }
        let named = |(name, values, shape): &(&str, &[f32], _)| Named {
            name: (*name).into(),
            values: values.len(),
            shape: *shape,
        };
        let header = Header {
            fingerprint: self.model.fingerprint.to_string(),
            model: self.model.description.clone(),
            tokenizer: self.model.tokenizer.map(|tokenizer| tokenizer.to_string()),
            tokens: self.tokens.len(),
            consumed: self.consumed,
            states: states.iter().map(named).collect(),
            conv: 0,
            ssm: 0,
            written_by: concat!("mamba-wgpu ", env!("CARGO_PKG_VERSION")).into(),
        };
        // A struct of strings and numbers: it serialises.
        let header = serde_json::to_vec(&header).unwrap_or_default();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        bytes.extend(self.tokens.iter().flat_map(|t| t.to_le_bytes()));
        bytes.extend(states.iter().flat_map(|(_, values, _)| *values).flat_map(|x| x.to_le_bytes()));
        let checksum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads a file's bytes; `file` is what messages call it. Whether it fits a model is for
    /// [`SavedState::check_model`] to say.
    ///
    /// # Errors
    /// [`StateError`], for every file that [`SavedState::to_bytes`] did not make.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self, StateError> {
        let damaged = |reason: String| StateError::Damaged { file: file.into(), reason };
        let number = |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
        if !bytes.starts_with(MAGIC) {
            return Err(StateError::NotAState { file: file.into() });
        }
        let too_short = || damaged(format!("it ends after {} bytes", bytes.len()));
        // The version comes first: the rest of a later one may look like anything.
        let version = number(8).ok_or_else(too_short)?;
        match version {
            FIRST_VERSION..=VERSION => {}
            0 => return Err(damaged("its version is 0".into())),
            found => return Err(StateError::Newer { file: file.into(), found, supported: VERSION }),
        }
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or_else(too_short)?;
        if Sha256::digest(content)[..] != checksum[..] {
            return Err(damaged("its checksum does not match: bytes are missing or have changed".into()));
        }
        let length = number(12).ok_or_else(too_short)? as usize;
        let rest = content.get(PREFIX..).ok_or_else(too_short)?;
        let (header, data) = rest.split_at_checked(length).ok_or_else(too_short)?;
        let mut header: Header = serde_json::from_slice(header).map_err(|e| damaged(format!("its header: {e}")))?;
        let fingerprint = header.fingerprint.parse();
        let fingerprint = fingerprint.map_err(|()| damaged("its header: no fingerprint".into()))?;
        let tokenizer = header.tokenizer.map(|text| text.parse()).transpose();
        let tokenizer = tokenizer.map_err(|()| damaged("its header: the tokenizer's fingerprint is none".into()))?;
        if version == FIRST_VERSION {
            let old = [(STATES[0], header.conv), (STATES[1], header.ssm)];
            header.states = old.map(|(name, values)| Named { name: name.into(), values, shape: None }).into();
        }
        let counts = header.states.iter().map(|state| state.values);
        let values = counts.chain([header.tokens]).try_fold(0usize, usize::checked_add);
        if values.and_then(|n| n.checked_mul(4)) != Some(data.len()) || header.consumed > header.tokens {
            return Err(damaged("its header does not describe what follows".into()));
        }
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let floats = |bytes| -> Vec<f32> { words(bytes).into_iter().map(f32::from_bits).collect() };
        let (tokens, mut data) = data.split_at(4 * header.tokens);
        let mut state = StateData::default();
        let (mut kept, mut shape) = ([Vec::new(), Vec::new()], None);
        for Named { name, values, shape: said } in &header.states {
            let (part, rest) = data.split_at(4 * values);
            shape = shape.or(*said);
            let [keys, of_values] = &mut kept;
            let all = state.named_mut().into_iter().chain([(KEPT[0], keys), (KEPT[1], of_values)]);
            let known = all.into_iter().find(|(known, values)| known == name && values.is_empty());
            let Some((_, into)) = known else {
                return Err(damaged(format!("its header names a state {name:?} that there is not, or names it twice")));
            };
            *into = floats(part);
            if let Some(value) = into.iter().find(|value| !value.is_finite()) {
                return Err(damaged(format!("its {name} holds {value}, which no text leads to")));
            }
            data = rest;
        }
        if let Some(shape) = shape {
            let pages = Pages::of(shape, &kept[0], &kept[1]).filter(|pages| pages.tokens() == header.consumed);
            state.pages = pages.ok_or_else(|| damaged("its keys and values are not those of its tokens".into()))?;
        } else if kept.iter().any(|values| !values.is_empty()) {
            return Err(damaged("its header does not say the shape of its keys and values".into()));
        }
        Ok(Self {
            model: ModelId { fingerprint, description: header.model, tokenizer },
            tokens: words(tokens),
            consumed: header.consumed,
            state,
        })
    }

    /// Whether a model can go on from here; `file` is what the message calls the state.
    ///
    /// # Errors
    /// [`StateError::OtherModel`]; [`StateError::OtherTokenizer`] where both say which tokenizer it is.
    pub fn check_model(&self, file: &str, model: &ModelId) -> Result<(), StateError> {
        if self.model.fingerprint != model.fingerprint {
            let (theirs, ours) = (self.model.description.clone(), model.description.clone());
            return Err(StateError::OtherModel { file: file.into(), theirs, ours });
        }
        match (self.model.tokenizer, model.tokenizer) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                let [theirs, ours] = [theirs, ours].map(|tokenizer| tokenizer.short());
                Err(StateError::OtherTokenizer { file: file.into(), theirs, ours })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod files {
    use super::{SavedState, StateError, MAGIC};
    use crate::files::{self, Kind};
    use std::fs;
    use std::path::Path;

    fn may_be_read(metadata: &fs::Metadata) -> bool {
        #[cfg(unix)]
        let pipe = std::os::unix::fs::FileTypeExt::is_fifo(&metadata.file_type());
        #[cfg(not(unix))]
        let pipe = false;
        metadata.is_file() || pipe
    }

    impl SavedState {
        /// By what a state file is told from others, of whatever version and model.
        pub const KIND: Kind = Kind { name: "state file of mamba-wgpu", is: |bytes| bytes.starts_with(MAGIC) };

        /// Reads a file (see [`SavedState::from_bytes`]).
        ///
        /// # Errors
        /// [`StateError`].
        pub fn read(path: &Path) -> Result<Self, StateError> {
            let file = path.display().to_string();
            let io = |reason| StateError::Io { path: file.clone(), reason };
            // A device may have no end; a pipe has one, as standard input has.
            if !may_be_read(&fs::metadata(path).map_err(io)?) {
                return Err(StateError::NotAState { file });
            }
            Self::from_bytes(&file, &fs::read(path).map_err(io)?)
        }

        /// Writes a file, or into what is none ([`crate::files`]). Whatever file was there before stays whole until the new one is.
        ///
        /// # Errors
        /// [`StateError::File`].
        pub fn write(&self, path: &Path) -> Result<(), StateError> {
            Ok(files::replace(path, &self.to_bytes())?)
        }
    }
}

#[cfg(test)]
mod tests;
