//! Models whose layers are of several kinds: a layer of theirs is one or two blocks here, each a norm, a mixer and a sum.
//!
//! Their sizes come from config.json, as tensors alone do not tell heads from channels; every tensor is checked against them.
//!
//! Multipliers are folded. What a mixer adds is scaled in its block (`out_scale`). The embedding's multiplier m would scale the whole
//! residual stream: it is left out, what is added to the stream is divided by m, and epsilon by m squared, which gives the same
//! normed values. The head's is in the final norm's weight ([`super::ModelConfig::head_scale`]).

use super::{Family, RawConfig};
use crate::checkpoint::LoadError;
use crate::model::blocks::{attention, mamba2, mlp, Shape};
use crate::reference::GatedNorm;
use reader::Reader;

mod experts;
mod optional;
mod reader;
mod rotation;

pub(super) use optional::check;
pub(in crate::checkpoint) use optional::Found;

/// A block and the names of its tensors.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct Block {
    pub shape: Shape,
    /// What all names of its layer's tensors begin with.
    layer: String,
    /// Its norm's weight, in full.
    norm: String,
    /// What stands before the names of its mixer's tensors.
    mixer: String,
    /// What they are called otherwise than here.
    renamed: &'static [(&'static str, &'static str)],
    /// Why there is this mixer in this layer, for the message where it is missing: empty where all layers have one.
    pub why: String,
}

impl Block {
    /// `layer` is what all names of its tensors begin with, `norm` and `mixer` what they go on with.
    fn new(shape: Shape, layer: &str, norm: &str, mixer: &str) -> Self {
        let (norm, mixer) = (format!("{layer}{norm}.weight"), format!("{layer}{mixer}."));
        Self { shape, layer: layer.to_owned(), norm, mixer, renamed: &[], why: String::new() }
    }

