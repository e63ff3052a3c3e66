//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, or the adapter's tensors inside the
//! model's own file (docs/adapters.md).
//!
//! An adapter is merged as the weights are read: each matrix W that it is for becomes W + scale (alpha / r) B A, in f32, row by row,
//! and is rounded to the base's own format again (`TensorView::rows_to_f32`, `quantised_rows`). Whole tensors that it holds
//! (`modules_to_save`, biases, resized or copied embeddings) take the places of the base's.

mod bound;
mod config;

pub(super) use bound::Adapters;
use config::Config;

use super::reading::{is_there, read_optional};
use super::{layout::Table, names, names::canonical, shard::Shard, LoadError};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";

/// An opened adapter.
pub struct Adapter {
    /// Where it came from: its folder.
    source: String,
    config: Config,
    /// Its own tensors; none if they are inside the model's file.
    table: Table,
    /// Positions in the model's table of those that are.
    inside: Vec<usize>,
}

/// What an adapter is, for listings.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterInfo {
    /// Its folder.
    pub source: String,
    /// The ranks that occur.
    pub ranks: Vec<usize>,
    /// The config's `lora_alpha`; `alpha_pattern` may change it for some matrices.
    pub alpha: f32,
    /// Ends of the matrices' names: `in_proj`, `x_proj`, ...
    pub targets: Vec<String>,
    /// How many matrices it adds to.
    pub matrices: usize,
    /// Whole tensors that it replaces.
    pub replaced: usize,
    /// What the caller weighs it with.
    pub scale: f32,
}

impl std::fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranks = self.ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ");
        write!(f, "LoRA adapter {}: ", self.source)?;
        match self.matrices {
            0 => write!(f, "no products")?,
            n => write!(f, "rank {ranks}, alpha {}, on {n} matrices ({})", self.alpha, self.targets.join(", "))?,
        }
        match self.replaced {
            0 => {}
            n => write!(f, ", {n} whole tensors")?,
        }
        match self.scale {
            1.0 => Ok(()),
            scale => write!(f, ", weighed with {scale}"),
        }
    }
}

impl Adapter {
    /// Opens an adapter: its folder, a trainer's output folder (its newest checkpoint), or its adapter_model.safetensors.
    ///
    /// # Errors
    /// See [`LoadError`]; adapters that are not plain LoRA are refused by the key or tensor that says so.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if !is_there(path)? {
            return Err(LoadError::NotFound { path: path.display().to_string() });
        }
        let folder = match path.is_dir() {
            true if path.join(CONFIG).exists() => path.to_path_buf(),
            true => super::locate(path)?.path,
            false => path.parent().unwrap_or(Path::new("")).to_path_buf(),
        };
        let adapter = Self::in_folder(&folder)?;
        let none = || LoadError::NoAdapter { path: path.display().to_string() };
        adapter.filter(|adapter| !adapter.table.tensors.is_empty()).ok_or_else(none)
    }

    /// The adapter that lies in a folder, if one does.
    pub(super) fn in_folder(folder: &Path) -> Result<Option<Self>, LoadError> {
        let (config_path, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
        let Some(json) = read_optional(&config_path)? else {
            // Weights without the alpha that they are to be weighed with: not to be ignored, nor to be guessed.
            return match is_there(&weights)? {
                true => Err(LoadError::NotFound { path: format!("{} (beside {WEIGHTS})", config_path.display()) }),
                false => Ok(None),
            };
        };
        let config = Config::parse(&config_path.display().to_string(), &json)?;
        let shards = match is_there(&weights)? {
            true => vec![Shard::map(&weights)?],
            false if folder.join(PICKLE).exists() => {
                return Err(super::pickle::refused(&folder.join(PICKLE), &[PICKLE.into()]));
            }
            false => Vec::new(),
        };
        let source = folder.display().to_string();
        Ok(Some(Self { source, config, table: Table::new(shards)?, inside: Vec::new() }))
    }

    /// The base model that the adapter in a folder names.
    pub(super) fn base_of(folder: &Path) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&read_optional(&folder.join(CONFIG)).ok()??).ok()?;
        Some(json.get("base_model_name_or_path")?.as_str().filter(|name| !name.is_empty())?.to_owned())
    }

    /// Takes the adapter's tensors that lie inside the model's file; they are then in use.
    pub(super) fn take_from(&mut self, model: &Table, used: &mut [bool]) {
        for (i, (stored, _)) in model.tensors.iter().enumerate() {
            if names::is_adapter(&stored.name) {
                self.inside.push(i);
                used[i] = true;
            }
        }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Whether it holds no tensor.
    pub(super) fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.table.tensors.is_empty()
    }
}

/// What a tensor of an adapter is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Role {
    /// (rank, k) of the module, or of an embedding (rank, vocab_size).
    A { module: String, embedding: bool },
    /// (n, rank), or of an embedding (d_model, rank).
    B { module: String, embedding: bool },
    /// The tensor of this name, whole.
    Whole(String),
}

impl Role {
    /// From a stored name: `base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight`, or with an adapter's name in it,
    /// `...lora_A.default.weight`. `None` for what is no plain LoRA.
    fn of(stored: &str) -> Option<Self> {
        let name = canonical(stored);
        let parts: Vec<&str> = name.split('.').collect();
        let lora = |part: &&str| part.starts_with("lora_") || *part == "modules_to_save";
        let Some(at) = parts.iter().position(lora) else {
            return names::is_weight_or_bias(&name).then(|| Role::Whole(name.into_owned()));
        };
        let module = parts[..at].join(".");
        let rest = &parts[at + 1..];
        match (parts[at], rest) {
            ("lora_A", ["weight"] | [_, "weight"]) => Some(Role::A { module, embedding: false }),
            ("lora_B", ["weight"] | [_, "weight"]) => Some(Role::B { module, embedding: false }),
            ("lora_embedding_A", [] | [_]) => Some(Role::A { module, embedding: true }),
            ("lora_embedding_B", [] | [_]) => Some(Role::B { module, embedding: true }),
            ("modules_to_save", [_, end @ ("weight" | "bias")]) => Some(Role::Whole(format!("{module}.{end}"))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_by_name() {
        let module = "backbone.layers.0.mixer.in_proj".to_owned();
        for name in ["in_proj.lora_A.weight", "in_proj.lora_A.default.weight"] {
            let role = Role::of(&format!("base_model.model.backbone.layers.0.mixer.{name}"));
            assert_eq!(role, Some(Role::A { module: module.clone(), embedding: false }));
        }
        let embedding = Role::of("base_model.model.backbone.embeddings.lora_embedding_B");
        assert_eq!(embedding, Some(Role::B { module: "backbone.embeddings".into(), embedding: true }));
        for (name, whole) in [
            ("base_model.model.lm_head.weight", "lm_head.weight"),
            ("base_model.model.lm_head.base_layer.weight", "lm_head.weight"),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
            (
                "base_model.model.backbone.layers.1.mixer.dt_proj.base_layer.bias",
                "backbone.layers.1.mixer.dt_proj.bias",
            ),
        ] {
            assert_eq!(Role::of(name), Some(Role::Whole(whole.into())));
        }
        for unknown in [
            "x.lora_magnitude_vector",
            "x.lora_B.bias",
            "x.lora_A",
            "x.ia3_l",
            "e.token_adapter.trainable_tokens_delta",
        ] {
            assert_eq!(Role::of(unknown), None, "{unknown}");
        }
    }
}
