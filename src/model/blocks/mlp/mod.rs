//! The feed-forward layer: SwiGLU and GeGLU (Shazeer 2020, arXiv 2002.05202) with two matrices or one fused, squared ReLU (So et al.
//! 2021, arXiv 2109.08668) and GELU.
//!
//! ```text
//! residual --rms_norm--> hidden --gate_proj, up_proj--> gate | up
//!    ^                                                    |     |
//!    +-- down_proj <------------------- silu(gate) up <---+-----+
//! ```

pub(crate) mod cpu;
pub(crate) mod gpu;

use super::parameters::{parameters, Init, Optional, Param, Required, Role};
use crate::reference::{ActivateShape, Activation};

/// A layer's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width between the matrices.
    pub d_ff: usize,
    pub activation: Activation,
    /// activation(gate) up, not activation(up).
    pub gated: bool,
    /// Gate and up lie in one matrix, `up_proj`, the gate first; only where there is a gate.
    pub fused: bool,
    /// What the gate is multiplied by before its activation.
    pub gate_scale: f32,
    /// What the output is multiplied by before it is added to the residual stream.
    pub out_scale: f32,
}

parameters! { s;
    Required norm "norm.weight": ("(d_model)", [s.d_model]), Role::Other, Init::Constant(1.0);
    Optional gate_proj "mixer.gate_proj.weight": ("(d_ff, d_model)", [s.d_ff, s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional gate_proj_bias "mixer.gate_proj.bias": ("(d_ff)", [s.d_ff]), Role::Other, Init::Uniform(0.02);
    Required up_proj "mixer.up_proj.weight": ("(d_ff or, with the gate in it, 2 d_ff, d_model)", [s.d_up(), s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional up_proj_bias "mixer.up_proj.bias": ("(rows of up_proj)", [s.d_up()]), Role::Other, Init::Uniform(0.02);
    Required down_proj "mixer.down_proj.weight": ("(d_model, d_ff)", [s.d_model, s.d_ff]),
        Role::Matrix, Init::Output { inputs: s.d_ff };
    Optional down_proj_bias "mixer.down_proj.bias": ("(d_model)", [s.d_model]), Role::Other, Init::Uniform(0.02);
}

impl Shape {
    /// Rows of up_proj.
    pub fn d_up(&self) -> usize {
        if self.fused {
            2 * self.d_ff
        } else {
            self.d_ff
        }
    }

    /// Whether the gate has a matrix of its own.
    pub(super) fn has_gate_proj(&self) -> bool {
        self.gated && !self.fused
    }

    pub(crate) fn activate(&self, l: usize) -> ActivateShape {
        let d_ff = self.d_ff;
        let (x, gate) = if self.fused { ((2 * d_ff, d_ff), (2 * d_ff, 0)) } else { ((d_ff, 0), (d_ff, 0)) };
        ActivateShape { l, width: d_ff, x, gate, gate_scale: self.gate_scale, scale: self.out_scale }
    }

    pub(super) fn widest(&self) -> usize {
        Self { fused: self.gated, ..*self }.d_up()
    }

    pub(super) fn dimensions(&self) -> Vec<(&'static str, usize)> {
        vec![("d_ff", self.d_ff)]
    }

    pub(super) fn constants(&self) -> Vec<f32> {
        vec![self.activation as u32 as f32, f32::from(self.gated), self.gate_scale, self.out_scale]
    }

    /// What a stored parameter is multiplied by as backends hold it.
    pub(super) fn factor(&self, name: &str) -> f32 {
        if name == "mixer.down_proj.bias" {
            self.out_scale
        } else {
            1.0
        }
    }
}
