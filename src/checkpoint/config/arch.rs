//! The families of models, and what is theirs by name.

use super::{mamba1, mamba2, Check, FirstLayer, RawConfig};
use crate::checkpoint::LoadError;
use crate::model::blocks::Shape;

/// The families of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023).
    Mamba1,
    /// Mamba-1 with RMSNorms without weights on dt, B and C (Zuo et al., "Falcon Mamba", 2024).
    FalconMamba,
    /// Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality" (2024).
    Mamba2,
    /// Llama (Touvron et al. 2023) and what is built like it: Mistral, Qwen 2 and 3. No states: the baseline.
    Llama,
    /// IBM's Granite 4.0-H: Mamba-2 and attention, transformers' `granitemoehybrid`.
    Granite,
    /// Bamba (IBM, Princeton, CMU and UIUC): Mamba-2 and attention.
    Bamba,
    /// NVIDIA's Nemotron-H (arXiv 2504.03624): Mamba-2, attention and MLPs, one a layer.
    NemotronH,
    /// TII's Falcon-H1 (arXiv 2507.22448): Mamba-2 and attention side by side.
    FalconH1,
}

/// For messages: what [`FAMILIES`] has.
pub(super) const KNOWN: &str =
    "mamba, falcon_mamba, mamba2, llama, mistral, qwen2, qwen3, granitemoehybrid, bamba, nemotron_h and falcon_h1";

/// `model_type` and the family that it is.
pub(super) const FAMILIES: [(&str, Arch); 11] = [
    ("mamba", Arch::Mamba1),
    ("falcon_mamba", Arch::FalconMamba),
    ("mamba2", Arch::Mamba2),
    ("llama", Arch::Llama),
    ("mistral", Arch::Llama),
    ("qwen2", Arch::Llama),
    ("qwen3", Arch::Llama),
    ("granitemoehybrid", Arch::Granite),
    ("bamba", Arch::Bamba),
    ("nemotron_h", Arch::NemotronH),
    ("falcon_h1", Arch::FalconH1),
];

impl Arch {
    /// The family's layers, as the first one's tensors and the config say.
    pub(in crate::checkpoint) fn layer(
        self,
        d_model: usize,
        first: &impl FirstLayer,
        raw: Option<&RawConfig>,
    ) -> Result<(Shape, Vec<Check>), LoadError> {
        match self {
            Arch::Mamba1 | Arch::FalconMamba => mamba1::layer(self, d_model, first, raw),
            // The others have a plan.
            _ => mamba2::layer(d_model, first, raw),
        }
    }

    /// What transformers takes where a config does not say which token ends a text, and which begins it.
    pub(super) fn eos(self) -> u32 {
        match self {
            Arch::Mamba1 | Arch::FalconMamba => 0,
            _ => 2,
        }
    }
    pub(super) fn bos(self) -> u32 {
        match self {
            Arch::Mamba1 | Arch::FalconMamba => 0,
            _ => 1,
        }
    }

    /// What stands before all names but the head's in published files, where it is taken off as what a wrapper may have added.
    pub(in crate::checkpoint) fn prefix(self) -> &'static str {
        match self {
            Arch::Llama | Arch::Granite | Arch::Bamba | Arch::FalconH1 => "model.",
            Arch::Mamba1 | Arch::FalconMamba | Arch::Mamba2 | Arch::NemotronH => "",
        }
    }

    /// Its name in a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Arch::Mamba1 => "Mamba-1",
            Arch::FalconMamba => "Falcon-Mamba",
            Arch::Mamba2 => "Mamba-2",
            Arch::Llama => "Llama",
            Arch::Granite => "Granite 4.0-H",
            Arch::Bamba => "Bamba",
            Arch::NemotronH => "Nemotron-H",
            Arch::FalconH1 => "Falcon-H1",
        }
    }

    /// transformers' class of such models.
    pub fn class(self) -> &'static str {
        match self {
            Arch::Mamba1 => "MambaForCausalLM",
            Arch::FalconMamba => "FalconMambaForCausalLM",
            Arch::Mamba2 => "Mamba2ForCausalLM",
            Arch::Llama => "LlamaForCausalLM",
            Arch::Granite => "GraniteMoeHybridForCausalLM",
            Arch::Bamba => "BambaForCausalLM",
            Arch::NemotronH => "NemotronHForCausalLM",
            Arch::FalconH1 => "FalconH1ForCausalLM",
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(FAMILIES.iter().find(|(_, arch)| arch == self).map_or("mamba", |(model_type, _)| model_type))
    }
}
