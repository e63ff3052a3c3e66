//! Models whose layers are of several kinds: a layer of theirs is one or two blocks here, each a norm, a mixer and a sum.
//!
//! Their sizes come from config.json, as tensors alone do not tell heads from channels; every tensor is checked against them.
//!
//! Multipliers are folded. What a mixer adds is scaled in its block (`out_scale`). The embedding's multiplier m would scale the whole
//! residual stream: it is left out, what is added to the stream is divided by m, and epsilon by m squared, which gives the same
//! normed values. The head's is in the final norm's weight ([`super::ModelConfig::head_scale`]).

use super::{Arch, RawConfig};
use crate::checkpoint::LoadError;
use crate::model::blocks::{attention, mamba2, mlp, Shape};
use crate::reference::{Activation, GatedNorm};
use reader::{Reader, MOST_LAYERS};
use serde_json::Value;

mod reader;

/// A block and the names of its tensors.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct Block {
    pub shape: Shape,
    /// Its norm's weight, in full.
    norm: String,
    /// What stands before the names of its mixer's tensors.
    mixer: String,
    /// What they are called otherwise than here.
    renamed: &'static [(&'static str, &'static str)],
}

impl Block {
    /// Whether a tensor is of this block's layer.
    pub fn is_of(&self, name: &str) -> bool {
        // "layers.3." of "layers.3.mamba."
        let end = self.mixer.trim_end_matches('.').rfind('.').map_or(0, |at| at + 1);
        name.starts_with(&self.mixer[..end])
    }

    /// The full name of a parameter.
    pub fn name(&self, param: &str) -> String {
        match param.strip_prefix("mixer.") {
            None => self.norm.clone(),
            Some(name) => {
                let renamed = self.renamed.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, theirs)| theirs);
                format!("{}{renamed}", self.mixer)
            }
        }
    }
}

/// A model as its config says it is.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct Plan {
    pub d_model: usize,
    pub blocks: Vec<Block>,
    pub embedding: &'static str,
    pub norm_f: &'static str,
    pub norm_eps: f32,
    pub head_scale: f32,
}

/// One of granite's fused matrices has the gate first.
const GRANITE_MLP: [(&str, &str); 2] =
    [("up_proj.weight", "input_linear.weight"), ("down_proj.weight", "output_linear.weight")];

pub(super) fn plan(arch: Arch, raw: &RawConfig) -> Result<Option<Plan>, LoadError> {
    Ok(Some(match arch {
        Arch::Mamba1 | Arch::FalconMamba | Arch::Mamba2 => return Ok(None),
        Arch::Llama => llama(raw)?,
        Arch::Granite => granite(raw)?,
        Arch::Bamba => bamba(raw)?,
        Arch::NemotronH => nemotron_h(raw)?,
        Arch::FalconH1 => falcon_h1(raw)?,
    }))
}

/// Llama and what differs from it in biases, norms of heads or a window: Mistral, Qwen 2 and 3.
fn llama(raw: &RawConfig) -> Result<Plan, LoadError> {
    let c = Reader(raw);
    let n_layer = c.layers()?;
    let model_type = raw.string("model_type")?.unwrap_or("llama");
    let qwen = matches!(model_type, "qwen2" | "qwen3");
    let window = match model_type {
        // Qwen's configs name a window that is not used.
        "qwen2" | "qwen3" if raw.flag("use_sliding_window")? != Some(true) => 0,
        "qwen2" | "qwen3" => c.size_or("sliding_window", 4096)?,
        // Only null says that there is none.
        "mistral" => c.size_or("sliding_window", if raw.says("sliding_window") { 0 } else { 4096 })?,
        _ => 0,
    };
    // The first layers of Qwen that see all, where layer_types does not say which do.
    let full = if qwen { c.size_or("max_window_layers", 28)? } else { 0 };
    let kinds = c.kinds(n_layer)?;
    let attention = c.attention(Some(1.0), None, if model_type == "qwen3" { 128 } else { 0 })?;
    let mlp = c.mlp("intermediate_size", false)?;
    let mut blocks = Vec::new();
    for i in 0..n_layer {
        let window = match kinds.as_ref().and_then(|kinds| kinds.get(i)).map(String::as_str) {
            None if i < full => 0,
            None | Some("sliding_attention") => window,
            Some("full_attention" | "attention") => 0,
            Some(_) => return Err(c.unsupported("layer_types", "layers of a kind that such models have not")),
        };
        let layer = format!("layers.{i}.");
        blocks.push(Block {
            shape: Shape::Attention(attention::Shape { window, ..attention }),
            norm: format!("{layer}input_layernorm.weight"),
            mixer: format!("{layer}self_attn."),
            renamed: &[],
        });
        blocks.push(Block {
            shape: Shape::Mlp(mlp),
            norm: format!("{layer}post_attention_layernorm.weight"),
            mixer: format!("{layer}mlp."),
            renamed: &[],
        });
    }
    c.plan(blocks, "norm.weight", c.number_or("rms_norm_eps", 1e-6)?)
}

