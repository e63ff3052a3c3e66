//! A mixture of experts (Shazeer et al. 2017, arXiv 1701.06538): feed-forward layers of which a router gives each token to a few, beside
//! one that all tokens share (DeepSeekMoE, arXiv 2401.06066), where there is one.
//!
//! ```text
//! residual --rms_norm--> hidden --router--> which experts, by which weights
//!    ^                     |---[latent_down]--> experts --sum by weight--[latent_up]--+
//!    |                     +--> shared expert --------------------------------------->+
//!    +------------------------------------------------------------------------------- +
//! ```

pub(crate) mod cpu;
pub(crate) mod gpu;

use super::parameters::{parameters, Each, Init, Optional, Param, Required, Role};
use crate::reference::{ActivateShape, Activation, Gating, Router};

/// How a file holds the experts' matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Those of all experts in one tensor, (experts, rows, columns); gates and what they are for in one matrix, gates first.
    Together,
    /// A tensor for each; of experts with a gate two for what stands before the activation.
    Each,
}

/// A layer's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Which experts a token is given to. Its scale is without `out_scale`.
    pub router: Router,
    /// Width between an expert's matrices.
    pub d_ff: usize,
    /// The same of the shared expert; 0: there is none.
    pub d_shared: usize,
    /// Width of what experts read and write, where it is not d_model: a projection down stands before and one up after them.
    pub d_latent: Option<usize>,
    pub activation: Activation,
    /// activation(gate) up, not activation(up).
    pub gated: bool,
    pub stored: Stored,
    /// What the output is multiplied by before it is added to the residual stream.
    pub out_scale: f32,
}

