//! Tensor names: the two published schemes, and what is told from names alone.
//!
//! | | Hugging Face | mamba-ssm |
//! |---|---|---|
//! | embedding | `backbone.embeddings.weight` | `backbone.embedding.weight` |
//! | everything else | `backbone.layers.N.mixer.in_proj.weight` ... | the same |
//! | head | `lm_head.weight` | `lm_head.weight` |
//!
//! Some exports put `model.` before `backbone.`, or leave `backbone.` away: tolerated as long as one reading is possible.

use super::LoadError;
use std::collections::BTreeSet;

/// What a Mamba-2 user can do.
pub(super) const MAMBA2_HINT: &str = "Mamba-1 and Falcon-Mamba checkpoints are";

const PREFIXES: [&str; 4] = ["backbone.", "model.backbone.", "model.", ""];
const EMBEDDINGS: [&str; 2] = ["embeddings.weight", "embedding.weight"];
const HEADS: [&str; 2] = ["lm_head.weight", "model.lm_head.weight"];

/// Tensors beside the known ones that change the result; running without them would be silently wrong.
/// Ends of names -> why.
const MATTERS: [(&str, &str); 8] = [
    ("norm.bias", "LayerNorm: only RMSNorm is implemented"),
    ("norm_f.bias", "LayerNorm: only RMSNorm is implemented"),
    ("mixer.x_proj.bias", "x_proj has no bias in Mamba"),
    ("mixer.dt_layernorm.weight", "learned norms inside the mixer"),
    ("mixer.b_layernorm.weight", "learned norms inside the mixer"),
    ("mixer.c_layernorm.weight", "learned norms inside the mixer"),
    ("mixer.A_b_log", "a bidirectional scan"),
    ("lm_head.bias", "a head with a bias"),
];

/// How one checkpoint names its tensors.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// What stands before `layers.N` and `norm_f`.
    pub prefix: &'static str,
    /// The embedding's full name, stored or (where it is missing) as Hugging Face would call it.
    pub embedding: String,
    pub head: &'static str,
    /// Layer numbers that occur.
    layers: BTreeSet<usize>,
}

impl Names {
    /// Recognises the scheme from the names alone. `file` is for messages.
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
        let head = HEADS.into_iter().find(|h| stored.contains(h)).unwrap_or(HEADS[0]);
        let layers = names.filter_map(|name| layer_number(prefix, name)).collect();
        Ok(Self { prefix, embedding, head, layers })
    }

    /// The number of layers: they must be numbered 0, 1, 2, ... without a gap.
    pub fn n_layer(&self, file: &str) -> Result<usize, LoadError> {
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
                    None => ": there are no layers".into(),
                },
            }),
        }
    }

    /// The full name of a layer's tensor, e.g. `backbone.layers.3.mixer.in_proj.weight`.
    pub fn layer(&self, layer: usize, name: &str) -> String {
        format!("{}layers.{layer}.{name}", self.prefix)
    }

    pub fn norm_f(&self) -> String {
        format!("{}norm_f.weight", self.prefix)
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
    MATTERS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, why)| *why)
}

/// The matrices that may be quantised, and that [`super::quantise`] quantises; docs/quantisation.md says why no others.
const QUANTISED: [&str; 6] = [
    "embeddings.weight",
    "embedding.weight",
    "lm_head.weight",
    "mixer.in_proj.weight",
    "mixer.x_proj.weight",
    "mixer.out_proj.weight",
];

/// Whether a tensor of this name may be quantised.
pub(super) fn is_quantisable(name: &str) -> bool {
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
            ("model.backbone.embeddings.weight", "model.backbone."),
            ("model.embeddings.weight", "model."),
            ("embedding.weight", ""),
        ] {
            let n = names(&[embedding, &format!("{prefix}layers.0.norm.weight"), "lm_head.weight"]).unwrap();
            assert_eq!((n.prefix, n.embedding.as_str()), (prefix, embedding));
            assert_eq!(n.n_layer("f").unwrap(), 1);
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
            let e = names(&["backbone.layers.0.norm.weight", &far]).unwrap().n_layer("f").unwrap_err();
            assert!(e.to_string().contains("`backbone.layers.1.norm.weight`"), "{e}");
        }
        let e = names(&[]).unwrap().n_layer("f").unwrap_err();
        assert!(e.to_string().contains("`backbone.layers.0.norm.weight`"), "{e}");
    }
}