    /// Whether a tensor is of this block's layer.
    pub fn is_of(&self, name: &str) -> bool {
        name.starts_with(&self.layer)
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

/// Granite's experts, and what all tokens share, are in layers' own names.
const GRANITE_MOE: [(&str, &str); 5] = [
    ("router.weight", "block_sparse_moe.router.layer.weight"),
    ("experts.up_proj.weight", "block_sparse_moe.input_linear.weight"),
    ("experts.down_proj.weight", "block_sparse_moe.output_linear.weight"),
    ("shared.up_proj.weight", "shared_mlp.input_linear.weight"),
    ("shared.down_proj.weight", "shared_mlp.output_linear.weight"),
];

const NEMOTRON_MOE: [(&str, &str); 6] = [
    ("router.weight", "gate.weight"),
    ("router.bias", "gate.e_score_correction_bias"),
    ("latent_down.weight", "fc1_latent_proj.weight"),
    ("latent_up.weight", "fc2_latent_proj.weight"),
    ("shared.up_proj.weight", "shared_experts.up_proj.weight"),
    ("shared.down_proj.weight", "shared_experts.down_proj.weight"),
];

/// One of granite's fused matrices has the gate first.
const GRANITE_MLP: [(&str, &str); 2] =
    [("up_proj.weight", "input_linear.weight"), ("down_proj.weight", "output_linear.weight")];

pub(super) fn plan(family: Family, raw: &RawConfig) -> Result<Option<Plan>, LoadError> {
    let c = Reader { raw, family };
    Ok(Some(match family {
        Family::Mamba | Family::FalconMamba | Family::Mamba2 => return Ok(None),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama(&c)?,
        Family::Granite => granite(&c)?,
        Family::Bamba => bamba(&c)?,
        Family::NemotronH => nemotron_h(&c)?,
        Family::FalconH1 => falcon_h1(&c)?,
    }))
}

/// Llama and what differs from it in biases, norms of heads or a window: Mistral, Qwen 2 and 3.
fn llama(c: &Reader) -> Result<Plan, LoadError> {
    let n_layer = c.layers()?;
    let qwen = matches!(c.family, Family::Qwen2 | Family::Qwen3);
    let window = match c.family {
        // Qwen's configs name a window that is not used.
        _ if qwen && c.raw.flag("use_sliding_window")? != Some(true) => 0,
        // Only null says that there is none.
        Family::Mistral | Family::Qwen2 | Family::Qwen3 if !c.raw.says("sliding_window") => 4096,
        Family::Mistral | Family::Qwen2 | Family::Qwen3 => c.size_or("sliding_window", 0)?,
        _ => 0,
    };
    // The first layers of Qwen that see all, where layer_types does not say which do.
    let full = if qwen { c.size_or("max_window_layers", 28)? } else { 0 };
    let kinds = c.kinds(n_layer)?;
    let attention = c.attention(Some(1.0), None)?;
    let mlp = c.mlp("intermediate_size", false)?;
    let mut blocks = Vec::new();
    for i in 0..n_layer {
        let window = match kinds.as_ref().and_then(|kinds| kinds.get(i)).map(String::as_str) {
            None if i < full => 0,
            Some("sliding_attention") if qwen && window == 0 => {
                return Err(c.unsupported("layer_types", "it names sliding_attention, but no window is in use"));
            }
            None | Some("sliding_attention") => window,
            Some("full_attention" | "attention") => 0,
            Some(_) => return Err(c.unsupported("layer_types", "layers of a kind that such models have not")),
        };
        let layer = format!("layers.{i}.");
        let attention = Shape::Attention(attention::Shape { window, ..attention });
        blocks.push(Block::new(attention, &layer, "input_layernorm", "self_attn"));
        blocks.push(Block::new(Shape::Mlp(mlp), &layer, "post_attention_layernorm", "mlp"));
    }
    c.plan(blocks, "norm.weight", c.number_or("rms_norm_eps", 1e-6)?)
}

/// Granite 4.0-H (transformers' `granitemoehybrid`), with and without experts.
fn granite(c: &Reader) -> Result<Plan, LoadError> {
    let n_layer = c.layers()?;
    let kinds = c.kinds(n_layer)?.unwrap_or_else(|| vec!["mamba".into(); n_layer]);
    let eps = c.number_or("rms_norm_eps", 1e-6)?;
    let (multiplier, norm_eps) = c.embedding_multiplier(eps)?;
    let out_scale = c.folded("residual_multiplier", c.multiplier("residual_multiplier")? / multiplier)?;
    let rotated = match c.raw.string("position_embedding_type")? {
        Some("rope") => Some(1.0),
        _ => None,
    };
    let scale = c.multiplier("attention_multiplier")?;
    let attention = attention::Shape { out_scale, ..c.attention(rotated, Some(scale))? };
    let mamba = mamba2::Shape { out_scale, ..c.mamba2(eps)? };
    let mlp = mlp::Shape { out_scale, ..c.mlp("shared_intermediate_size", true)? };
    let moe = match c.size_or("num_local_experts", if c.raw.says("num_local_experts") { 0 } else { 8 })? {
        0 => None,
        experts => Some(c.granite_moe(experts, mlp)?),
    };
    let mut blocks = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let layer = format!("layers.{i}.");
        blocks.push(c.mixer(kind, mamba, attention, &layer)?);
        let norm = "post_attention_layernorm";
        blocks.push(match moe {
            Some(moe) => {
                let block = Block::new(Shape::Moe(moe), &layer, norm, "");
                Block { mixer: layer.clone(), renamed: &GRANITE_MOE, ..block }
            }
            None => Block { renamed: &GRANITE_MLP, ..Block::new(Shape::Mlp(mlp), &layer, norm, "shared_mlp") },
        });
    }
    let head_scale = c.folded("logits_scaling", 1.0 / c.multiplier("logits_scaling")?)?;
    Ok(Plan { head_scale, norm_eps, ..c.plan(blocks, "norm.weight", eps)? })
}

/// Bamba (IBM, Princeton, CMU, UIUC).
fn bamba(c: &Reader) -> Result<Plan, LoadError> {
    let n_layer = c.layers()?;
    let eps = c.number_or("rms_norm_eps", 1e-5)?;
    let kinds = match c.kinds(n_layer)? {
        Some(kinds) => kinds,
        None => {
            let attending = c.indices("attn_layer_indices", n_layer)?;
            let kind = |i: usize| if attending.contains(&i) { "attention" } else { "mamba" };
            (0..n_layer).map(|i| kind(i).to_owned()).collect()
        }
    };
    let attention = c.attention(Some(0.5), None)?;
    let mamba = c.mamba2(eps)?;
    let mlp = c.mlp("intermediate_size", false)?;
    let mut blocks = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let layer = format!("layers.{i}.");
        blocks.push(c.mixer(kind, mamba, attention, &layer)?);
        blocks.push(Block::new(Shape::Mlp(mlp), &layer, "pre_ff_layernorm", "feed_forward"));
    }
    c.plan(blocks, "final_layernorm.weight", eps)
}

