//! Checkpoints: from files to checked tensors and back. Nothing here knows of a backend.
//!
//! [`Checkpoint`] opens a folder, file or bytes; [`ModelConfig`] and [`ModelWeights`] are what it holds, with every shape
//! checked against the others and against the config, so that the backends need no more checks.

#[cfg(not(target_arch = "wasm32"))]
mod adapter;
pub(crate) mod config;
#[cfg(not(target_arch = "wasm32"))]
mod contents;
#[cfg(feature = "embedded-model")]
pub mod embedded;
#[cfg(not(target_arch = "wasm32"))]
mod find;
mod fingerprint;
mod generation_config;
mod layout;
#[cfg(not(target_arch = "wasm32"))]
mod merged;
mod names;
#[cfg(not(target_arch = "wasm32"))]
mod open;
mod patch;
#[cfg(not(target_arch = "wasm32"))]
mod pickle;
mod quantise;
mod quantised;
#[cfg(not(target_arch = "wasm32"))]
mod reading;
mod shard;
pub(crate) mod sidecars;
pub(crate) mod sniff;
mod stacked;
pub mod synthetic;
mod tokenizer_advice;
mod weights;
pub(crate) mod write;

pub use crate::error::LoadError;
#[cfg(not(target_arch = "wasm32"))]
use adapter::Adapters;
#[cfg(not(target_arch = "wasm32"))]
pub use adapter::{Adapter, AdapterInfo};
use config::Family;
use config::RawConfig;
pub use config::{Arch, ModelConfig};
#[cfg(not(target_arch = "wasm32"))]
pub use contents::{Contents, FileInfo, Listed};
#[cfg(not(target_arch = "wasm32"))]
pub use find::{locate, Located};
pub use fingerprint::Fingerprint;
use generation_config::keep_below;
pub use generation_config::GenerationConfig;
use layout::{Layout, Table};
use names::{Names, HEAD};
#[cfg(not(target_arch = "wasm32"))]
pub use quantise::quantise_to_folder;
pub use quantise::{quantise, Progress, QuantiseError, Summary, TensorSummary};
use shard::{Bytes, Shard, Stored};
pub use sidecars::Sidecars;
use sidecars::TOKENIZER;
pub(crate) use stacked::Stacked;
use std::borrow::Cow;
use std::path::Path;
pub use weights::{Dtype, ModelWeights, TensorView};

/// An opened checkpoint: its files (mapped into memory, or bytes that are there already), its config, its tensors.
///
/// Opening reads headers only. Weights come off the disk as a backend converts them, and stay mapped while this lives.
pub struct Checkpoint {
    source: String,
    config: ModelConfig,
    table: Table,
    layout: Layout,
    /// By position in the table.
    used: Vec<bool>,
    config_json: Option<Cow<'static, [u8]>>,
    sidecars: Sidecars,
    generation: GenerationConfig,
    /// Whether config.json itself says which tokens end a text.
    names_eos: bool,
    warnings: Vec<String>,
    notes: Vec<String>,
    #[cfg(not(target_arch = "wasm32"))]
    names: Names,
    #[cfg(not(target_arch = "wasm32"))]
    adapters: Adapters,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("source", &self.source).field("config", &self.config).finish_non_exhaustive()
    }
}

/// A stored tensor, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    /// As safetensors writes it: `F32`, `BF16`, ..., or `Q8` and `Q4` for what is quantised. Tensors that are not used may
    /// be of any type.
    pub dtype: String,
    pub shape: &'a [usize],
    pub bytes: u64,
    pub file: &'a str,
    /// Whether the model uses it.
    pub used: bool,
}

/// Everything read, nothing understood yet.
struct Parts {
    source: String,
    config: Option<RawConfig>,
    config_json: Option<Cow<'static, [u8]>>,
    table: Table,
    sidecars: Sidecars,
    /// An adapter in the model's folder.
    #[cfg(not(target_arch = "wasm32"))]
    adapter: Option<Adapter>,
    warnings: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint from bytes: `config.json`, one or several safetensors files, and `tokenizer.json`.
    ///
    /// # Errors
    /// See [`LoadError`]; messages call the files `memory/config.json` and so on.
    pub fn from_bytes(
        config_json: &[u8],
        shards: Vec<Cow<'static, [u8]>>,
        tokenizer_json: Option<Cow<'static, [u8]>>,
    ) -> Result<Self, LoadError> {
        Self::from_named_bytes("memory", config_json, shards, tokenizer_json)
    }

