//! `config.json`: Hugging Face's (`hidden_size`, ...) and mamba-ssm's (`d_model`, `ssm_cfg`, ...).
//!
//! Dimensions come from the tensors' shapes. The config tells what shapes cannot (the family, the norms' epsilon, tying,
//! special tokens) and is otherwise checked against them: published configs contain leftovers that no library reads
//! (falcon-mamba-7b's `expand: 16` beside `intermediate_size: 8192`, a `d_inner: 160` in a 370m model). Hence the rule:
//! of several keys for one dimension, the first in the order of precedence must agree; those after it only cause a warning.

use super::LoadError;
use crate::model::blocks::{Shape, STATES};
use crate::model::Pages;
use serde_json::Value;

mod arch;
mod hybrid;
mod mamba1;
mod mamba2;
mod raw;

use arch::KNOWN;

pub use arch::Arch;
pub(super) use arch::Family;
pub(super) use hybrid::{Block, Found, Plan};
pub(super) use raw::{shown, RawConfig};

/// A model's layers, dimensions and constants. Which biases there are is told by the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub arch: Arch,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Rows of the embedding, padding included: the number of logits.
    pub vocab_size: usize,
    /// The blocks from the first to the last, of which a layer of config.json may be several ([`Arch::blocks_per_layer`]).
    pub layers: Vec<Shape>,
    /// Epsilon of the layers' RMSNorms and of the final one.
    pub norm_eps: f32,
    /// What logits are multiplied by: as backends hold it, in the final norm's weight.
    pub head_scale: f32,
    /// Whether the head is the embedding. As the model will run: false as soon as a head of its own is used.
    pub tie_embeddings: bool,
    /// Tokens that end a text. Empty where the config does not say (mamba-ssm's).
    pub eos_token_id: Vec<u32>,
    pub bos_token_id: Option<u32>,
}

impl ModelConfig {
    /// Number of layers, as config.json counts them.
    pub fn n_layer(&self) -> usize {
        self.layers.len().div_ceil(self.arch.blocks_per_layer())
    }

    /// The first layer's kind and dimensions, as all layers' where there is one kind; `None` without layers.
    pub fn first(&self) -> Option<&Shape> {
        self.layers.first()
    }

    /// A dimension of the first layer, by mamba-ssm's name: `d_state`.
    pub fn dimension(&self, name: &str) -> Option<usize> {
        self.first()?.dimensions().into_iter().find(|(n, _)| *n == name).map(|(_, size)| size)
    }

    /// How many blocks there are of each kind, and the first of them, in the order in which they come.
    pub fn kinds(&self) -> Vec<(usize, &Shape)> {
        let mut kinds: Vec<(usize, &Shape)> = Vec::new();
        for layer in &self.layers {
            match kinds.iter_mut().find(|(_, first)| first.kind() == layer.kind()) {
                Some((count, _)) => *count += 1,
                None => kinds.push((1, layer)),
            }
        }
        kinds
    }

    /// Bytes that a text takes on a backend, in f32: all states of all layers.
    pub fn state_bytes(&self) -> usize {
        4 * STATES.iter().map(|name| self.state_elements(name)).sum::<usize>()
    }

    /// Keys and values of a text at its begin.
    pub(crate) fn pages(&self) -> Pages {
        let mut kept = self.layers.iter().filter_map(Shape::keys_values);
        let Some(first) = kept.next() else { return Pages::default() };
        Pages::new(1 + kept.count(), first)
    }

    /// Bytes that every token of a text takes besides, in f32: keys and values.
    pub fn token_bytes(&self) -> usize {
        let kept = self.layers.iter().filter_map(Shape::keys_values);
        kept.map(|(kv_heads, head_dim)| 2 * 4 * kv_heads * head_dim).sum()
    }

    /// Elements of a state ([`crate::model::blocks::STATES`]) of all layers together.
    pub fn state_elements(&self, name: &str) -> usize {
        self.layers.iter().map(|layer| layer.state_elements(name)).sum()
    }
}

