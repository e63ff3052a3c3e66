//! Attention (Vaswani et al. 2017, arXiv 1706.03762) with grouped queries (Ainslie et al. 2023, arXiv 2305.13245), causal, and rotary
//! positions (Su et al. 2021, arXiv 2104.09864) over a whole head, a part of it or none.
//!
//! ```text
//! residual --rms_norm--> hidden --q_proj, k_proj, v_proj--> q | k | v
//!    ^                                     rms_norm a head? |   |   |
//!    |                                             rotation v   v   v
//!    +-- o_proj <-- softmax(scale q k^T) v <--------------- q   pages of the text
//! ```

pub(crate) mod cpu;
pub(crate) mod gpu;
mod rope;

use super::parameters::{parameters, Init, Optional, Param, Required, Role};
use crate::reference::AttentionShape;
pub use rope::{Rope, RopeScaling};

/// A layer's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, each for heads / kv_heads queries.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
    /// Tokens that a query sees, itself included; 0: all before it.
    pub window: usize,
    /// How queries and keys are rotated; `None`: not at all.
    pub rope: Option<Rope>,
    /// Epsilon of the norms of queries and keys, where a model has them.
    pub norm_eps: f32,
    /// What its output is multiplied by before it is added to the residual stream.
    pub out_scale: f32,
    /// What the input of q_proj, k_proj and v_proj is multiplied by.
    pub in_scale: f32,
    /// It reads what the block before it reads, through that one's norm, and adds to what that one adds: both stand side by side.
    pub beside: bool,
}

parameters! { s;
    Optional norm "norm.weight": ("(d_model)", [s.d_model]), Role::Other, Init::Constant(1.0);
    Required q_proj "mixer.q_proj.weight": ("(heads head_dim, d_model)", [s.d_q(), s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional q_proj_bias "mixer.q_proj.bias": ("(heads head_dim)", [s.d_q()]), Role::Other, Init::Uniform(0.02);
    Required k_proj "mixer.k_proj.weight": ("(kv_heads head_dim, d_model)", [s.d_kv(), s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional k_proj_bias "mixer.k_proj.bias": ("(kv_heads head_dim)", [s.d_kv()]), Role::Other, Init::Uniform(0.02);
    Required v_proj "mixer.v_proj.weight": ("(kv_heads head_dim, d_model)", [s.d_kv(), s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional v_proj_bias "mixer.v_proj.bias": ("(kv_heads head_dim)", [s.d_kv()]), Role::Other, Init::Uniform(0.02);
    Optional q_norm "mixer.q_norm.weight": ("(head_dim)", [s.head_dim]), Role::Other, Init::Constant(1.0);
    Optional k_norm "mixer.k_norm.weight": ("(head_dim)", [s.head_dim]), Role::Other, Init::Constant(1.0);
    Required o_proj "mixer.o_proj.weight": ("(d_model, heads head_dim)", [s.d_model, s.d_q()]),
        Role::Matrix, Init::Output { inputs: s.d_q() };
    Optional o_proj_bias "mixer.o_proj.bias": ("(d_model)", [s.d_model]), Role::Other, Init::Uniform(0.02);
}

impl Shape {
    /// Width of all queries.
    pub fn d_q(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all keys, and of all values.
    pub fn d_kv(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of queries, keys and values side by side.
    pub(super) fn d_qkv(&self) -> usize {
        self.d_q() + 2 * self.d_kv()
    }

    pub(crate) fn attention(&self) -> AttentionShape {
        let &Shape { heads, kv_heads, head_dim, window, .. } = self;
        // Queries and keys are without `in_scale`, values have it (`value_scale`).
        let scale = self.scale * self.in_scale * self.in_scale;
        AttentionShape { heads, kv_heads, head_dim, scale, window }
    }

    pub(super) fn widest(&self) -> usize {
        self.d_qkv()
    }

    pub(super) fn dimensions(&self) -> Vec<(&'static str, usize)> {
        vec![("heads", self.heads), ("kv_heads", self.kv_heads), ("head_dim", self.head_dim), ("window", self.window)]
    }

    pub(super) fn constants(&self) -> Vec<f32> {
        let mut all = vec![self.scale, self.norm_eps, self.out_scale, self.in_scale, f32::from(self.beside)];
        all.extend(self.rope.iter().flat_map(|rope| rope.frequencies().into_iter().chain([rope.factor()])));
        all
    }

    /// What a stored parameter is multiplied by as backends hold it.
    pub(super) fn factor(&self, name: &str) -> f32 {
        match name {
            "mixer.o_proj.bias" => self.out_scale,
            "mixer.q_proj.bias" | "mixer.k_proj.bias" | "mixer.v_proj.bias" => 1.0 / self.in_scale,
            _ => 1.0,
        }
    }

    /// What values are multiplied by before they are kept: what comes of them is linear in them.
    pub(crate) fn value_scale(&self) -> f32 {
        self.in_scale * self.out_scale
    }
}