    /// As [`Checkpoint::from_bytes`], with what [`Checkpoint::source`] and messages are to call the folder.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn from_named_bytes(
        source: &str,
        config_json: &[u8],
        shards: Vec<Cow<'static, [u8]>>,
        tokenizer_json: Option<Cow<'static, [u8]>>,
    ) -> Result<Self, LoadError> {
        let count = shards.len();
        let named = |(i, bytes)| match count {
            1 => ("model.safetensors".to_owned(), bytes),
            _ => (format!("model-{:05}-of-{count:05}.safetensors", i + 1), bytes),
        };
        let config = ("config.json".to_owned(), Cow::Owned(config_json.to_vec()));
        let tokenizer = tokenizer_json.map(|json| (TOKENIZER.to_owned(), json));
        let shards = shards.into_iter().enumerate().map(named);
        Self::from_files(source, [config].into_iter().chain(tokenizer).chain(shards).collect())
    }

    /// As [`Checkpoint::from_named_bytes`], from files with their names: perhaps `config.json` (see `Checkpoint::open`), perhaps those
    /// of [`Sidecars`], and safetensors files under any other names.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn from_files(source: &str, files: Vec<(String, Cow<'static, [u8]>)>) -> Result<Self, LoadError> {
        let (mut config_json, mut sidecars, mut shards) = (None, Sidecars::default(), Vec::new());
        for (name, bytes) in files {
            match name.as_str() {
                "config.json" => config_json = Some(bytes),
                name if Sidecars::takes(name) => sidecars.insert(name, bytes),
                _ => shards.push((name, bytes)),
            }
        }
        if shards.is_empty() {
            return Err(LoadError::NoWeights { path: source.into(), hint: String::new() });
        }
        let named = |(name, bytes)| Shard::new(format!("{source}/{name}"), Bytes::Memory(bytes));
        let shards = shards.into_iter().map(named).collect::<Result<Vec<_>, _>>()?;
        let config = config_json.as_deref().map(|json| RawConfig::parse(&format!("{source}/config.json"), json));
        Self::build(Parts {
            source: source.into(),
            config: config.transpose()?,
            config_json,
            table: Table::new(shards)?,
            sidecars,
            #[cfg(not(target_arch = "wasm32"))]
            adapter: None,
            warnings: Vec::new(),
        })
    }

    /// The model's dimensions and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights, as views of the files' bytes.
    pub fn weights(&self) -> ModelWeights<'_> {
        #[cfg(not(target_arch = "wasm32"))]
        if !self.adapters.is_empty() {
            return self.adapters.weights(&self.layout, &self.table);
        }
        self.layout.weights(|tensor| self.table.view(tensor))
    }

    /// The bytes of `config.json`, unless the weights were opened without one.
    pub fn config_json(&self) -> Option<&[u8]> {
        self.config_json.as_deref()
    }

    /// The bytes of `tokenizer.json`, if there was one beside the weights.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.sidecars.get(TOKENIZER)
    }

    /// The small files beside the weights, `tokenizer.json` among them.
    pub fn sidecars(&self) -> &Sidecars {
        &self.sidecars
    }

    /// What `generation_config.json` states.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Tokens that end a text, where `generation_config.json` or else `config.json` says so itself.
    pub(crate) fn named_eos(&self) -> Option<&[u32]> {
        let config = Some(self.config.eos_token_id.as_slice()).filter(|_| self.names_eos);
        self.generation.eos_token_id.as_deref().or(config).filter(|ids| !ids.is_empty())
    }

    /// All stored tensors, in the order of the files, those included that the model does not use.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.table.tensors.iter().enumerate().map(|(i, (stored, _))| TensorInfo {
            name: &stored.name,
            dtype: match &stored.quantised {
                Some((quant, _)) => quant.to_string().to_uppercase(),
                None => stored.dtype.to_string(),
            },
            shape: &stored.shape,
            bytes: (stored.range.len() + stored.quantised.as_ref().map_or(0, |(_, scales)| scales.len())) as u64,
            file: self.table.file(i),
            used: self.used[i],
        })
    }

    /// The files that hold the weights.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.table.shards.iter().map(|shard| shard.file.as_str())
    }

    /// Where it came from: the path given, or a name such as `embedded`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What was odd but harmless. Each has been logged with `tracing::warn` too.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What was done that a user may want to hear of: which of several models was taken, which adapters are merged.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn build(parts: Parts) -> Result<Self, LoadError> {
        let Parts { source, config: raw, config_json, mut table, sidecars, mut warnings, .. } = parts;
        let mut notes = Vec::new();
        // What kind of model it is comes first: nothing that follows makes sense for another.
        let mamba2 = table.mamba2_tensor();
        let (family, said_by) = match &raw {
            Some(raw) => raw.family(&mut warnings)?,
            None if mamba2.is_some() => (Family::Mamba2, None),
            None => (Family::Mamba, None),
        };
        let arch = family.arch();
        if let (Some(raw), Some(tensor), true) = (&raw, mamba2, arch.is_mamba1()) {
            let found = format!("there is a tensor `{tensor}`, which only Mamba-2 has");
            return Err(raw.contradicts(said_by, found));
        }
        if let Some(raw) = &raw {
            raw.check_supported(arch)?;
            raw.check_quantisation(table.is_plain(), &mut warnings)?;
        }

        let plan = raw.as_ref().map(|raw| raw.plan(family)).transpose()?.flatten();
        table.prefix = arch.prefix();
        let names = match &plan {
            Some(plan) => Names::planned(plan),
            None => Names::recognise(&source, table.names())?,
        };
        let head = table.find(HEAD);
        let ties = match &raw {
            Some(raw) => raw.ties(arch)?,
            None => head.is_none(),
        };
        // A tied checkpoint may store the shared matrix under the head's name only.
        let embedding = match (table.find(&names.embedding), head) {
            (None, Some(head)) if ties => table.usable(head)?,
            (Some(_), _) => table.required(&names.embedding)?,
            (None, _) => {
                let (file, tensor) = (table.place(), table.called(&names.embedding));
                return Err(LoadError::MissingTensor { file, tensor, hint: table.summary() });
            }
        };
        let (mut layout, dims) = Layout::new(&mut table, &names, embedding, (arch, raw.as_ref(), plan), &mut notes)?;
        if let Some(head) = head.filter(|&head| head != embedding) {
            layout.set_head(&table, head, &dims)?;
            if ties {
                if table.view(head).same_values(&table.view(embedding)) {
                    layout.tie();
                } else {
                    warnings.push(format!(
                        "{}: `{HEAD}` differs from `{}` although the config ties them: the stored head is used",
                        table.file(head),
                        names.embedding
                    ));
                }
            }
        } else if !ties {
            return Err(LoadError::MissingTensor {
                file: table.file(embedding).into(),
                tensor: HEAD.into(),
                hint: ", and the config does not tie the head to the embedding".into(),
            });
        }
        let mut config = match &raw {
            Some(raw) => {
                match &dims.plan {
                    None => raw.check_biases(&|name| layout.has(0, name))?,
                    Some(_) => {
                        let find = |kind: &str, name: &str| layout.optional(&table, &names, &dims.layers, kind, name);
                        raw.check_optional((family, said_by), &find)?;
                    }
                }
                raw.model(family, &dims, layout.is_tied(), &mut warnings)?
            }
            None => {
                warnings.push(format!(
                    "{source}: no config.json beside it: taken as a {} model with epsilon 1e-5",
                    arch.title()
                ));
                dims.model(arch, layout.is_tied())
            }
        };
        let mut used = vec![false; table.tensors.len()];
        layout.used().into_iter().for_each(|tensor| used[tensor] = true);
        let mut generation = GenerationConfig::read(folder_of(&source), &sidecars, &mut warnings)?;
        generation.keep_below(folder_of(&source), config.vocab_size, &mut notes);
        if let Some(raw) = &raw {
            keep_below(&raw.file, "eos_token_id", &mut config.eos_token_id, config.vocab_size, &mut notes);
            let mut bos: Vec<u32> = config.bos_token_id.into_iter().collect();
            keep_below(&raw.file, "bos_token_id", &mut bos, config.vocab_size, &mut notes);
            config.bos_token_id = bos.first().copied();
        }
        let names_eos = raw.as_ref().is_some_and(|raw| raw.get("eos_token_id").is_some());
        let mut checkpoint = Self {
            source,
            config,
            table,
            layout,
            used,
            config_json,
            sidecars,
            generation,
            names_eos,
            warnings,
            notes,
            #[cfg(not(target_arch = "wasm32"))]
            names,
            #[cfg(not(target_arch = "wasm32"))]
            adapters: Adapters::default(),
        };
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(mut adapter) = parts.adapter {
            adapter.take_from(&checkpoint.table, &mut checkpoint.used);
            checkpoint = checkpoint.with_adapter(adapter, 1.0)?;
        }
        report_unused(&checkpoint.table, &checkpoint.used, &mut checkpoint.warnings)?;
        for warning in &checkpoint.warnings {
            tracing::warn!("{warning}");
        }
        Ok(checkpoint)
    }
}

