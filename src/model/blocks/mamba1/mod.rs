//! Mamba (Gu and Dao 2023, arXiv 2312.00752, figure 3 and algorithm 2), with or without Falcon-Mamba's norms.
//!
//! ```text
//! residual --rms_norm--> hidden --in_proj--> xz --conv1d--> u --x_proj--> x_dbl --dt_proj, softplus--> delta
//!    ^                                        |z             |u             |B, C                        |
//!    +------------------ out_proj <-- y <-----+--- scan -----+--------------+----------------------------+
//! ```

pub(crate) mod alone;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub(crate) mod trained;

use super::parameters::{parameters, Init, Optional, Param, Required, Role};
use super::Field;
use crate::reference::{ConvShape, ExplainShape, ScanShape};
pub use trained::Trained;

/// Epsilon of Falcon-Mamba's norms inside the mixer, where a config says nothing.
pub(crate) const MIXER_RMS_EPS: f32 = 1e-6;

/// A layer's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the mixer (expand * d_model).
    pub d_inner: usize,
    /// State size N of a channel.
    pub d_state: usize,
    /// Taps of the causal convolution.
    pub d_conv: usize,
    /// Rank of the projection that gives delta.
    pub dt_rank: usize,
    /// Epsilon of the RMSNorms without weights on dt, B and C (Falcon-Mamba); `None`: there are none.
    pub mixer_rms_eps: Option<f32>,
}

parameters! { s;
    Required norm "norm.weight": ("(d_model)", [s.d_model]), Role::Other, Init::Constant(1.0);
    Required in_proj "mixer.in_proj.weight": ("(2 d_inner, d_model)", [2 * s.d_inner, s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional in_proj_bias "mixer.in_proj.bias": ("(2 d_inner)", [2 * s.d_inner]), Role::Other, Init::Uniform(0.02);
    Required conv1d "mixer.conv1d.weight": ("(d_inner, 1, d_conv)", [s.d_inner, 1, s.d_conv]),
        Role::Other, Init::Linear { inputs: s.d_conv };
    Optional conv1d_bias "mixer.conv1d.bias": ("(d_inner)", [s.d_inner]),
        Role::Other, Init::Linear { inputs: s.d_conv };
    Required x_proj "mixer.x_proj.weight": ("(dt_rank + 2 d_state, d_inner)", [s.x_dbl_width(), s.d_inner]),
        Role::Matrix, Init::Linear { inputs: s.d_inner };
    Required dt_proj "mixer.dt_proj.weight": ("(d_inner, dt_rank)", [s.d_inner, s.dt_rank]),
        Role::Exact, Init::Linear { inputs: s.dt_rank };
    Required dt_proj_bias "mixer.dt_proj.bias": ("(d_inner)", [s.d_inner]), Role::Other, Init::DtBias;
    Required a_log "mixer.A_log": ("(d_inner, d_state)", [s.d_inner, s.d_state]), Role::ALog, Init::ALog;
    Required d "mixer.D": ("(d_inner)", [s.d_inner]), Role::Other, Init::Constant(1.0);
    Required out_proj "mixer.out_proj.weight": ("(d_model, d_inner)", [s.d_model, s.d_inner]),
        Role::Matrix, Init::Output { inputs: s.d_inner };
    Optional out_proj_bias "mixer.out_proj.bias": ("(d_model)", [s.d_model]), Role::Other, Init::Uniform(0.02);
}

impl Shape {
    /// Of the usual proportions: expand 2, d_state 16, d_conv 4, dt_rank d_model / 16.
    pub fn of(d_model: usize) -> Self {
        let dt_rank = Self::usual_rank(d_model);
        Self { d_model, d_inner: 2 * d_model, d_state: 16, d_conv: 4, dt_rank, mixer_rms_eps: None }
    }

    pub(super) fn usual_rank(d_model: usize) -> usize {
        d_model.div_ceil(16)
    }

    /// What a config.json of transformers says of the layers.
    pub(super) fn config(&self) -> Vec<(&'static str, serde_json::Value)> {
        let mut config = vec![
            ("conv_kernel", self.d_conv.into()),
            ("intermediate_size", self.d_inner.into()),
            ("state_size", self.d_state.into()),
            ("time_step_rank", self.dt_rank.into()),
        ];
        // transformers knows no d_inner but a whole multiple of d_model.
        if self.d_inner.is_multiple_of(self.d_model.max(1)) {
            config.push(("expand", (self.d_inner / self.d_model.max(1)).into()));
        }
        config
    }

    /// Columns of x_dbl: dt, B and C.
    pub fn x_dbl_width(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    pub(crate) fn conv(&self, l: usize) -> ConvShape {
        let &Shape { d_inner, d_conv, .. } = self;
        ConvShape { l, d_inner, d_conv, x_stride: 2 * d_inner, x_offset: 0 }
    }

    pub(crate) fn scan(&self, l: usize) -> ScanShape {
        ScanShape::of_layer(l, self.d_inner, self.d_state, self.dt_rank)
    }

    pub(super) fn explained(&self, l: usize) -> ExplainShape {
        (&self.scan(l)).into()
    }

    pub(super) fn state(&self) -> Vec<Field> {
        vec![
            // The convolution's last inputs, oldest first.
            Field { name: "conv_state", shape: vec![self.d_conv, self.d_inner] },
            Field { name: "ssm_state", shape: vec![self.d_inner, self.d_state] },
        ]
    }

    pub(super) fn widest(&self) -> usize {
        (2 * self.d_inner).max(self.x_dbl_width())
    }

    pub(super) fn dimensions(&self) -> Vec<(&'static str, usize)> {
        let &Shape { d_inner, d_state, d_conv, dt_rank, .. } = self;
        vec![("d_inner", d_inner), ("d_state", d_state), ("d_conv", d_conv), ("dt_rank", dt_rank)]
    }
}
