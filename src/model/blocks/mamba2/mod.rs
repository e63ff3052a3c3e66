//! Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, section 7.1; mamba-ssm's `modules/mamba2.py`).
//!
//! ```text
//! residual --rms_norm--> hidden --in_proj--> z0 | x0 | z | x, B, C | dt
//!    ^                                         |     |   | conv1d    | + dt_bias, softplus, limits
//!    |                                         |     |   +-- SSD <---+
//!    +-- out_proj <-- [x0 silu(z0) | gated norm of y and z]
//! ```
//!
//! Most models have no z0 and x0: mamba-ssm's have them where d_ssm is less than d_inner.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod alone;
pub(crate) mod cpu;
pub(crate) mod gpu;

use super::parameters::{parameters, Init, Optional, Param, Required, Role};
use super::Field;
use crate::reference::{ConvShape, ExplainShape, GatedNorm, GatedShape, SsdShape};

/// A layer's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Heads H of the recurrence, each with a decay of its own.
    pub n_heads: usize,
    /// Channels P of a head.
    pub head_dim: usize,
    /// States N of a channel.
    pub d_state: usize,
    /// Groups G of heads that share B and C.
    pub n_groups: usize,
    /// Taps of the causal convolution.
    pub d_conv: usize,
    /// Width of the part that goes past the recurrence, x0 silu(z0): d_inner less d_ssm, 0 in most models.
    pub d_mlp: usize,
    /// Smallest and largest delta.
    pub dt_limit: (f32, f32),
    /// What happens to the recurrence's output and its gate z.
    pub norm: GatedNorm,
    /// Epsilon of that norm.
    pub norm_eps: f32,
    /// What its output is multiplied by before it is added to the residual stream.
    pub out_scale: f32,
    /// What in_proj's input is multiplied by.
    pub in_scale: f32,
    /// What z, x, B, C and dt are multiplied by as in_proj gives them; `in_scale` is not in it.
    pub multipliers: Option<[f32; 5]>,
    /// D is (d_ssm) instead of (n_heads).
    pub d_has_hdim: bool,
}

