//! Tensor names: the two published schemes, and what is told from names alone.
//!
//! | | Hugging Face | mamba-ssm |
//! |---|---|---|
//! | embedding | `backbone.embeddings.weight` | `backbone.embedding.weight` |
//! | everything else | `backbone.layers.N.mixer.in_proj.weight` ... | the same |
//! | head | `lm_head.weight` | `lm_head.weight` |
//!
//! What wrappers add to the names is taken off first ([`canonical`]); some exports leave `backbone.` away: tolerated as long as one
//! reading is possible.

use super::config::{Block, Plan};
use super::LoadError;
use std::borrow::Cow;
use std::collections::BTreeSet;

const PREFIXES: [&str; 2] = ["backbone.", ""];
const EMBEDDINGS: [&str; 2] = ["embeddings.weight", "embedding.weight"];
pub(super) const HEAD: &str = "lm_head.weight";

/// Parts of names that wrappers put anywhere: DistributedDataParallel, torch.compile, FSDP, activation checkpointing, Lightning, and
/// PEFT for what it keeps of the base model.
const WRAPPERS: [&str; 7] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "base_layer",
    "original_module",
];
/// Parts that stand before all others: Lightning's and PEFT's.
const LEADING: [&str; 2] = ["model", "base_model"];

/// A stored name without what wrappers have added to it: `module._orig_mod.backbone.norm_f.weight` is `backbone.norm_f.weight`.
pub(super) fn canonical(name: &str) -> Cow<'_, str> {
    let wrapper = |part: &str| WRAPPERS.contains(&part);
    let mut parts = name.split('.').peekable();
    if !parts.clone().any(wrapper) && !parts.peek().is_some_and(|first| LEADING.contains(first)) {
        return Cow::Borrowed(name);
    }
    while parts.next_if(|part| wrapper(part) || LEADING.contains(part)).is_some() {}
    let rest: Vec<&str> = parts.filter(|part| !wrapper(part)).collect();
    Cow::Owned(rest.join("."))
}

/// A stored name as it is published: without what wrappers have added, and with the prefix of its family (but for the head).
pub(super) fn published<'a>(name: &'a str, prefix: &str) -> Cow<'a, str> {
    match canonical(name) {
        name if name == HEAD || prefix.is_empty() => name,
        name => Cow::Owned(format!("{prefix}{name}")),
    }
}

