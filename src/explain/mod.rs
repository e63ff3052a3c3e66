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

/// Explains a text; `progress` gets layers done and all that must be read. Of layers of attention and MLPs alone nothing is shown.
///
/// # Errors
/// No tokens, more than [`ExplainOptions::max_tokens`], a token, layer, channel or head out of range; only layers of which nothing is
/// shown; the device's.
pub async fn explain(
    model: &LanguageModel,
    tokens: &[u32],
    options: &ExplainOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Explanation> {
    let c = model.config();
    check_tokens(tokens, c.vocab_size)?;
    let below = |what, wanted: &[usize], count: usize| match wanted.iter().find(|&&value| value >= count) {
        Some(&value) => Err(InputError::OutOfRange { what, value, count }),
        None => Ok(()),
    };
    below("layer", options.layers.as_deref().unwrap_or_default(), c.n_layer())?;
    // A session counts blocks, of which at most one a layer is shown.
    let per_layer = c.arch.blocks_per_layer();
    let units = |block: usize| c.layers.get(block).and_then(|block| block.units());
    let wanted = (0..c.layers.len()).filter(|block| options.wants(block / per_layer));
    let blocks: Vec<usize> = wanted.filter(|block| units(*block).is_some()).collect();
    if blocks.is_empty() && options.layers.as_ref().is_none_or(|layers| !layers.is_empty()) {
        return Err(InputError::NothingToExplain { layers: nothing_in(options.layers.as_deref()) }.into());
    }
    let of_blocks = ExplainOptions { layers: Some(blocks), ..options.clone() };
    let limit = options.max_tokens.min(room(&of_blocks, c.n_layer()));
    if tokens.len() > limit {
        return Err(InputError::TooManyTokens { tokens: tokens.len(), limit }.into());
    }
    let counts = of_blocks.layers.iter().flatten().filter_map(|block| Some(units(*block)?.count));
    below("channel", &options.channels, counts.min().unwrap_or(0))?;
    let progress = &mut |done: usize, all: usize| progress(done.div_ceil(per_layer), all.div_ceil(per_layer));
    let mut layers = model.session()?.explain(tokens, &of_blocks, progress).await?;
    layers.iter_mut().for_each(|layer| layer.layer /= per_layer);
    Ok(Explanation { tokens: tokens.to_vec(), n_layer: c.n_layer(), layers })
}

/// The layers of which nothing is shown, at the begin of a sentence that says so: all of a model's, or those asked for.
fn nothing_in(layers: Option<&[usize]>) -> String {
    let names = layers.unwrap_or_default().iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match layers {
        None => "the model's layers are".into(),
        Some([_]) => format!("layer {names} is"),
        Some(_) => format!("layers {names} are"),
    }
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