/// What tensor shapes say, and the tensors that said it (`name [shape]`), for messages.
pub(super) struct Dims {
    pub d_model: usize,
    pub vocab_size: usize,
    pub layers: Vec<Shape>,
    pub embedding: String,
    /// The last layer's prefix.
    pub last_layer: String,
    /// What a config may say of the layers.
    pub checks: Vec<Check>,
    /// What the config said before any tensor was looked at, of a family whose configs do.
    pub plan: Option<Plan>,
}

/// A dimension that a config may state.
pub(super) struct Check {
    /// Keys in order of precedence; those from `free` on are read by no library.
    pub keys: &'static [&'static str],
    pub free: usize,
    pub stored: usize,
    /// What the tensors have, and which of them, for the message.
    pub found: String,
}

impl Check {
    pub fn new(keys: &'static [&'static str], free: usize, (name, stored): (&str, usize), tensor: &str) -> Self {
        Self { keys, free, stored, found: format!("the tensors have {name} {stored} (`{tensor}`)") }
    }
}

/// The first layer's tensors, by their names without what stands before them.
pub(super) trait FirstLayer {
    /// The shape of a tensor that must be there, of so many dimensions.
    fn dimensions<const N: usize>(&self, name: &str, symbols: &'static str) -> Result<[usize; N], LoadError>;
    fn has(&self, name: &str) -> bool;
    /// `name [shape]`, for messages.
    fn described(&self, name: &str) -> String;
    /// Its full name.
    fn name(&self, name: &str) -> String;
    fn file(&self) -> String;
}

pub(super) const NORM_EPS: f32 = 1e-5;

/// What mamba-ssm's `Mamba` and `Mamba2` take from a config's `ssm_cfg`: what is read here, and what only says how weights were
/// initialised or how it is computed.
const SSM_CFG: [&str; 29] = [
    "layer",
    "d_state",
    "d_conv",
    "expand",
    "dt_rank",
    "headdim",
    "d_ssm",
    "ngroups",
    "D_has_hdim",
    "rmsnorm",
    "norm_before_gate",
    "dt_limit",
    "bias",
    "conv_bias",
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "conv_init",
    "A_init_range",
    "use_fast_path",
    "use_mem_eff_path",
    "chunk_size",
    "process_group",
    "sequence_parallel",
    "layer_idx",
    "device",
    "dtype",
];

impl RawConfig {
    /// The blocks that the config says a model has, of a family whose configs do.
    pub fn plan(&self, family: Family) -> Result<Option<Plan>, LoadError> {
        hybrid::plan(family, self)
    }

    /// The family, from `ssm_cfg.layer`, `model_type` or `architectures`, or (mamba-ssm's first config, which has none of them) the
    /// other keys; and the key that said so, if one did.
    pub fn family(&self, warnings: &mut Vec<String>) -> Result<(Family, Option<&'static str>), LoadError> {
        let unknown = |key, value: &str| LoadError::UnknownArchitecture {
            file: self.file.clone(),
            key,
            value: value.chars().take(60).collect(),
            known: match key {
                "ssm_cfg.layer" => "\"Mamba1\" and \"Mamba2\"",
                _ => KNOWN,
            },
        };
        if let Some(layer) = self.string("ssm_cfg.layer")? {
            let family = match layer {
                "Mamba1" => Family::Mamba,
                "Mamba2" => Family::Mamba2,
                other => return Err(unknown("ssm_cfg.layer", other)),
            };
            return Ok((family, Some("ssm_cfg.layer")));
        }
        if let Some(model_type) = self.string("model_type")? {
            let family = Family::of_model_type(model_type).ok_or_else(|| unknown("model_type", model_type))?;
            return Ok((family, Some("model_type")));
        }
        if let Some(class) = self.get("architectures").and_then(|list| list.get(0)) {
            let class = class.as_str().unwrap_or_default();
            let family = Family::of_class(class).ok_or_else(|| unknown("architectures", class))?;
            return Ok((family, Some("architectures")));
        }
        if !(self.map.contains_key("d_model") || self.map.contains_key("ssm_cfg")) {
            warnings.push(format!("{}: no `model_type`: taken as a Mamba-1 model", self.file));
        }
        Ok((Family::Mamba, None))
    }