parameters! { s;
    Required norm "norm.weight": ("(d_model)", [s.d_model]), Role::Other, Init::Constant(1.0);
    Required router "mixer.router.weight": ("(experts, d_model)", [s.router.experts, s.d_model]),
        Role::Exact, Init::Linear { inputs: s.d_model };
    Optional correction "mixer.router.bias": ("(experts)", [s.router.experts]), Role::Other, Init::Uniform(0.02);
    Optional latent_down "mixer.latent_down.weight": ("(d_latent, d_model)", [s.d_in(), s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Each up "mixer.experts.up_proj.weight": ("(rows of an expert or, in one tensor, of all, d_model or d_latent)",
        [s.stored_rows(s.stored_up()), s.d_in()]), Role::Matrix, Init::Linear { inputs: s.d_in() };
    Each down "mixer.experts.down_proj.weight": ("(d_model or d_latent, in one tensor that of all experts, d_ff)",
        [s.stored_rows(s.d_in()), s.d_ff]), Role::Matrix, Init::Output { inputs: s.d_ff };
    Optional latent_up "mixer.latent_up.weight": ("(d_model, d_latent)", [s.d_model, s.d_in()]),
        Role::Matrix, Init::Output { inputs: s.d_in() };
    Optional shared_up "mixer.shared.up_proj.weight":
        ("(d_shared or, with gates, 2 d_shared, d_model)", [s.sides() * s.d_shared, s.d_model]),
        Role::Matrix, Init::Linear { inputs: s.d_model };
    Optional shared_down "mixer.shared.down_proj.weight": ("(d_model, d_shared)", [s.d_model, s.d_shared]),
        Role::Matrix, Init::Output { inputs: s.d_shared };
}

impl Shape {
    /// What an expert reads and writes.
    pub fn d_in(&self) -> usize {
        self.d_latent.unwrap_or(self.d_model)
    }

    fn sides(&self) -> usize {
        1 + usize::from(self.gated)
    }

    /// Rows of an expert's first matrix, gates among them.
    pub fn d_up(&self) -> usize {
        self.sides() * self.d_ff
    }

    /// Rows of what a file holds of that, for one expert.
    fn stored_up(&self) -> usize {
        if self.stored == Stored::Each {
            self.d_ff
        } else {
            self.d_up()
        }
    }

    fn stored_rows(&self, rows: usize) -> usize {
        if self.stored == Stored::Each {
            rows
        } else {
            self.router.experts * rows
        }
    }

    /// What the tensors of experts are called, in the order in which their rows lie behind each other.
    fn each(&self, name: &'static str) -> Vec<String> {
        match name.strip_prefix("mixer.experts.") {
            Some(part) if self.stored == Stored::Each => {
                let gate = (self.gated && part == "up_proj.weight").then_some("gate_proj.weight");
                let parts = move |e| gate.into_iter().chain([part]).map(move |p| format!("mixer.experts.{e}.{p}"));
                (0..self.router.experts).flat_map(parts).collect()
            }
            _ => vec![name.to_owned()],
        }
    }

    /// Rows of the experts' matrices that are one expert's; `None` of other parameters.
    pub(super) fn expert_rows(&self, name: &str) -> Option<usize> {
        let part = name.strip_prefix("mixer.experts.")?;
        Some(if part.ends_with("down_proj.weight") { self.d_in() } else { self.d_up() })
    }

    /// Whether there is a parameter that others may lack.
    pub(super) fn needs(&self, name: &str) -> bool {
        match name {
            "mixer.router.bias" => matches!(self.router.gating, Gating::Sigmoid { .. }),
            "mixer.latent_down.weight" | "mixer.latent_up.weight" => self.d_latent.is_some(),
            _ => self.d_shared > 0,
        }
    }

    /// The router with what the layer's output is multiplied by.
    pub(super) fn scaled_router(&self) -> Router {
        Router { scale: self.router.scale * self.out_scale, ..self.router }
    }

    /// The activation of the experts' rows, of which there are so many.
    pub(super) fn activate(&self, rows: usize) -> ActivateShape {
        self.activated(rows, self.d_ff, 1.0)
    }

    /// That of the shared expert.
    pub(super) fn activate_shared(&self, l: usize) -> ActivateShape {
        self.activated(l, self.d_shared, self.out_scale)
    }

    fn activated(&self, l: usize, width: usize, scale: f32) -> ActivateShape {
        let (x, gate) = if self.gated { ((2 * width, width), (2 * width, 0)) } else { ((width, 0), (width, 0)) };
        ActivateShape { l, width, x, gate, gate_scale: 1.0, scale }
    }

    pub(super) fn widest(&self) -> usize {
        let chosen = self.router.chosen;
        (chosen * self.d_up().max(self.d_in())).max(self.sides() * self.d_shared).max(self.router.experts)
    }

    pub(super) fn dimensions(&self) -> Vec<(&'static str, usize)> {
        let Router { experts, chosen, .. } = self.router;
        let mut dimensions = vec![("experts", experts), ("experts_per_token", chosen), ("d_ff", self.d_ff)];
        dimensions.extend((self.d_shared > 0).then_some(("d_shared", self.d_shared)));
        dimensions.extend(self.d_latent.map(|d| ("d_latent", d)));
        dimensions
    }

    /// Weights that a token is multiplied by: of the experts the chosen ones' alone.
    pub(super) fn multiply_adds(&self) -> usize {
        let Router { experts, chosen, .. } = self.router;
        let expert = (self.d_up() + self.d_ff) * self.d_in();
        let latent = self.d_latent.map_or(0, |d| 2 * d * self.d_model);
        let shared = (self.sides() + 1) * self.d_shared * self.d_model;
        experts * self.d_model + chosen * expert + latent + shared
    }

    pub(super) fn constants(&self) -> Vec<f32> {
        let gating = match self.router.gating {
            Gating::Chosen => [0.0; 4],
            Gating::All => [1.0, 0.0, 0.0, 0.0],
            Gating::Sigmoid { groups, kept, normed } => [2.0, groups as f32, kept as f32, f32::from(normed)],
        };
        let scales = [self.router.scale, self.out_scale, self.router.chosen as f32];
        let kind = [self.activation as u32 as f32, f32::from(self.gated)];
        gating.into_iter().chain(scales).chain(kind).collect()
    }
}

/// What all experts' matrices are, once they lie in one.
fn joined<T>(each: &Each<T>) -> Option<&T> {
    each.first().map(|(_, matrix)| matrix)
}
