//! The model compiled into the library: 4.55 M parameters in f16 (see `models/README.md` for where it comes from).

use super::{Checkpoint, LoadError};
use std::borrow::Cow;

static CONFIG: &[u8] = include_bytes!("../../models/austen-4m/config.json");
static TOKENIZER: &[u8] = include_bytes!("../../models/austen-4m/tokenizer.json");
static WEIGHTS: &[u8] = include_bytes!("../../models/austen-4m/model.safetensors");

/// The embedded checkpoint. Its bytes are used where they lie in the program: nothing is copied.
///
/// # Errors
/// None in practice: it passes the checks of every other checkpoint, and a test opens it.
pub fn checkpoint() -> Result<Checkpoint, LoadError> {
    Checkpoint::from_named_bytes("embedded", CONFIG, vec![Cow::Borrowed(WEIGHTS)], Some(Cow::Borrowed(TOKENIZER)))
}

#[cfg(test)]
mod tests {
    use crate::model::blocks::{mamba1, Shape};

    #[test]
    fn opens_and_converts() {
        let checkpoint = super::checkpoint().unwrap();
        assert!(checkpoint.warnings().is_empty(), "{:?}", checkpoint.warnings());
        let c = checkpoint.config();
        assert_eq!((c.n_layer(), c.d_model), (8, 256));
        assert_eq!(c.first(), Some(&Shape::Mamba1(mamba1::Shape::of(256))));
        assert_eq!((c.vocab_size, c.tie_embeddings), (4096, true));
        assert!(checkpoint.tokenizer_json().is_some());
        let weights = checkpoint.weights();
        let mut bytes = 0;
        weights.for_each(|t| {
            assert_eq!(t.to_f32().unwrap().len(), t.shape.iter().product::<usize>());
            bytes += t.data.len() as u64;
        });
        assert_eq!(bytes, weights.total_bytes());
    }
}