parameters! { s;
    Required norm "norm.weight": ("(d_model)", [s.d_model]), Role::Other, Init::Constant(1.0);
    Required in_proj "mixer.in_proj.weight":
        ("(2 d_mlp + 2 d_ssm + 2 n_groups d_state + n_heads, d_model)", [s.row(), s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional in_proj_bias "mixer.in_proj.bias": ("(rows of in_proj)", [s.row()]), Role::Other, Init::Uniform(0.02);
    Required conv1d "mixer.conv1d.weight": ("(d_ssm + 2 n_groups d_state, 1, d_conv)", [s.channels(), 1, s.d_conv]),
        Role::Other, Init::Linear { inputs: s.d_conv };
    Optional conv1d_bias "mixer.conv1d.bias": ("(d_ssm + 2 n_groups d_state)", [s.channels()]),
        Role::Other, Init::Linear { inputs: s.d_conv };
    Required dt_bias "mixer.dt_bias": ("(n_heads)", [s.n_heads]), Role::Other, Init::DtBias;
    Required a_log "mixer.A_log": ("(n_heads)", [s.n_heads]), Role::ALog, Init::UniformALog;
    Required d "mixer.D": ("(n_heads) or, with D_has_hdim, (d_ssm)", [if s.d_has_hdim { s.d_ssm() } else { s.n_heads }]),
        Role::Other, Init::Constant(1.0);
    Optional mixer_norm "mixer.norm.weight": ("(d_ssm)", [s.d_ssm()]), Role::Other, Init::Constant(1.0);
    Required out_proj "mixer.out_proj.weight": ("(d_model, d_mlp + d_ssm)", [s.d_model, s.d_inner()]),
        Role::Matrix, Init::Output { inputs: s.d_inner() };
    Optional out_proj_bias "mixer.out_proj.bias": ("(d_model)", [s.d_model]), Role::Other, Init::Uniform(0.02);
}

impl Shape {
    /// Of the published proportions: expand 2, d_state 128, head_dim 64, one group, d_conv 4.
    pub fn of(d_model: usize) -> Self {
        let (head_dim, norm_eps) = (64, 1e-5);
        Self {
            d_model,
            n_heads: 2 * d_model / head_dim,
            head_dim,
            d_state: 128,
            n_groups: 1,
            d_conv: 4,
            d_mlp: 0,
            dt_limit: (0.0, f32::INFINITY),
            norm: GatedNorm::GateFirst,
            norm_eps,
            out_scale: 1.0,
            in_scale: 1.0,
            multipliers: None,
            d_has_hdim: false,
        }
    }

    /// Width of the recurrence.
    pub fn d_ssm(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of what out_proj reads.
    pub fn d_inner(&self) -> usize {
        self.d_mlp + self.d_ssm()
    }

    /// Channels of the convolution: x, B and C.
    pub fn channels(&self) -> usize {
        self.d_ssm() + 2 * self.n_groups * self.d_state
    }

    /// Width of a row of in_proj's output: z0, x0, z, x, B, C, dt.
    pub fn row(&self) -> usize {
        2 * self.d_mlp + self.d_ssm() + self.channels() + self.n_heads
    }

    /// Column of a row where x, B and C begin.
    pub(crate) fn conv_offset(&self) -> usize {
        2 * self.d_mlp + self.d_ssm()
    }

    pub(crate) fn conv(&self, l: usize) -> ConvShape {
        ConvShape {
            l,
            d_inner: self.channels(),
            d_conv: self.d_conv,
            x_stride: self.row(),
            x_offset: self.conv_offset(),
        }
    }

    pub(crate) fn ssd(&self, l: usize) -> SsdShape {
        let dense = SsdShape::of_layer(l, (self.n_heads, self.head_dim), self.d_state, self.n_groups);
        SsdShape {
            zxbcdt_stride: self.row(),
            z_offset: 2 * self.d_mlp,
            dt_offset: self.row() - self.n_heads,
            dt_limit: self.dt_limit,
            d_has_hdim: self.d_has_hdim,
            ..dense
        }
    }

    pub(super) fn explained(&self, l: usize) -> ExplainShape {
        (&self.ssd(l)).into()
    }

    /// The gated norm from y (l, d_ssm) into the last columns of rows of d_inner.
    pub(crate) fn gated(&self, l: usize) -> GatedShape {
        let z = (self.row(), 2 * self.d_mlp);
        let dense = GatedShape::dense(l, self.d_ssm(), self.n_groups, z, self.norm_eps);
        GatedShape { out: (self.d_inner(), self.d_mlp), ..dense }
    }

    /// x0 silu(z0), both in a row, into the first columns of rows of d_inner; `None` where there are none.
    pub(crate) fn passed(&self, l: usize) -> Option<GatedShape> {
        let row = self.row();
        let dense = GatedShape::dense(l, self.d_mlp, 1, (row, 0), self.norm_eps);
        (self.d_mlp > 0).then_some(GatedShape { y: (row, self.d_mlp), out: (self.d_inner(), 0), ..dense })
    }

    pub(super) fn state(&self) -> Vec<Field> {
        vec![
            // The convolution's last inputs, oldest first.
            Field { name: "conv_state", shape: vec![self.d_conv, self.channels()] },
            Field { name: "ssm_state", shape: vec![self.n_heads, self.head_dim, self.d_state] },
        ]
    }

    pub(super) fn widest(&self) -> usize {
        self.row().max(self.d_inner())
    }

    pub(super) fn dimensions(&self) -> Vec<(&'static str, usize)> {
        let &Shape { n_heads, head_dim, d_state, n_groups, d_conv, .. } = self;
        vec![
            ("d_inner", self.d_inner()),
            ("d_ssm", self.d_ssm()),
            ("n_heads", n_heads),
            ("head_dim", head_dim),
            ("d_state", d_state),
            ("n_groups", n_groups),
            ("d_conv", d_conv),
        ]
    }

    pub(super) fn options(&self) -> Vec<(&'static str, serde_json::Value)> {
        let (low, high) = self.dt_limit;
        let high = if high == f32::INFINITY { "Infinity".into() } else { short(high) };
        let norm = match self.norm {
            GatedNorm::GateFirst => "gate first",
            GatedNorm::NormFirst => "norm first",
            GatedNorm::GateOnly => "none",
        };
        vec![
            ("dt_limit", serde_json::json!([short(low), high])),
            ("gated_norm", norm.into()),
            ("D_has_hdim", self.d_has_hdim.into()),
        ]
    }

    pub(super) fn constants(&self) -> Vec<f32> {
        let norm = match self.norm {
            GatedNorm::GateFirst => 0.0,
            GatedNorm::NormFirst => 1.0,
            GatedNorm::GateOnly => 2.0,
        };
        let mut all = vec![self.dt_limit.0, self.dt_limit.1, norm, self.norm_eps];
        // Models from before there were such keep their fingerprints.
        if self.out_scale != 1.0 {
            all.push(self.out_scale);
        }
        if let Some(columns) = self.columns() {
            all.push(self.in_scale);
            all.extend(columns);
        }
        all
    }

    /// What a stored parameter is multiplied by as backends hold it: out_proj is linear in its norm's weight.
    pub(super) fn factor(&self, name: &str) -> f32 {
        match name {
            "mixer.norm.weight" | "mixer.out_proj.bias" => self.out_scale,
            // All of in_proj's output is multiplied by `in_scale`, this too.
            "mixer.in_proj.bias" => 1.0 / self.in_scale,
            _ => 1.0,
        }
    }

    /// What each column of in_proj's output is multiplied by, of a model that has such multipliers.
    pub(super) fn columns(&self) -> Option<Vec<f32>> {
        let [z, x, b, c, dt] = match self.multipliers {
            None if self.in_scale == 1.0 => return None,
            multipliers => multipliers.unwrap_or([1.0; 5]).map(|multiplier| multiplier * self.in_scale),
        };
        let states = self.n_groups * self.d_state;
        let pieces = [
            (2 * self.d_mlp, self.in_scale),
            (self.d_ssm(), z),
            (self.d_ssm(), x),
            (states, b),
            (states, c),
            (self.n_heads, dt),
        ];
        Some(pieces.into_iter().flat_map(|(n, by)| std::iter::repeat_n(by, n)).collect())
    }

    /// Weights of the gated norm where a model has none and its output is scaled.
    pub(super) fn gate_weight(&self) -> Option<Vec<f32>> {
        let scaled = self.norm == GatedNorm::GateOnly && self.out_scale != 1.0;
        scaled.then(|| vec![self.out_scale; self.d_ssm()])
    }

    /// What a config.json of transformers says of the layers, as far as it can: it knows neither d_mlp nor other norms.
    pub(super) fn config(&self) -> Vec<(&'static str, serde_json::Value)> {
        let infinite = self.dt_limit.1 == f32::INFINITY;
        let largest = if infinite { serde_json::json!({ "__float__": "Infinity" }) } else { self.dt_limit.1.into() };
        let mut config = vec![
            ("conv_kernel", self.d_conv.into()),
            ("state_size", self.d_state.into()),
            ("num_heads", self.n_heads.into()),
            ("head_dim", self.head_dim.into()),
            ("n_groups", self.n_groups.into()),
            ("time_step_limit", serde_json::json!([self.dt_limit.0, largest])),
        ];
        if self.d_inner().is_multiple_of(self.d_model.max(1)) {
            config.push(("expand", (self.d_inner() / self.d_model.max(1)).into()));
        }
        config
    }
}

/// An f32 as JSON, with as few digits as tell it from others.
fn short(x: f32) -> serde_json::Value {
    serde_json::from_str(&x.to_string()).unwrap_or_default()
}