/// Falcon-H1: in every layer Mamba-2 and attention side by side, and an MLP.
fn falcon_h1(c: &Reader) -> Result<Plan, LoadError> {
    let n_layer = c.layers()?;
    let eps = c.number_or("rms_norm_eps", 1e-5)?;
    let (multiplier, norm_eps) = c.embedding_multiplier(eps)?;
    let scaled = |key| c.folded(key, c.multiplier(key)? / multiplier);
    let heads = c.attention(Some(1.0), None)?;
    let attention = attention::Shape {
        scale: c.folded("key_multiplier", heads.scale * c.multiplier("key_multiplier")?)?,
        in_scale: c.multiplier("attention_in_multiplier")?,
        out_scale: scaled("attention_out_multiplier")?,
        beside: true,
        ..heads
    };
    // As the block multiplies with it: scores, values, and biases by its inverse.
    for product in [attention.attention().scale, attention.value_scale(), 1.0 / attention.in_scale] {
        c.folded("attention_in_multiplier", product)?;
    }
    let normed = c.flag_or("mamba_rms_norm", false)?;
    let first = c.flag_or("mamba_norm_before_gate", true)?;
    let mamba = mamba2::Shape {
        norm: match (normed, first) {
            (false, _) => GatedNorm::GateOnly,
            (true, true) => GatedNorm::NormFirst,
            (true, false) => GatedNorm::GateFirst,
        },
        in_scale: c.multiplier("ssm_in_multiplier")?,
        out_scale: scaled("ssm_out_multiplier")?,
        multipliers: c.raw.get("ssm_multipliers").map(|_| c.multipliers("ssm_multipliers")).transpose()?,
        ..c.mamba2(eps)?
    };
    c.folded("ssm_in_multiplier", 1.0 / mamba.in_scale)?;
    let [gate_scale, down] = c.multipliers("mlp_multipliers")?;
    let out_scale = c.folded("mlp_multipliers", down / multiplier)?;
    let mlp = mlp::Shape { gate_scale, out_scale, ..c.mlp("intermediate_size", false)? };
    let mut blocks = Vec::new();
    for i in 0..n_layer {
        let layer = format!("layers.{i}.");
        blocks.push(Block::new(Shape::Mamba2(mamba), &layer, "input_layernorm", "mamba"));
        blocks.push(Block::new(Shape::Attention(attention), &layer, "input_layernorm", "self_attn"));
        blocks.push(Block::new(Shape::Mlp(mlp), &layer, "pre_ff_layernorm", "feed_forward"));
    }
    let head_scale = c.multiplier("lm_head_multiplier")?;
    Ok(Plan { head_scale, norm_eps, ..c.plan(blocks, "final_layernorm.weight", eps)? })
}

/// Nemotron-H: every layer is one block.
fn nemotron_h(c: &Reader) -> Result<Plan, LoadError> {
    let eps = c.number_or("layer_norm_epsilon", 1e-5)?;
    let (key, kinds) = c.pattern()?;
    let attention = c.attention(None, None)?;
    // Whatever time_step_limit says, transformers has delta from time_step_min on, without an upper bound.
    let least = if c.raw.get("mamba_dt_min").is_some() { "mamba_dt_min" } else { "time_step_min" };
    let dt_limit = (c.number_or(least, 1e-3)?, f32::INFINITY);
    let mamba = mamba2::Shape { dt_limit, ..c.mamba2(eps)? };
    let mlp = mlp::Shape { gated: false, ..c.mlp("intermediate_size", false)? };
    let mut blocks = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let shape = match kind.as_str() {
            "M" | "mamba" | "mamba2" | "linear_attention" => Shape::Mamba2(mamba),
            "*" | "attention" | "full_attention" => Shape::Attention(attention),
            "-" | "mlp" => Shape::Mlp(mlp),
            "E" | "moe" => Shape::Moe(c.nemotron_moe(mlp)?),
            _ => return Err(c.unsupported(key, "layers of a kind that is not known here")),
        };
        let block = Block::new(shape, &format!("backbone.layers.{i}."), "norm", "mixer");
        let renamed: &[_] = if matches!(shape, Shape::Moe(_)) { &NEMOTRON_MOE } else { &[] };
        blocks.push(Block { why: c.why(key, &shape), renamed, ..block });
    }
    let plan = c.plan(blocks, "backbone.norm_f.weight", eps)?;
    Ok(Plan { embedding: "backbone.embeddings.weight", ..plan })
}