    /// The family that a key says, or that is taken where none does, is not that of the tensors.
    pub fn contradicts(&self, said_by: Option<&str>, found: String) -> LoadError {
        let value = said_by.and_then(|key| self.get(key)).map(shown);
        // mamba-ssm's first config is of Mamba-1, and had no key for it.
        let key = said_by.unwrap_or(if self.is_mamba_ssm() { "ssm_cfg.layer" } else { "model_type" });
        self.contradiction(key, value.unwrap_or_else(|| "absent, which makes it a Mamba-1".into()), found)
    }

    /// Refuses options that change the result and are not implemented.
    pub fn check_supported(&self, arch: Arch) -> Result<(), LoadError> {
        // The readers of other families ask for what they know.
        if !(arch.is_mamba1() || arch == Arch::Mamba2) {
            return Ok(());
        }
        let unsupported = |key: &str, value: &Value, reason| LoadError::UnsupportedOption {
            file: self.file.clone(),
            key: key.into(),
            value: shown(value),
            reason,
        };
        if let Some(act) = self.get("hidden_act") {
            if !matches!(act.as_str(), Some("silu" | "swish")) {
                return Err(unsupported("hidden_act", act, "the activation must be \"silu\""));
            }
        }
        if self.is_mamba_ssm() {
            for (name, value) in self.object("ssm_cfg")?.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                let reason = match name.as_str() {
                    "activation" if matches!(value.as_str(), Some("silu" | "swish")) => continue,
                    "activation" => "the activation must be \"silu\"",
                    name if SSM_CFG.contains(&name) => continue,
                    _ => "no option of mamba-ssm's layers that is known here",
                };
                return Err(unsupported(&format!("ssm_cfg.{name}"), value, reason));
            }
        }
        if self.flag("rms_norm")? == Some(false) {
            return Err(unsupported("rms_norm", &Value::Bool(false), "LayerNorm: only RMSNorm is implemented"));
        }
        for (key, reason) in [("attn_layer_idx", "attention layers"), ("d_intermediate", "MLP layers")] {
            let harmless = |v: &Value| v.as_array().is_some_and(|list| list.is_empty()) || v.as_u64() == Some(0);
            if let Some(value) = self.get(key).filter(|v| !harmless(v)) {
                return Err(unsupported(key, value, reason));
            }
        }
        Ok(())
    }

    /// Refuses weights that another program has quantised, by the method's name. `plain`: whether all weights are numbers that
    /// can be read: then the config only says what its author's program made of them.
    pub fn check_quantisation(&self, plain: bool, warnings: &mut Vec<String>) -> Result<(), LoadError> {
        let Some((key, value)) =
            ["quantization_config", "quantization"].iter().find_map(|key| Some((key, self.get(key)?)))
        else {
            return Ok(());
        };
        let method = value.get("quant_method").map_or_else(|| shown(value), shown);
        if plain {
            warnings.push(format!(
                "{}: `{key}` is {method}, but the weights are not quantised: they are run as they are",
                self.file
            ));
            return Ok(());
        }
        let reason =
            "weights quantised by another program: take the original model, or one quantised by `mamba-wgpu quantize`";
        Err(LoadError::UnsupportedOption { file: self.file.clone(), key: (*key).into(), value: method, reason })
    }

    /// Whether the config ties the head to the embedding. Both libraries do where it does not say, but for transformers' Mamba-2.
    pub fn ties(&self, arch: Arch) -> Result<bool, LoadError> {
        Ok(match self.flag("tie_word_embeddings")? {
            Some(tied) => tied,
            None => self.flag("tie_embeddings")?.unwrap_or(arch.is_mamba1() || self.is_mamba_ssm()),
        })
    }

    /// There is a tensor of a layer that the config does not have.
    pub fn too_few_layers(&self, tensor: &str) -> LoadError {
        let keys = ["num_hidden_layers", "layers_block_type", "hybrid_override_pattern"];
        let key = keys.into_iter().find(|key| self.get(key).is_some()).unwrap_or(keys[0]);
        let value = self.get(key).map_or_else(|| "absent".into(), shown);
        self.contradiction(key, value, format!("there is a tensor `{tensor}`"))
    }

