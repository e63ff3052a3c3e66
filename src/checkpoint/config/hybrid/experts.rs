//! Mixtures of experts, as configs say them.

use super::reader::Reader;
use crate::checkpoint::LoadError;
use crate::model::blocks::mlp;
use crate::model::blocks::moe::{self, Stored};
use crate::reference::{Gating, Router, MOST_EXPERTS};

impl Reader<'_> {
    /// How many experts there are, by a key, and how many of them a token is given to.
    fn chosen(&self, key: &str, experts: usize) -> Result<usize, LoadError> {
        if experts > MOST_EXPERTS {
            return Err(self.unsupported(key, "there is room for 1,024 experts a layer"));
        }
        let (of, absent) = ("num_experts_per_tok", 2);
        let chosen = self.size_or(of, absent)?;
        if chosen == 0 || chosen > experts {
            let found = format!("`{key}` is {experts}, and a token needs at least one of them");
            return Err(self.raw.contradiction(of, self.said(of, chosen), found));
        }
        Ok(chosen)
    }

    /// Granite's, beside an MLP that all tokens share: a softmax over the logits of the chosen.
    pub fn granite_moe(&self, experts: usize, shared: mlp::Shape) -> Result<moe::Shape, LoadError> {
        let chosen = self.chosen("num_local_experts", experts)?;
        Ok(moe::Shape {
            d_model: shared.d_model,
            router: Router { experts, chosen, gating: Gating::Chosen, scale: 1.0 },
            d_ff: self.size("intermediate_size")?,
            d_shared: shared.d_ff,
            d_latent: None,
            activation: shared.activation,
            gated: true,
            stored: Stored::Together,
            out_scale: shared.out_scale,
        })
    }

    /// Nemotron-H's: DeepSeek-V3's router, and experts that may read and write less than the stream is wide.
    pub fn nemotron_moe(&self, like: mlp::Shape) -> Result<moe::Shape, LoadError> {
        if self.flag_or("mlp_bias", false)? {
            return Err(self.unsupported("mlp_bias", "biases beside experts, which no published model has"));
        }
        let key = "n_routed_experts";
        let experts = self.size_or(key, 8)?;
        let chosen = self.chosen(key, experts)?;
        let (groups, kept) = (self.size_or("n_group", 1)?, self.size_or("topk_group", 1)?);
        // A group counts by its two best.
        if groups == 0 || experts % groups != 0 || experts / groups < 2 {
            let found = format!("`{key}` is {experts}, and groups have as many each, two at least");
            return Err(self.raw.contradiction("n_group", self.said("n_group", groups), found));
        }
        if kept == 0 || kept > groups || kept * (experts / groups) < chosen {
            let found =
                format!("there are {groups} groups of {}, and a token needs {chosen} experts", experts / groups);
            return Err(self.raw.contradiction("topk_group", self.said("topk_group", kept), found));
        }
        let normed = self.flag_or("norm_topk_prob", true)?;
        let scale = self.multiplier("routed_scaling_factor")?;
        let size_or = |key: &'static str, absent| if self.raw.says(key) { self.size(key) } else { Ok(absent) };
        Ok(moe::Shape {
            router: Router { experts, chosen, gating: Gating::Sigmoid { groups, kept, normed }, scale },
            d_ff: size_or("moe_intermediate_size", 7688)?,
            d_shared: size_or("moe_shared_expert_intermediate_size", 7688)?,
            d_latent: match self.size_or("moe_latent_size", 0)? {
                0 if self.raw.get("moe_latent_size").is_some() => Some(self.size("moe_latent_size")?),
                0 => None,
                d_latent => Some(d_latent),
            },
            d_model: like.d_model,
            activation: like.activation,
            gated: false,
            stored: Stored::Each,
            out_scale: like.out_scale,
        })
    }

    /// A key's value for a message.
    fn said(&self, key: &str, value: usize) -> String {
        if self.raw.says(key) {
            value.to_string()
        } else {
            format!("absent, which makes it {value}")
        }
    }
}