/// A stored name for a summary: its numbers are N.
pub(super) fn pattern(name: &str) -> String {
    let part = |part: &str| if part.bytes().all(|b| b.is_ascii_digit()) { "N".to_owned() } else { part.to_owned() };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// Words that say that a tensor changes the result: running without it would be silently wrong. Where in a name -> why.
const MATTERS: [(&str, &str); 30] = [
    ("block_sparse_moe.", EXPERTS),
    (".experts.", EXPERTS),
    ("norm.bias", "LayerNorm: only RMSNorm is implemented"),
    ("norm_f.bias", "LayerNorm: only RMSNorm is implemented"),
    ("x_proj.bias", "x_proj has no bias in Mamba"),
    ("dt_layernorm.", "learned norms inside the mixer"),
    ("b_layernorm.", "learned norms inside the mixer"),
    ("c_layernorm.", "learned norms inside the mixer"),
    ("A_b_log", "a bidirectional scan"),
    ("lm_head.bias", "a head with a bias"),
    ("lora_magnitude_vector", "a DoRA adapter: only plain LoRA is applied"),
    ("lora_", LORA),
    ("modules_to_save", LORA),
    ("trainable_tokens_delta", "PEFT's trainable tokens: only LoRA is applied"),
    ("ia3_", "an (IA)3 adapter: only LoRA is applied"),
    ("vera_", "a VeRA adapter: only LoRA is applied"),
    ("hada_", "a LoHa adapter: only LoRA is applied"),
    ("lokr_", "a LoKr adapter: only LoRA is applied"),
    ("oft_", "an OFT adapter: only LoRA is applied"),
    ("prompt_embeddings", "a soft prompt: it is not applied"),
    ("adapter", "an adapter of a kind that is not applied"),
    ("qweight", QUANTISED_ELSEWHERE),
    ("qzeros", QUANTISED_ELSEWHERE),
    ("absmax", QUANTISED_ELSEWHERE),
    ("quant_map", QUANTISED_ELSEWHERE),
    ("quant_state", QUANTISED_ELSEWHERE),
    ("scale", QUANTISED_ELSEWHERE),
    ("SCB", QUANTISED_ELSEWHERE),
    ("bias", "a bias that Mamba does not have"),
    ("norm", "a norm that Mamba does not have"),
];

pub(super) const LORA: &str =
    "a LoRA adapter inside the model's file: adapter_config.json, which says its alpha, must lie beside it";
const EXPERTS: &str = "experts, of which the config says nothing: the model has none by it";
const QUANTISED_ELSEWHERE: &str = "weights quantised by another program: take the original";

/// How one checkpoint names its tensors.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// What stands before `layers.N` and `norm_f`.
    pub prefix: &'static str,
    /// The embedding's full name, stored or (where it is missing) as Hugging Face would call it.
    pub embedding: String,
    /// Layer numbers that occur.
    layers: BTreeSet<usize>,
    /// What the config says that a model's blocks are, and its final norm's name; the scheme of the others has none.
    planned: Option<(Vec<Block>, &'static str)>,
}

impl Names {
    /// Those of a family whose configs say what there is.
    pub fn planned(plan: &Plan) -> Self {
        let layers = (0..plan.blocks.len()).collect();
        let planned = Some((plan.blocks.clone(), plan.norm_f));
        Self { prefix: "", embedding: plan.embedding.into(), layers, planned }
    }

    /// Recognises the scheme from the [`canonical`] names alone. `file` is for messages.
    pub fn recognise<'a>(file: &str, names: impl Iterator<Item = &'a str> + Clone) -> Result<Self, LoadError> {
        let stored: BTreeSet<&str> = names.clone().collect();
        let mut found = PREFIXES
            .iter()
            .flat_map(|p| EMBEDDINGS.map(|e| (*p, format!("{p}{e}"))))
            .filter(|(_, name)| stored.contains(name.as_str()));
        let (prefix, embedding) = match (found.next(), found.next()) {
            (Some((_, first)), Some((_, second))) => {
                return Err(LoadError::AmbiguousNames { file: file.into(), first, second });
            }
            (Some(one), None) => one,
            // No embedding: the layers may still tell the prefix, so that the error names what is missing as the file would.
            (None, _) => {
                let prefix = PREFIXES
                    .into_iter()
                    .find(|p| stored.iter().any(|name| name.starts_with(&format!("{p}layers."))))
                    .unwrap_or("backbone.");
                (prefix, format!("{prefix}{}", EMBEDDINGS[0]))
            }
        };
        let layers = names.filter_map(|name| layer_number(prefix, name)).collect();
        Ok(Self { prefix, embedding, layers, planned: None })
    }

    /// The first tensor of a layer that the config's plan does not have.
    pub fn beyond<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let (blocks, _) = self.planned.as_ref()?;
        let planned = |name: &str| blocks.iter().any(|block| block.is_of(name));
        let beyond = names.filter(|name| name.contains("layers.") && !name.contains("mtp.") && !planned(name));
        let number = |name: &str| name.split('.').find_map(|part| part.parse::<u64>().ok());
        beyond.min_by_key(|name| (number(name), *name))
    }

    /// Why a layer has what it has, as a message goes on; empty where there is nothing to say.
    pub fn why(&self, layer: usize) -> &str {
        self.planned.as_ref().and_then(|(blocks, _)| blocks.get(layer)).map_or("", |block| &block.why)
    }

    /// The number of layers: they must be numbered 0, 1, 2, ... without a gap. `there`: what is said where there are none.
    pub fn n_layer(&self, file: &str, there: impl FnOnce() -> String) -> Result<usize, LoadError> {
        let n_layer = self.layers.iter().zip(0..).take_while(|(layer, i)| **layer == *i).count();
        match self.layers.last() {
            Some(&last) if n_layer == self.layers.len() => Ok(last + 1),
            last => Err(LoadError::MissingTensor {
                file: file.into(),
                tensor: self.layer(n_layer, "norm.weight"),
                hint: match last {
                    Some(last) => {
                        format!(": layer {n_layer} is not there although layer {last} is")
                    }
                    None => format!(": there are no layers{}", there()),
                },
            }),
        }
    }

    /// The full name of a layer's tensor, e.g. `backbone.layers.3.mixer.in_proj.weight`.
    pub fn layer(&self, layer: usize, name: &str) -> String {
        match self.planned.as_ref().and_then(|(blocks, _)| blocks.get(layer)) {
            Some(block) => block.name(name),
            None => format!("{}layers.{layer}.{name}", self.prefix),
        }
    }

    pub fn norm_f(&self) -> String {
        match &self.planned {
            Some((_, norm_f)) => (*norm_f).into(),
            None => format!("{}norm_f.weight", self.prefix),
        }
    }
}

/// N of `<prefix>layers.N.…`, if `name` is such a name.
fn layer_number(prefix: &str, name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix(prefix)?.strip_prefix("layers.")?.split_once('.')?;
    number.parse().ok()
}

/// Whether only a Mamba-2 mixer has a tensor of this name.
pub(super) fn is_mamba2(name: &str) -> bool {
    name.ends_with(".mixer.dt_bias") || name.ends_with(".mixer.norm.weight")
}