    /// What layers of a family with a plan have or have not beyond what all have, against the tensors.
    pub fn check_optional(
        &self,
        (family, said_by): (Family, Option<&'static str>),
        find: &dyn Fn(&str, &str) -> Option<Found>,
    ) -> Result<(), LoadError> {
        hybrid::check(family, self, said_by, find)
    }

    /// Where the config of a family without a plan says whether linear layers and convolutions have biases, the tensors must agree.
    /// `has`: whether the layers have a tensor.
    pub fn check_biases(&self, has: &dyn Fn(&str) -> bool) -> Result<(), LoadError> {
        let (in_proj, out_proj, conv) = ("mixer.in_proj.bias", "mixer.out_proj.bias", "mixer.conv1d.bias");
        for (key, tensor) in [
            ("use_bias", in_proj),
            ("use_bias", out_proj),
            ("ssm_cfg.bias", in_proj),
            ("ssm_cfg.bias", out_proj),
            ("use_conv_bias", conv),
            ("ssm_cfg.conv_bias", conv),
        ] {
            let stored = has(tensor);
            if self.flag(key)?.is_some_and(|expected| expected != stored) {
                let have = if stored { "have" } else { "do not have" };
                let found = format!("the layers {have} a tensor `{tensor}`");
                return Err(self.contradiction(key, (!stored).to_string(), found));
            }
        }
        Ok(())
    }

    /// Checks the config against the tensors' dimensions.
    pub fn model(
        &self,
        family: Family,
        dims: &Dims,
        tied: bool,
        warnings: &mut Vec<String>,
    ) -> Result<ModelConfig, LoadError> {
        self.check_dimensions(dims, warnings)?;
        self.check_vocabulary(dims, warnings)?;
        Ok(ModelConfig {
            norm_eps: match &dims.plan {
                Some(plan) => plan.norm_eps,
                None => self.epsilon("layer_norm_epsilon", NORM_EPS)?,
            },
            head_scale: dims.plan.as_ref().map_or(1.0, |plan| plan.head_scale),
            eos_token_id: self.tokens("eos_token_id", family.eos())?,
            bos_token_id: self.tokens("bos_token_id", family.bos())?.first().copied(),
            ..dims.model(family.arch(), tied)
        })
    }

    fn check_dimensions(&self, dims: &Dims, warnings: &mut Vec<String>) -> Result<(), LoadError> {
        let layers = format!("the last of the {} layers stored is `{}`", dims.layers.len(), dims.last_layer);
        let of_all = [
            Check::new(&["hidden_size", "d_model"], 2, ("d_model", dims.d_model), &dims.embedding),
            Check { keys: &["num_hidden_layers", "n_layer"], free: 2, stored: dims.layers.len(), found: layers },
        ];
        // Where there is a plan, the sizes are the config's, and tensors have been checked against them.
        let of_all = of_all.iter().filter(|_| dims.plan.is_none());
        for Check { keys, free, stored, found } in of_all.chain(&dims.checks) {
            let (free, stored) = (*free, *stored);
            let mut decided = false;
            for (i, key) in keys.iter().enumerate() {
                let Some(value) = self.get(key) else { continue };
                let agrees = if key.ends_with("expand") {
                    // transformers: int(expand * hidden_size)
                    value.as_f64().map(|expand| (expand * dims.d_model as f64).floor() == stored as f64)
                } else if value.as_str() == Some("auto") && key.ends_with("_rank") {
                    Some(dims.d_model.div_ceil(16) == stored)
                } else {
                    value.as_u64().map(|n| n == stored as u64)
                };
                let strict = !decided && i < free;
                decided |= i < free;
                match agrees {
                    Some(true) => {}
                    None if strict => {
                        let expected =
                            if key.ends_with("expand") { "it must be a number" } else { "it must be a whole number" };
                        return Err(self.bad_value(key, value, expected));
                    }
                    Some(false) if strict => {
                        return Err(self.contradiction(key, shown(value), found.clone()));
                    }
                    _ => warnings.push(format!("{}: `{key}` is {}, but {found}: ignored", self.file, shown(value))),
                }
            }
        }
        Ok(())
    }

    /// The embedding may have more rows than the vocabulary, most often because mamba-ssm pads it to a multiple.
    fn check_vocabulary(&self, dims: &Dims, warnings: &mut Vec<String>) -> Result<(), LoadError> {
        let Some(value) = self.get("vocab_size") else {
            return Ok(());
        };
        let vocab = value.as_u64().ok_or_else(|| self.bad_value("vocab_size", value, "it must be a whole number"))?;
        let rows = dims.vocab_size as u64;
        let found = format!("the embedding has {rows} rows (`{}`)", dims.embedding);
        if vocab > rows {
            return Err(self.contradiction("vocab_size", shown(value), found));
        }
        let multiple = self.get("pad_vocab_size_multiple").and_then(Value::as_u64).filter(|&m| m > 0).unwrap_or(8);
        let padded = |m: u64| vocab.checked_next_multiple_of(m) == Some(rows);
        if vocab < rows && ![multiple, 8, 16, 32, 64, 128].into_iter().any(padded) {
            warnings.push(format!("{}: `vocab_size` is {vocab}, but {found}: all rows are used", self.file));
        }
        Ok(())
    }
}

impl Dims {
    /// The config that the tensors alone imply.
    pub fn model(&self, arch: Arch, tied: bool) -> ModelConfig {
        ModelConfig {
            arch,
            d_model: self.d_model,
            vocab_size: self.vocab_size,
            layers: self.layers.clone(),
            norm_eps: NORM_EPS,
            head_scale: 1.0,
            tie_embeddings: tied,
            eos_token_id: Vec::new(),
            bos_token_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> RawConfig {
        RawConfig::parse("config.json", json.as_bytes()).unwrap()
    }

    #[test]
    fn families() {
        let arch = |json| parse(json).family(&mut Vec::new()).map(|(family, _)| family.arch());
        assert_eq!(arch(r#"{"model_type": "mamba"}"#).unwrap(), Arch::Mamba1);
        assert_eq!(arch(r#"{"model_type": "falcon_mamba"}"#).unwrap(), Arch::FalconMamba);
        assert_eq!(arch(r#"{"architectures": ["FalconMambaForCausalLM"]}"#).unwrap(), Arch::FalconMamba);
        assert_eq!(arch(r#"{"d_model": 4, "ssm_cfg": {"layer": "Mamba1"}}"#).unwrap(), Arch::Mamba1);
        for mamba2 in [
            r#"{"model_type": "mamba2"}"#,
            r#"{"ssm_cfg": {"layer": "Mamba2"}}"#,
            r#"{"architectures": ["Mamba2ForCausalLM"]}"#,
        ] {
            assert_eq!(arch(mamba2).unwrap(), Arch::Mamba2, "{mamba2}");
        }
        for unknown in
            [r#"{"model_type": "rwkv"}"#, r#"{"architectures": ["RwkvForCausalLM"]}"#, r#"{"architectures": [3]}"#]
        {
            assert!(matches!(arch(unknown), Err(LoadError::UnknownArchitecture { .. })), "{unknown}");
        }
        assert!(matches!(arch(r#"{"model_type": 3}"#), Err(LoadError::ConfigValue { .. })));
    }

    #[test]
    fn tokens_and_ties() {
        let eos = |json| parse(json).tokens("eos_token_id", Some(0));
        assert_eq!(eos(r#"{"eos_token_id": [1, 2]}"#).unwrap(), [1, 2]);
        assert_eq!(eos(r#"{"model_type": "mamba"}"#).unwrap(), [0]);
        assert!(eos(r#"{"model_type": "mamba", "eos_token_id": null}"#).unwrap().is_empty());
        assert!(eos(r#"{"eos_token_id": -1}"#).unwrap().is_empty());
        assert!(eos(r#"{"eos_token_id": "x"}"#).is_err());
        assert!(eos(r#"{"eos_token_id": 4294967296}"#).is_err());
        assert!(parse("{}").ties(Arch::Mamba1).unwrap());
        assert!(parse(r#"{"ssm_cfg": {}}"#).ties(Arch::Mamba2).unwrap());
        assert!(!parse(r#"{"model_type": "mamba2"}"#).ties(Arch::Mamba2).unwrap());
        assert!(!parse(r#"{"tie_embeddings": false}"#).ties(Arch::Mamba1).unwrap());
        assert!(!parse(r#"{"tie_embeddings": true, "tie_word_embeddings": false}"#).ties(Arch::Mamba1).unwrap());
    }
}