/// Granite 4.0-H without experts (transformers' `granitemoehybrid`).
fn granite(raw: &RawConfig) -> Result<Plan, LoadError> {
    let c = Reader(raw);
    if c.size_or("num_local_experts", 8)? > 0 {
        return Err(c.unsupported("num_local_experts", "experts: only dense models are run so far"));
    }
    let n_layer = c.layers()?;
    let kinds = c.kinds(n_layer)?.unwrap_or_else(|| vec!["mamba".into(); n_layer]);
    let eps = c.number_or("rms_norm_eps", 1e-6)?;
    let multiplier = c.multiplier("embedding_multiplier")?;
    let out_scale = c.multiplier("residual_multiplier")? / multiplier;
    let rotated = match raw.string("position_embedding_type")? {
        Some("rope") => Some(1.0),
        _ => None,
    };
    let scale = c.multiplier("attention_multiplier")?;
    let attention = attention::Shape { out_scale, ..c.attention(rotated, Some(scale), 0)? };
    let mamba = mamba2::Shape { out_scale, ..c.mamba2(eps)? };
    let mlp = mlp::Shape { out_scale, ..c.mlp("shared_intermediate_size", true)? };
    let mut blocks = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let layer = format!("layers.{i}.");
        let norm = format!("{layer}input_layernorm.weight");
        blocks.push(c.mixer(kind, mamba, attention, norm, &layer)?);
        blocks.push(Block {
            shape: Shape::Mlp(mlp),
            norm: format!("{layer}post_attention_layernorm.weight"),
            mixer: format!("{layer}shared_mlp."),
            renamed: &GRANITE_MLP,
        });
    }
    let head_scale = 1.0 / c.multiplier("logits_scaling")?;
    Ok(Plan { head_scale, norm_eps: eps / (multiplier * multiplier), ..c.plan(blocks, "norm.weight", eps)? })
}

/// Bamba (IBM, Princeton, CMU, UIUC).
fn bamba(raw: &RawConfig) -> Result<Plan, LoadError> {
    let c = Reader(raw);
    let n_layer = c.layers()?;
    let eps = c.number_or("rms_norm_eps", 1e-5)?;
    let kinds = match c.kinds(n_layer)? {
        Some(kinds) => kinds,
        None => {
            let indices = raw.get("attn_layer_indices").and_then(Value::as_array);
            let attends = |i: usize| indices.is_some_and(|list| list.iter().any(|at| at.as_u64() == Some(i as u64)));
            let kind = |i: usize| if attends(i) { "attention" } else { "mamba" };
            (0..n_layer).map(|i| kind(i).to_owned()).collect()
        }
    };
    let attention = c.attention(Some(0.5), None, 0)?;
    let mamba = c.mamba2(eps)?;
    let mlp = c.mlp("intermediate_size", false)?;
    let mut blocks = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let layer = format!("layers.{i}.");
        blocks.push(c.mixer(kind, mamba, attention, format!("{layer}input_layernorm.weight"), &layer)?);
        blocks.push(Block {
            shape: Shape::Mlp(mlp),
            norm: format!("{layer}pre_ff_layernorm.weight"),
            mixer: format!("{layer}feed_forward."),
            renamed: &[],
        });
    }
    c.plan(blocks, "final_layernorm.weight", eps)
}

