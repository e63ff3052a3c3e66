//! What the model sees: how far each token opens each layer's gate, what the states forget and hold, and the attention that
//! the selective scan implies (docs/explain.md).
//!
//! Unrolled over time, the scan of one channel is a lower triangular matrix applied to its inputs (Ali, Zimerman, Wolf,
//! "The Hidden Attention of Mamba Models", arXiv 2403.01590, section 3):
//!
//! ```text
//! h_i = exp(delta_i A) h_{i-1} + delta_i B_i u_i
//! y_i = (sum_{j <= i} alpha(i, j) u_j + D u_i) silu(z_i)
//! alpha(i, j) = C_i (prod_{k = j+1 .. i} exp(delta_k A)) delta_j B_j
//! ```
//!
//! In Mamba-2 all channels of a head share it: it is the matrix that state space duality multiplies by (Dao and Gu,
//! arXiv 2405.21060, section 3).
//!
//! [`explain`] computes it on either backend: the kernels `hidden_attention`, `channel_stats` and `token_stats`, or their twins.
//! [`Packed`] is the same, small enough for a page; [`page`] makes that page.

mod pack;
mod page;

use crate::error::{InputError, Result};
use crate::model::{check_tokens, LanguageModel};
pub use crate::model::{ChannelExplanation, ExplainOptions, LayerExplanation, Skip, Unit, Units};
pub use pack::{Packed, PackedChannel, PackedLayer, PackedMap};
pub use page::{is_page, page};
use serde::{Deserialize, Serialize};

/// Numbers of all maps together: of 4 bytes each on the way, and some more as text or a page.
const MAX_NUMBERS: usize = 1 << 29;

/// What a model sees in a text of L tokens, read from the zero state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub tokens: Vec<u32>,
    /// Of the model.
    pub n_layer: usize,
    /// Those asked for, in the model's order.
    pub layers: Vec<LayerExplanation>,
}

/// Explains a text; `progress` gets layers done and all that must be read.
///
/// # Errors
/// No tokens, more than [`ExplainOptions::max_tokens`], a token, layer, channel or head out of range; the device's.
pub async fn explain(
    model: &LanguageModel,
    tokens: &[u32],
    options: &ExplainOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Explanation> {
    let c = model.config();
    check_tokens(tokens, c.vocab_size)?;
    let limit = options.max_tokens.min(room(options, c.n_layer()));
    if tokens.len() > limit {
        return Err(InputError::TooManyTokens { tokens: tokens.len(), limit }.into());
    }
    let below = |what, wanted: &[usize], count: usize| match wanted.iter().find(|&&value| value >= count) {
        Some(&value) => Err(InputError::OutOfRange { what, value, count }),
        None => Ok(()),
    };
    below("layer", options.layers.as_deref().unwrap_or_default(), c.n_layer())?;
    let wanted = c.layers.iter().enumerate().filter(|(i, _)| options.wants(*i));
    below("channel", &options.channels, wanted.filter_map(|(_, layer)| Some(layer.units()?.count)).min().unwrap_or(0))?;
    let layers = model.session()?.explain(tokens, options, progress).await?;
    Ok(Explanation { tokens: tokens.to_vec(), n_layer: c.n_layer(), layers })
}

/// The longest text whose maps the memory is asked for, whatever [`ExplainOptions::max_tokens`] says.
fn room(options: &ExplainOptions, n_layer: usize) -> usize {
    let layers = options.layers.as_ref().map_or(n_layer, Vec::len).max(1);
    (MAX_NUMBERS / (layers * (2 + options.channels.len()))).isqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_shared_by_all_maps() {
        let of = |layers, channels, n| room(&ExplainOptions { layers, channels, max_tokens: usize::MAX }, n);
        assert_eq!(of(None, Vec::new(), 64), 2048);
        assert_eq!(of(Some(vec![3]), Vec::new(), 64), 16384);
        assert_eq!(of(Some(vec![3]), vec![0; 6], 64), 8192);
        assert!(of(Some(Vec::new()), Vec::new(), 0) > 0);
    }
}
