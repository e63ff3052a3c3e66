//! What there is to measure.

use serde::{Deserialize, Serialize};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// What the device can do at most. Part of every run.
    Ceilings,
    /// The selective scan's rungs.
    Scan,
    /// Linear layers, for many tokens (matmul) and for one (matvec).
    Matmul,
    /// A token from the logits.
    Sampling,
    /// Whole models reading a prompt.
    Prefill,
    /// Whole models writing greedily, a token at a time.
    Decode,
    /// What only training needs: the gradients' kernels, and AdamW.
    Backward,
    /// Whole steps of training.
    Training,
}

impl Suite {
    pub const ALL: [Suite; 8] = [
        Suite::Ceilings,
        Suite::Scan,
        Suite::Matmul,
        Suite::Sampling,
        Suite::Prefill,
        Suite::Decode,
        Suite::Backward,
        Suite::Training,
    ];
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Suite::Ceilings => "ceilings",
            Suite::Scan => "scan",
            Suite::Matmul => "matmul",
            Suite::Sampling => "sampling",
            Suite::Prefill => "prefill",
            Suite::Decode => "decode",
            Suite::Backward => "backward",
            Suite::Training => "training",
        })
    }
}