/// Why a tensor that the model does not use must not be ignored; `None` where it may.
pub(super) fn why_it_matters(name: &str) -> Option<&'static str> {
    // Layers that guess tokens beyond the next one (multi-token prediction), which the next one's logits do not depend on.
    if canonical(name).starts_with("mtp.") {
        return None;
    }
    MATTERS.iter().find(|(word, _)| name.contains(word)).map(|(_, why)| *why)
}

/// Whether a tensor of this name belongs to a LoRA adapter.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_adapter(name: &str) -> bool {
    name.split('.').any(|part| part.starts_with("lora_") || part == "modules_to_save")
}

/// Whether a name is one that a weight or a bias of a model may have.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_weight_or_bias(canonical: &str) -> bool {
    [".weight", ".bias", ".dt_bias", ".A_log", ".D"].iter().any(|end| canonical.ends_with(end))
}

/// Whether a canonical name without its prefix is the embedding's.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_embedding(name: &str) -> bool {
    EMBEDDINGS.contains(&name)
}

/// The matrices that may be quantised, and that [`super::quantise`] quantises; docs/quantisation.md says why no others.
const QUANTISED: [&str; 21] = [
    "embeddings.weight",
    "embedding.weight",
    "embed_tokens.weight",
    "lm_head.weight",
    "mamba.in_proj.weight",
    "mamba.out_proj.weight",
    ".q_proj.weight",
    ".k_proj.weight",
    ".v_proj.weight",
    ".o_proj.weight",
    ".gate_proj.weight",
    ".up_proj.weight",
    ".down_proj.weight",
    "shared_mlp.input_linear.weight",
    "shared_mlp.output_linear.weight",
    "block_sparse_moe.input_linear.weight",
    "block_sparse_moe.output_linear.weight",
    "_latent_proj.weight",
    "mixer.in_proj.weight",
    "mixer.x_proj.weight",
    "mixer.out_proj.weight",
];

/// Whether a tensor of this name may be quantised.
pub(super) fn is_quantisable(name: &str) -> bool {
    let name = canonical(name);
    QUANTISED.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Result<Names, LoadError> {
        Names::recognise("f", list.iter().copied())
    }

    #[test]
    fn schemes_are_recognised() {
        for (embedding, prefix) in [
            ("backbone.embeddings.weight", "backbone."),
            ("backbone.embedding.weight", "backbone."),
            ("embedding.weight", ""),
        ] {
            let n = names(&[embedding, &format!("{prefix}layers.0.norm.weight"), "lm_head.weight"]).unwrap();
            assert_eq!((n.prefix, n.embedding.as_str()), (prefix, embedding));
            assert_eq!(n.n_layer("f", String::new).unwrap(), 1);
        }
    }

    #[test]
    fn two_embeddings_are_ambiguous() {
        let e = names(&["backbone.embeddings.weight", "embedding.weight"]).unwrap_err();
        assert!(matches!(e, LoadError::AmbiguousNames { .. }), "{e}");
    }

    #[test]
    fn gaps_and_huge_numbers_name_the_missing_layer() {
        for far in ["2", "18446744073709551615"] {
            let far = format!("backbone.layers.{far}.norm.weight");
            let e = names(&["backbone.layers.0.norm.weight", &far]).unwrap().n_layer("f", String::new).unwrap_err();
            assert!(e.to_string().contains("`backbone.layers.1.norm.weight`"), "{e}");
        }
        let e = names(&[]).unwrap().n_layer("f", || "; none".into()).unwrap_err();
        assert!(e.to_string().contains("`backbone.layers.0.norm.weight`") && e.to_string().ends_with("; none"), "{e}");
    }

    #[test]
    fn what_guesses_later_tokens_does_not_matter() {
        assert_eq!(why_it_matters("mtp.layers.0.norm.weight"), None);
        assert!(why_it_matters("backbone.layers.0.mixer.extra_norm.weight").is_some());
    }

    #[test]
    fn wrappers_are_taken_off() {
        let plain = "backbone.layers.0.mixer.in_proj.weight";
        for wrapped in [
            plain,
            "module.backbone.layers.0.mixer.in_proj.weight",
            "module._orig_mod.model.backbone.layers.0.mixer.in_proj.weight",
            "_orig_mod.module.backbone.layers.0._orig_mod.mixer.in_proj.weight",
            "base_model.model.backbone.layers.0.mixer.in_proj.base_layer.weight",
            "model._fsdp_wrapped_module.backbone.layers.0._checkpoint_wrapped_module.mixer.in_proj.weight",
        ] {
            assert_eq!(canonical(wrapped), plain);
        }
        // Only whole parts, and `model` only before all others.
        for other in ["backbone.model.x", "modules.backbone.x", "my_model.x"] {
            assert_eq!(canonical(other), other);
        }
        assert_eq!(pattern("h.12.attn.3.w1"), "h.N.attn.N.w1");
    }
}
