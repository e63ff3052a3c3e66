//! A config's keys as the families of hybrids have them.

use super::{Block, Plan};
use crate::checkpoint::config::{mamba2::dt_limit, shown, Family, RawConfig};
use crate::checkpoint::LoadError;
use crate::model::blocks::attention;
use crate::model::blocks::{mamba2, mlp, Shape};
use crate::reference::Activation;
use serde_json::Value;

/// Beyond, a config is damaged rather than of a model.
const MOST: u64 = 1 << 24;
const MOST_LAYERS: usize = 4096;

/// What several families say in the same words.
pub(super) struct Reader<'a> {
    pub raw: &'a RawConfig,
    /// By which it is known what is meant where a key is absent.
    pub family: Family,
}

impl Reader<'_> {
    pub fn missing(&self, key: &str, expected: &'static str) -> LoadError {
        let (file, key) = (self.raw.file.clone(), key.into());
        LoadError::ConfigValue { file, key, value: "absent".into(), expected }
    }

    pub fn unsupported(&self, key: &str, reason: &'static str) -> LoadError {
        let value = self.raw.get(key).map_or_else(|| "absent".into(), shown);
        LoadError::UnsupportedOption { file: self.raw.file.clone(), key: key.into(), value, reason }
    }

    /// A number of things that there is at least one of.
    pub fn size(&self, key: &'static str) -> Result<usize, LoadError> {
        match self.size_or(key, 0)? {
            0 if self.raw.get(key).is_none() => Err(self.missing(key, "it must be a whole number above 0")),
            0 => Err(self.raw.bad_value(key, &Value::from(0), "it must be above 0")),
            size => Ok(size),
        }
    }

    pub fn size_or(&self, key: &str, default: usize) -> Result<usize, LoadError> {
        let Some(value) = self.raw.get(key) else { return Ok(default) };
        match value.as_u64().filter(|n| *n <= MOST) {
            Some(n) => Ok(n as usize),
            None => Err(self.raw.bad_value(key, value, "it must be a whole number below 16,777,217")),
        }
    }

    pub fn number_or(&self, key: &str, default: f32) -> Result<f32, LoadError> {
        self.raw.epsilon(key, default)
    }

    /// A factor, 1 where none is said.
    pub fn multiplier(&self, key: &str) -> Result<f32, LoadError> {
        let Some(value) = self.raw.get(key) else { return Ok(1.0) };
        match value.as_f64().map(|x| x as f32) {
            Some(x) if x.is_normal() => Ok(x),
            _ => Err(self.raw.bad_value(key, value, "it must be a finite number other than 0")),
        }
    }

    /// So many factors, 1 where none are said.
    pub fn multipliers<const N: usize>(&self, key: &str) -> Result<[f32; N], LoadError> {
        let Some(value) = self.raw.get(key) else { return Ok([1.0; N]) };
        let number = |v: &Value| v.as_f64().map(|x| x as f32).filter(|x| x.is_normal());
        let list: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(number).collect());
        let wrong =
            || self.raw.bad_value(key, value, "it must be a list of finite numbers other than 0, one for each piece");
        list.and_then(|list| list.try_into().ok()).ok_or_else(wrong)
    }

    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, LoadError> {
        let Some(value) = self.raw.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        list.map(Some).ok_or_else(|| self.raw.bad_value(key, value, "it must be a list of strings"))
    }

    /// Null is false, as in Python's.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        Ok(self.raw.flag(key)?.unwrap_or(default && !self.raw.says(key)))
    }

    /// A product that a backend multiplies by, of a key's number and others: f32 must be able to hold it.
    pub fn folded(&self, key: &str, product: f32) -> Result<f32, LoadError> {
        let expected = "it must be nearer to 1: f32 does not hold its products";
        let value = self.raw.get(key).cloned().unwrap_or_else(|| 1.into());
        if product.is_normal() {
            Ok(product)
        } else {
            Err(self.raw.bad_value(key, &value, expected))
        }
    }

    /// What all else is divided by instead, and what becomes of the norms' epsilon.
    pub fn embedding_multiplier(&self, eps: f32) -> Result<(f32, f32), LoadError> {
        let key = "embedding_multiplier";
        let multiplier = self.multiplier(key)?;
        self.folded(key, 1.0 / multiplier)?;
        Ok((multiplier, self.folded(key, eps / (multiplier * multiplier))?))
    }

    pub fn layers(&self) -> Result<usize, LoadError> {
        let key = "num_hidden_layers";
        match self.raw.get(key) {
            Some(value) if value.as_u64().is_none_or(|n| n > MOST_LAYERS as u64) => {
                Err(self.raw.bad_value(key, value, "it must be a whole number from 1 to 4,096"))
            }
            _ => self.size(key),
        }
    }

    /// Numbers of layers.
    pub fn indices(&self, key: &str, n_layer: usize) -> Result<Vec<usize>, LoadError> {
        let Some(value) = self.raw.get(key) else { return Ok(Vec::new()) };
        let index = |v: &Value| v.as_u64().map(|i| i as usize).filter(|i| *i < n_layer);
        let list = value.as_array().and_then(|list| list.iter().map(index).collect());
        list.ok_or_else(|| self.raw.bad_value(key, value, "it must be a list of layers, from 0 to the last one"))
    }

    /// The kinds of Nemotron-H's layers, and the key that says them.
    pub fn pattern(&self) -> Result<(&'static str, Vec<String>), LoadError> {
        const KEYS: [&str; 3] = ["layers_block_type", "layer_types", "hybrid_override_pattern"];
        let Some(key) = KEYS.into_iter().find(|key| self.raw.get(key).is_some()) else {
            return Err(self.missing(KEYS[2], "it must say of which kinds the layers are"));
        };
        let kinds = match key {
            "hybrid_override_pattern" => {
                let pattern = self.raw.string(key)?.unwrap_or_default();
                pattern.chars().filter(|c| *c != '|').map(|c| c.to_string()).collect()
            }
            key => self.strings(key)?.unwrap_or_default(),
        };
        if kinds.is_empty() || kinds.len() > MOST_LAYERS {
            let value = self.raw.get(key).cloned().unwrap_or_default();
            return Err(self.raw.bad_value(key, &value, "it must name at least one layer and at most 4,096"));
        }
        Ok((key, kinds))
    }

    /// Of which kind each layer is, by the old names of the hub or by those of transformers 5.
    pub fn kinds(&self, n_layer: usize) -> Result<Option<Vec<String>>, LoadError> {
        let Some(kinds) = self.strings("layer_types")?.or(self.strings("layers_block_type")?) else { return Ok(None) };
        if kinds.len() != n_layer {
            let found = format!("`{}` names {}", self.kinds_key(), kinds.len());
            return Err(self.raw.contradiction("num_hidden_layers", n_layer.to_string(), found));
        }
        Ok(Some(kinds))
    }

    /// The key that says it, or that would.
    fn kinds_key(&self) -> &'static str {
        let keys = ["layer_types", "layers_block_type"];
        let default = if self.family == Family::Bamba { "attn_layer_indices" } else { keys[0] };
        keys.into_iter().find(|key| self.raw.get(key).is_some()).unwrap_or(default)
    }

    /// Why a layer has this mixer: by what a key says or, where it is absent, by what that means.
    pub fn why(&self, key: &str, shape: &Shape) -> String {
        let absent = if self.raw.get(key).is_some() { "" } else { ", which is absent," };
        format!(": by the config's `{key}`{absent} this layer's mixer is {}", shape.kind())
    }

    /// Mamba-2 or attention, whichever a layer's kind is.
    pub fn mixer(
        &self,
        kind: &str,
        mamba: mamba2::Shape,
        attention: attention::Shape,
        layer: &str,
    ) -> Result<Block, LoadError> {
        let (shape, mixer) = match kind {
            "mamba" | "linear_attention" => (Shape::Mamba2(mamba), "mamba"),
            "attention" | "full_attention" => (Shape::Attention(attention), "self_attn"),
            _ => return Err(self.unsupported(self.kinds_key(), "layers of a kind that such models have not")),
        };
        let why = self.why(self.kinds_key(), &shape);
        Ok(Block { why, ..Block::new(shape, layer, "input_layernorm", mixer) })
    }

    /// `rotated`: which part of a head is, where the config does not say; `None`: positions are not told at all. `scale`: the softmax's,
    /// where it is not 1 / sqrt(head_dim).
    pub fn attention(&self, rotated: Option<f64>, scale: Option<f32>) -> Result<attention::Shape, LoadError> {
        use Family::{Bamba, FalconH1, Mistral, NemotronH, Qwen2, Qwen3};
        let (d_model, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        // Only null says that there are as many as of queries, in the classes of these families.
        let absent = match self.family {
            _ if self.raw.says("num_key_value_heads") => heads,
            Mistral | Bamba | NemotronH | FalconH1 => 8,
            Qwen2 | Qwen3 => 32,
            _ => heads,
        };
        let kv_heads = self.size_or("num_key_value_heads", absent)?;
        let absent = match self.family {
            Qwen3 | NemotronH if !self.raw.says("head_dim") => 128,
            _ => 0,
        };
        let head_dim = match self.size_or("head_dim", absent)? {
            0 => d_model / heads,
            head_dim => head_dim,
        };
        if kv_heads == 0 || heads % kv_heads != 0 {
            let key = "num_key_value_heads";
            let absent = if self.raw.says(key) { "" } else { "absent, which makes it " };
            let found = format!("there are {heads} heads of queries, which is no multiple of it");
            return Err(self.raw.contradiction(key, format!("{absent}{kv_heads}"), found));
        }
        if head_dim == 0 || head_dim > 256 {
            let (key, value, reason) = ("head_dim".into(), head_dim.to_string(), "heads have 256 channels at most");
            return Err(LoadError::UnsupportedOption { file: self.raw.file.clone(), key, value, reason });
        }
        Ok(attention::Shape {
            d_model,
            heads,
            kv_heads,
            head_dim,
            scale: scale.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            window: 0,
            rope: rotated.map(|part| self.rope(part, head_dim)).transpose()?,
            norm_eps: self.number_or("rms_norm_eps", 1e-6)?,
            out_scale: 1.0,
            in_scale: 1.0,
            beside: false,
        })
    }

    /// SwiGLU, or what `hidden_act` names: of Nemotron-H `mlp_hidden_act`, whose class has squared ReLU where a config does not say.
    pub fn mlp(&self, width: &'static str, fused: bool) -> Result<mlp::Shape, LoadError> {
        let (key, absent) = match self.family {
            Family::NemotronH => ("mlp_hidden_act", Activation::Relu2),
            _ => ("hidden_act", Activation::Silu),
        };
        let activation = match self.raw.string(key)? {
            None => absent,
            Some("silu" | "swish") => Activation::Silu,
            Some("relu2") => Activation::Relu2,
            Some("gelu") => Activation::Gelu,
            Some("gelu_pytorch_tanh" | "gelu_new") => Activation::GeluTanh,
            Some(_) => return Err(self.unsupported(key, "an activation that is not known here")),
        };
        let (d_model, d_ff) = (self.size("hidden_size")?, self.size(width)?);
        Ok(mlp::Shape { d_model, d_ff, activation, gated: true, fused, gate_scale: 1.0, out_scale: 1.0 })
    }

    /// A Mamba-2 mixer; its keys begin with `mamba_` in most families, and Nemotron-H has names of its own.
    pub fn mamba2(&self, norm_eps: f32) -> Result<mamba2::Shape, LoadError> {
        let of = |keys: &[&'static str]| keys.iter().find(|key| self.raw.get(key).is_some()).copied();
        let size = |keys: &[&'static str]| self.size(of(keys).unwrap_or(keys[0]));
        let size_or = |keys: &[&'static str], default: usize| of(keys).map_or(Ok(default), |key| self.size(key));
        let nemotron = self.family == Family::NemotronH;
        let d_model = self.size("hidden_size")?;
        let n_heads = size(&["mamba_n_heads", "mamba_num_heads"])?;
        // Falcon-H1's width is stated by itself, whatever the expansion; only null says that it is not.
        let d_ssm = match self.raw.says("mamba_d_ssm") {
            true => self.size_or("mamba_d_ssm", 0)?,
            false if self.family == Family::FalconH1 => 1024,
            false => 0,
        };
        let head_dim = match self.raw.get("mamba_d_head").and_then(Value::as_str) {
            Some("auto") if d_ssm > 0 => d_ssm / n_heads,
            Some("auto") => size_or(&["mamba_expand"], 2)? * d_model / n_heads,
            _ => size(&["mamba_d_head", "mamba_head_dim"])?,
        };
        let n_groups = size_or(&["mamba_n_groups", "n_groups"], if nemotron { 8 } else { 1 })?;
        if n_heads % n_groups != 0 {
            let key = of(&["mamba_n_groups", "n_groups"]).unwrap_or_default();
            return Err(self.unsupported(key, "heads of a multiple of the groups"));
        }
        if d_ssm > 0 && d_ssm != n_heads * head_dim {
            let found = format!("there are {n_heads} heads of {head_dim}");
            return Err(self.raw.contradiction("mamba_d_ssm", d_ssm.to_string(), found));
        }
        let expands = d_ssm == 0 && self.raw.get("mamba_expand").is_some() && self.raw.get("mamba_d_head").is_some();
        if expands && self.size("mamba_expand")? * d_model != n_heads * head_dim {
            let found = format!("{n_heads} heads of {head_dim} are not so many times {d_model}");
            return Err(self.raw.contradiction("mamba_expand", self.size("mamba_expand")?.to_string(), found));
        }
        let limit = of(&["time_step_limit", "mamba_dt_limit"]).unwrap_or("time_step_limit");
        Ok(mamba2::Shape {
            n_heads,
            head_dim,
            d_state: size_or(&["mamba_d_state", "ssm_state_size"], if nemotron { 128 } else { 256 })?,
            n_groups,
            d_conv: size_or(&["mamba_d_conv", "conv_kernel"], 4)?,
            dt_limit: dt_limit(self.raw, limit)?,
            norm_eps,
            ..mamba2::Shape::of(d_model)
        })
    }

    pub fn plan(&self, blocks: Vec<Block>, norm_f: &'static str, norm_eps: f32) -> Result<Plan, LoadError> {
        let d_model = self.size("hidden_size")?;
        // The convolution's, which MLPs share but in Nemotron-H.
        let key = if self.family == Family::NemotronH { "mamba_hidden_act" } else { "hidden_act" };
        let mamba = blocks.iter().any(|block| matches!(block.shape, Shape::Mamba2(_)));
        if mamba && !matches!(self.raw.string(key)?, None | Some("silu" | "swish")) {
            return Err(self.unsupported(key, "the activation of Mamba's layers must be \"silu\""));
        }
        Ok(Plan { d_model, blocks, embedding: "embed_tokens.weight", norm_f, norm_eps, head_scale: 1.0 })
    }
}
