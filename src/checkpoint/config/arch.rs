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

/// transformers' families: several may be built alike, as one [`Arch`], and differ in what a config leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Family {
    Mamba,
    FalconMamba,
    Mamba2,
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Granite,
    Bamba,
    NemotronH,
    FalconH1,
}

/// `model_type`, what the names of its classes begin with, and the family that it is. The first of an [`Arch`] is the one it is
/// called by.
const FAMILIES: [(&str, &str, Family); 11] = [
    ("mamba", "Mamba", Family::Mamba),
    ("falcon_mamba", "FalconMamba", Family::FalconMamba),
    ("mamba2", "Mamba2", Family::Mamba2),
    ("llama", "Llama", Family::Llama),
    ("mistral", "Mistral", Family::Mistral),
    ("qwen2", "Qwen2", Family::Qwen2),
    ("qwen3", "Qwen3", Family::Qwen3),
    ("granitemoehybrid", "GraniteMoeHybrid", Family::Granite),
    ("bamba", "Bamba", Family::Bamba),
    ("nemotron_h", "NemotronH", Family::NemotronH),
    ("falcon_h1", "FalconH1", Family::FalconH1),
];

impl Family {
    pub(super) fn of_model_type(model_type: &str) -> Option<Self> {
        FAMILIES.iter().find(|(name, ..)| *name == model_type).map(|(.., family)| *family)
    }

    /// By the name of a class: `Qwen2ForCausalLM`, but not `Qwen2MoeForCausalLM`, which is another family's.
    pub(super) fn of_class(class: &str) -> Option<Self> {
        let of = |begin: &str| {
            class.strip_prefix(begin).is_some_and(|rest| ["For", "LMHead", "Model"].iter().any(|w| rest.starts_with(w)))
        };
        FAMILIES.iter().find(|(_, begin, _)| of(begin)).map(|(.., family)| *family)
    }

    pub(in crate::checkpoint) fn arch(self) -> Arch {
        match self {
            Self::Mamba => Arch::Mamba1,
            Self::FalconMamba => Arch::FalconMamba,
            Self::Mamba2 => Arch::Mamba2,
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 => Arch::Llama,
            Self::Granite => Arch::Granite,
            Self::Bamba => Arch::Bamba,
            Self::NemotronH => Arch::NemotronH,
            Self::FalconH1 => Arch::FalconH1,
        }
    }

    /// What transformers takes where a config does not say which token ends a text, and which begins it.
    pub(super) fn eos(self) -> Option<u32> {
        match self {
            Self::Mamba | Self::FalconMamba => Some(0),
            Self::Qwen2 | Self::Qwen3 => None,
            _ => Some(2),
        }
    }
    pub(super) fn bos(self) -> Option<u32> {
        match self {
            Self::Mamba | Self::FalconMamba | Self::Mamba2 => Some(0),
            Self::Qwen2 | Self::Qwen3 => None,
            _ => Some(1),
        }
    }
}

impl Arch {
    /// Whether its layers are Mamba-1's, with norms inside or without.
    pub(in crate::checkpoint) fn is_mamba1(self) -> bool {
        matches!(self, Arch::Mamba1 | Arch::FalconMamba)
    }

    /// The family's layers, as the first one's tensors and the config say.
    pub(in crate::checkpoint) fn layer(
        self,
        d_model: usize,
        first: &impl FirstLayer,
        raw: Option<&RawConfig>,
    ) -> Result<(Shape, Vec<Check>), LoadError> {
        if self.is_mamba1() {
            return mamba1::layer(self, d_model, first, raw);
        }
        // The others have a plan.
        mamba2::layer(d_model, first, raw)
    }

    /// How many blocks there are to what config.json counts as a layer: mixers, and an MLP where a layer has one too.
    pub fn blocks_per_layer(self) -> usize {
        match self {
            Arch::Mamba1 | Arch::FalconMamba | Arch::Mamba2 | Arch::NemotronH => 1,
            Arch::Llama | Arch::Granite | Arch::Bamba => 2,
            Arch::FalconH1 => 3,
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
        f.pad(
            FAMILIES.iter().find(|(.., family)| family.arch() == *self).map_or("mamba", |(model_type, ..)| model_type),
        )
    }
}