/// The folder that a source names, by itself or by a file in it; for messages.
fn folder_of(source: &str) -> &str {
    let file = [".safetensors", ".json"].iter().any(|end| source.ends_with(end));
    let folder = Path::new(source).parent().and_then(Path::to_str).filter(|folder| file && !folder.is_empty());
    folder.unwrap_or(if file { "." } else { source })
}

/// Tensors that are not used cause a warning, or an error where ignoring them would change the result.
fn report_unused(table: &Table, used: &[bool], warnings: &mut Vec<String>) -> Result<(), LoadError> {
    let mut extra: Vec<&Stored> = Vec::new();
    for (i, (stored, _)) in table.tensors.iter().enumerate().filter(|(i, _)| !used[*i]) {
        // A head equal to the embedding that it is tied to is no surprise.
        if names::canonical(&stored.name) == HEAD {
            continue;
        }
        if let Some(reason) = names::why_it_matters(&stored.name) {
            return Err(LoadError::UnsupportedTensor {
                file: table.file(i).into(),
                tensor: stored.name.clone(),
                reason,
            });
        }
        extra.push(stored);
    }
    if let Some(first) = extra.first() {
        let file = table.find(&names::canonical(&first.name)).map_or("", |i| table.file(i));
        warnings.push(format!(
            "{file}: {} tensors of no use to this model are ignored, such as `{}`",
            extra.len(),
            first.name
        ));
    }
    Ok(())
}
