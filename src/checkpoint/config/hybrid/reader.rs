//! A config's keys as the families of hybrids have them.

use super::{Block, Plan};
use crate::checkpoint::config::{mamba2::dt_limit, shown, RawConfig};
use crate::checkpoint::LoadError;
use crate::model::blocks::attention::{self, Rope, RopeScaling};
use crate::model::blocks::{mamba2, mlp, Shape};
use crate::reference::Activation;
use serde_json::Value;

/// Beyond, a config is damaged rather than of a model.
const MOST: u64 = 1 << 24;
pub(super) const MOST_LAYERS: usize = 4096;

/// What several families say in the same words.
pub(super) struct Reader<'a>(pub &'a RawConfig);

impl Reader<'_> {
    pub fn missing(&self, key: &str, expected: &'static str) -> LoadError {
        let (file, key) = (self.0.file.clone(), key.into());
        LoadError::ConfigValue { file, key, value: "absent".into(), expected }
    }

    pub fn unsupported(&self, key: &str, reason: &'static str) -> LoadError {
        let value = self.0.get(key).map_or_else(|| "absent".into(), shown);
        LoadError::UnsupportedOption { file: self.0.file.clone(), key: key.into(), value, reason }
    }

    /// A number of things that there is at least one of.
    pub fn size(&self, key: &'static str) -> Result<usize, LoadError> {
        match self.size_or(key, 0)? {
            0 if self.0.get(key).is_none() => Err(self.missing(key, "it must be a whole number above 0")),
            0 => Err(self.0.bad_value(key, &Value::from(0), "it must be above 0")),
            size => Ok(size),
        }
    }

    pub fn size_or(&self, key: &str, default: usize) -> Result<usize, LoadError> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        match value.as_u64().filter(|n| *n <= MOST) {
            Some(n) => Ok(n as usize),
            None => Err(self.0.bad_value(key, value, "it must be a whole number below 16,777,217")),
        }
    }

    pub fn number_or(&self, key: &str, default: f32) -> Result<f32, LoadError> {
        self.0.epsilon(key, default)
    }

    /// A factor, 1 where none is said.
    pub fn multiplier(&self, key: &str) -> Result<f32, LoadError> {
        let Some(value) = self.0.get(key) else { return Ok(1.0) };
        match value.as_f64().map(|x| x as f32) {
            Some(x) if x.is_normal() => Ok(x),
            _ => Err(self.0.bad_value(key, value, "it must be a finite number other than 0")),
        }
    }

    /// So many factors, 1 where none are said.
    pub fn multipliers<const N: usize>(&self, key: &str) -> Result<[f32; N], LoadError> {
        let Some(value) = self.0.get(key) else { return Ok([1.0; N]) };
        let number = |v: &Value| v.as_f64().map(|x| x as f32).filter(|x| x.is_normal());
        let list: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(number).collect());
        let wrong =
            || self.0.bad_value(key, value, "it must be a list of finite numbers other than 0, one for each piece");
        list.and_then(|list| list.try_into().ok()).ok_or_else(wrong)
    }

    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, LoadError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        list.map(Some).ok_or_else(|| self.0.bad_value(key, value, "it must be a list of strings"))
    }

    pub fn layers(&self) -> Result<usize, LoadError> {
        match self.size("num_hidden_layers")? {
            n if n > MOST_LAYERS => Err(self.0.bad_value("num_hidden_layers", &n.into(), "it must be at most 4,096")),
            n => Ok(n),
        }
    }

    /// Of which kind each layer is, by the old names of the hub or by those of transformers 5.
    pub fn kinds(&self, n_layer: usize) -> Result<Option<Vec<String>>, LoadError> {
        let Some(kinds) = self.strings("layer_types")?.or(self.strings("layers_block_type")?) else { return Ok(None) };
        if kinds.len() != n_layer {
            let found = format!("`layer_types` names {}", kinds.len());
            let (file, key) = (self.0.file.clone(), "num_hidden_layers".into());
            return Err(LoadError::Contradiction { file, key, value: n_layer.to_string(), found });
        }
        Ok(Some(kinds))
    }

    /// Mamba-2 or attention, whichever a layer's kind is.
    pub fn mixer(
        &self,
        kind: &str,
        mamba: mamba2::Shape,
        attention: attention::Shape,
        norm: String,
        layer: &str,
    ) -> Result<Block, LoadError> {
        Ok(match kind {
            "mamba" | "linear_attention" => {
                Block { shape: Shape::Mamba2(mamba), norm, mixer: format!("{layer}mamba."), renamed: &[] }
            }
            "attention" | "full_attention" => {
                Block { shape: Shape::Attention(attention), norm, mixer: format!("{layer}self_attn."), renamed: &[] }
            }
            _ => return Err(self.unsupported("layer_types", "layers of a kind that such models have not")),
        })
    }

    /// `rotated`: which part of a head is, where the config does not say; `None`: positions are not told at all. `scale`: the softmax's,
    /// where it is not 1 / sqrt(head_dim).
    /// `head_dim`: where the config does not say; 0: d_model / heads.
    pub fn attention(
        &self,
        rotated: Option<f64>,
        scale: Option<f32>,
        head_dim: usize,
    ) -> Result<attention::Shape, LoadError> {
        let (d_model, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        // Only null says that there are as many as of queries, in the classes of these families.
        let eight = matches!(self.0.string("model_type")?, Some("bamba" | "nemotron_h" | "falcon_h1"));
        let absent = if eight && !self.0.says("num_key_value_heads") { 8 } else { heads };
        let kv_heads = self.size_or("num_key_value_heads", absent)?;
        let head_dim = match self.size_or("head_dim", if self.0.says("head_dim") { 0 } else { head_dim })? {
            0 => d_model / heads,
            head_dim => head_dim,
        };
        let file = || self.0.file.clone();
        if kv_heads == 0 || heads % kv_heads != 0 {
            let found = format!("there are {heads} heads of queries, which is no multiple of it");
            let (key, value) = ("num_key_value_heads".into(), kv_heads.to_string());
            return Err(LoadError::Contradiction { file: file(), key, value, found });
        }
        if head_dim == 0 || head_dim > 256 {
            let (key, value, reason) = ("head_dim".into(), head_dim.to_string(), "heads have 256 channels at most");
            return Err(LoadError::UnsupportedOption { file: file(), key, value, reason });
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

    /// transformers 5 has all of it in `rope_parameters`, configs before it in `rope_theta` and `rope_scaling`.
    fn rope(&self, part: f64, head_dim: usize) -> Result<Rope, LoadError> {
        let object = if self.0.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
        if self.0.object(object)?.is_some_and(|o| o.values().any(Value::is_object)) {
            return Err(self.unsupported(object, "rotations that differ from layer to layer"));
        }
        let number = |key: &str| -> Result<Option<f64>, LoadError> {
            let full = format!("{object}.{key}");
            let Some((key, value)) = [full.as_str(), key].iter().find_map(|k| Some((*k, self.0.get(k)?))) else {
                return Ok(None);
            };
            let valid = value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
            valid.map(Some).ok_or_else(|| self.0.bad_value(key, value, "it must be a finite number above 0"))
        };
        let needed = |key: &str| {
            let missing = || self.missing(&format!("{object}.{key}"), "it must be a finite number above 0");
            number(key)?.ok_or_else(missing)
        };
        let bamba = self.0.string("model_type")? == Some("bamba");
        let part = match number("partial_rotary_factor")? {
            // transformers sets it whatever the config says outside that object.
            Some(_) if bamba && self.0.get(&format!("{object}.partial_rotary_factor")).is_none() => part,
            stated => stated.unwrap_or(part),
        };
        let dims = (head_dim as f64 * part) as usize;
        if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
            let reason = "an even number of a head's channels is rotated, and not more than it has";
            let (file, value) = (self.0.file.clone(), format!("{head_dim}, of which {part} is rotated"));
            return Err(LoadError::UnsupportedOption { file, key: "head_dim".into(), value, reason });
        }
        let key = format!("{object}.rope_type");
        let old = format!("{object}.type");
        let kind = match self.0.string(&key)? {
            Some(kind) => kind,
            None => self.0.string(&old)?.unwrap_or("default"),
        };
        let original = || match number("original_max_position_embeddings")? {
            Some(original) => Ok(original),
            None => needed("max_position_embeddings"),
        };
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: needed("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                original: original()?,
            },
            "yarn" => {
                let factor = needed("factor")?;
                let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let attention = match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
                    (Some(attention), ..) => attention,
                    (None, Some(some), Some(all)) => mscale(some) / mscale(all),
                    _ => mscale(1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    fast: number("beta_fast")?.unwrap_or(32.0),
                    slow: number("beta_slow")?.unwrap_or(1.0),
                    original: original()?,
                    attention,
                    truncate: self.0.flag(&format!("{object}.truncate"))?.unwrap_or(true),
                }
            }
            _ => return Err(self.unsupported(&key, "rotations of a kind that is not known here")),
        };
        Ok(Rope { theta: number("rope_theta")?.unwrap_or(10000.0), dims, scaling })
    }

    /// SwiGLU, or what `hidden_act` (Nemotron-H's `mlp_hidden_act`) names.
    pub fn mlp(&self, width: &'static str, fused: bool) -> Result<mlp::Shape, LoadError> {
        let key = if self.0.get("mlp_hidden_act").is_some() { "mlp_hidden_act" } else { "hidden_act" };
        let activation = match self.0.string(key)? {
            None | Some("silu" | "swish") => Activation::Silu,
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
        let of = |keys: &[&'static str]| keys.iter().find(|key| self.0.get(key).is_some()).copied();
        let size = |keys: &[&'static str]| self.size(of(keys).unwrap_or(keys[0]));
        let size_or = |keys: &[&'static str], default: usize| of(keys).map_or(Ok(default), |key| self.size(key));
        let nemotron = self.0.string("model_type")? == Some("nemotron_h");
        let d_model = self.size("hidden_size")?;
        let n_heads = size(&["mamba_n_heads", "mamba_num_heads"])?;
        // Falcon-H1's width is stated by itself, whatever the expansion; only null says that it is not.
        let falcon = self.0.string("model_type")? == Some("falcon_h1");
        let d_ssm = match self.0.says("mamba_d_ssm") {
            true => self.size_or("mamba_d_ssm", 0)?,
            false if falcon => 1024,
            false => 0,
        };
        let head_dim = match self.0.get("mamba_d_head").and_then(Value::as_str) {
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
            let (key, value) = ("mamba_d_ssm".into(), d_ssm.to_string());
            return Err(LoadError::Contradiction { file: self.0.file.clone(), key, value, found });
        }
        let expands = d_ssm == 0 && self.0.get("mamba_expand").is_some() && self.0.get("mamba_d_head").is_some();
        if expands && self.size("mamba_expand")? * d_model != n_heads * head_dim {
            let found = format!("{n_heads} heads of {head_dim} are not so many times {d_model}");
            let (key, value) = ("mamba_expand".into(), self.size("mamba_expand")?.to_string());
            return Err(LoadError::Contradiction { file: self.0.file.clone(), key, value, found });
        }
        let limit = of(&["time_step_limit", "mamba_dt_limit"]).unwrap_or("time_step_limit");
        Ok(mamba2::Shape {
            n_heads,
            head_dim,
            d_state: size_or(&["mamba_d_state", "ssm_state_size"], if nemotron { 128 } else { 256 })?,
            n_groups,
            d_conv: size_or(&["mamba_d_conv", "conv_kernel"], 4)?,
            dt_limit: dt_limit(self.0, limit)?,
            norm_eps,
            ..mamba2::Shape::of(d_model)
        })
    }

    pub fn plan(&self, blocks: Vec<Block>, norm_f: &'static str, norm_eps: f32) -> Result<Plan, LoadError> {
        let d_model = self.size("hidden_size")?;
        Ok(Plan { d_model, blocks, embedding: "embed_tokens.weight", norm_f, norm_eps, head_scale: 1.0 })
    }
}
