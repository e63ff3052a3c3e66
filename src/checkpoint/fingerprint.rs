//! What tells one model's weights from another's, without reading all of them.

use super::{Checkpoint, ModelConfig};
use crate::model::blocks::Shape;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// A tensor is read whole up to this many bytes, and beyond by [`SAMPLES`] pieces spread evenly over it.
const WHOLE: usize = 32 << 10;
const SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 1 << 10;

/// A SHA-256 over what tells one model, or one tokenizer, from another. Of a model: its dimensions and a part of every tensor's bytes as stored.
///
/// Fine-tunes and other formats of one model (f16, f32) differ; how the files are cut and what the tensors are called does
/// not matter. It guards against mistakes, not against forgery: pieces of large tensors are left out, so that opening a
/// model costs no second pass over its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let mut bytes = [0; 32];
        if s.len() != 64 || !s.is_ascii() {
            return Err(());
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| ())?;
        }
        Ok(Self(bytes))
    }
}

impl Fingerprint {
    /// Of a hash of all that it is to stand for.
    pub(crate) fn of(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// Its first digits, for messages.
    pub(crate) fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl Checkpoint {
    /// See [`Fingerprint`].
    pub fn fingerprint(&self) -> Fingerprint {
        let ModelConfig {
            arch,
            d_model,
            vocab_size,
            layers,
            norm_eps,
            head_scale,
            tie_embeddings,
            // Where a text ends changes nothing of its state.
            eos_token_id: _,
            bos_token_id: _,
        } = self.config();
        let mut hash = Sha256::new();
        hash.update(arch.to_string());
        // A layer like the one before adds nothing.
        let mut kinds: Vec<_> = layers.iter().map(hashed).collect();
        kinds.dedup();
        let mut kinds = kinds.into_iter();
        let (sizes, constants) = kinds.next().unwrap_or_default();
        for n in [*d_model, layers.len(), *vocab_size].into_iter().chain(sizes) {
            hash.update((n as u64).to_le_bytes());
        }
        hash.update(norm_eps.to_le_bytes());
        constants.iter().for_each(|x| hash.update(x.to_le_bytes()));
        hash.update([u8::from(*tie_embeddings)]);
        // Models from before there were such keep their fingerprints.
        if *head_scale != 1.0 {
            hash.update(head_scale.to_le_bytes());
        }
        for (sizes, constants) in kinds {
            sizes.iter().for_each(|n| hash.update((*n as u64).to_le_bytes()));
            constants.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        self.weights().for_each(|tensor| {
            hash.update(tensor.dtype.to_string());
            // Only quantised tensors have scales.
            for bytes in [tensor.data, tensor.scales].into_iter().filter(|bytes| !bytes.is_empty()) {
                sample(&mut hash, bytes);
            }
            if let Some(patch) = tensor.patch {
                patch.for_each_byte_chunk(|bytes| hash.update(bytes));
            }
        });
        Fingerprint::of(hash)
    }
}

fn hashed(layer: &Shape) -> (Vec<usize>, Vec<f32>) {
    (layer.dimensions().into_iter().map(|(_, n)| n).collect(), layer.constants())
}

fn sample(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    if bytes.len() <= WHOLE {
        return hash.update(bytes);
    }
    for i in 0..SAMPLES {
        let start = (bytes.len() - SAMPLE_BYTES) / (SAMPLES - 1) * i;
        hash.update(&bytes[start..start + SAMPLE_BYTES]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let fingerprint = Fingerprint(std::array::from_fn(|i| (i * 37) as u8));
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        for bad in ["", "0", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(()), "{bad}");
        }
    }
}