/// Falcon-H1: in every layer Mamba-2 and attention side by side, and an MLP.
fn falcon_h1(raw: &RawConfig) -> Result<Plan, LoadError> {
    let c = Reader(raw);
    let n_layer = c.layers()?;
    let eps = c.number_or("rms_norm_eps", 1e-5)?;
    let multiplier = c.multiplier("embedding_multiplier")?;
    let scaled = |key| Ok::<_, LoadError>(c.multiplier(key)? / multiplier);
    let heads = c.attention(Some(1.0), None, 0)?;
    let attention = attention::Shape {
        scale: heads.scale * c.multiplier("key_multiplier")?,
        in_scale: c.multiplier("attention_in_multiplier")?,
        out_scale: scaled("attention_out_multiplier")?,
        beside: true,
        ..heads
    };
    let normed = raw.flag("mamba_rms_norm")?.unwrap_or(false);
    let first = raw.flag("mamba_norm_before_gate")?.unwrap_or(true);
    let mamba = mamba2::Shape {
        norm: match (normed, first) {
            (false, _) => GatedNorm::GateOnly,
            (true, true) => GatedNorm::NormFirst,
            (true, false) => GatedNorm::GateFirst,
        },
        in_scale: c.multiplier("ssm_in_multiplier")?,
        out_scale: scaled("ssm_out_multiplier")?,
        multipliers: raw.get("ssm_multipliers").map(|_| c.multipliers("ssm_multipliers")).transpose()?,
        ..c.mamba2(eps)?
    };
    let [gate_scale, down] = c.multipliers("mlp_multipliers")?;
    let mlp = mlp::Shape { gate_scale, out_scale: down / multiplier, ..c.mlp("intermediate_size", false)? };
    let mut blocks = Vec::new();
    for i in 0..n_layer {
        let layer = format!("layers.{i}.");
        let block = |shape, norm: &str, mixer: &str| Block {
            shape,
            norm: format!("{layer}{norm}.weight"),
            mixer: format!("{layer}{mixer}."),
            renamed: &[],
        };
        blocks.push(block(Shape::Mamba2(mamba), "input_layernorm", "mamba"));
        blocks.push(block(Shape::Attention(attention), "input_layernorm", "self_attn"));
        blocks.push(block(Shape::Mlp(mlp), "pre_ff_layernorm", "feed_forward"));
    }
    let head_scale = c.multiplier("lm_head_multiplier")?;
    let plan = c.plan(blocks, "final_layernorm.weight", eps)?;
    Ok(Plan { head_scale, norm_eps: eps / (multiplier * multiplier), ..plan })
}

/// Nemotron-H without experts: every layer is one block.
fn nemotron_h(raw: &RawConfig) -> Result<Plan, LoadError> {
    let c = Reader(raw);
    let eps = c.number_or("layer_norm_epsilon", 1e-5)?;
    let list = c.strings("layers_block_type")?.or(c.strings("layer_types")?);
    let kinds: Vec<String> = match (list, raw.string("hybrid_override_pattern")?) {
        (Some(kinds), _) => kinds,
        (None, Some(pattern)) => pattern.chars().filter(|c| *c != '|').map(|c| c.to_string()).collect(),
        (None, None) => return Err(c.missing("hybrid_override_pattern", "it must say of which kinds the layers are")),
    };
    if kinds.is_empty() || kinds.len() > MOST_LAYERS {
        return Err(c.missing("hybrid_override_pattern", "it must name at least one layer and at most 4,096"));
    }
    let attention = c.attention(None, None, 128)?;
    // Whatever time_step_limit says, transformers has delta from time_step_min on, without an upper bound.
    let key = if raw.get("mamba_dt_min").is_some() { "mamba_dt_min" } else { "time_step_min" };
    let dt_limit = (c.number_or(key, 1e-3)?, f32::INFINITY);
    let mamba = mamba2::Shape { dt_limit, ..c.mamba2(eps)? };
    // transformers' class has squared ReLU where a config does not say.
    let mlp = mlp::Shape { gated: false, ..c.mlp("intermediate_size", false)? };
    let mlp = match raw.string("mlp_hidden_act")? {
        None => mlp::Shape { activation: Activation::Relu2, ..mlp },
        Some(_) => mlp,
    };
    let mut blocks = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let shape = match kind.as_str() {
            "M" | "mamba" | "mamba2" | "linear_attention" => Shape::Mamba2(mamba),
            "*" | "attention" | "full_attention" => Shape::Attention(attention),
            "-" | "mlp" => Shape::Mlp(mlp),
            _ => {
                let keys = ["layers_block_type", "layer_types", "hybrid_override_pattern"];
                let key = keys.into_iter().find(|key| raw.get(key).is_some()).unwrap_or(keys[2]);
                return Err(c.unsupported(key, "layers of experts, or of a kind that is not known here"));
            }
        };
        let (norm, mixer) = (format!("backbone.layers.{i}.norm.weight"), format!("backbone.layers.{i}.mixer."));
        blocks.push(Block { shape, norm, mixer, renamed: &[] });
    }
    let plan = c.plan(blocks, "backbone.norm_f.weight", eps)?;
    Ok(Plan { embedding: "backbone.embeddings.weight", ..plan })
}
