//! The kinds of layers: a model is a list of them.
//!
//! A file (or folder) a kind holds all that is particular to it: its [`Shape`], its one list of parameters, what it keeps of a
//! text, and its way through the kernels and through their twins. What reads and writes checkpoints, makes random models, counts,
//! quantises or saves states walks these lists and knows no kind by name.

pub mod attention;
pub(crate) mod cpu;
pub(crate) mod device;
pub(crate) mod explain;
pub(crate) mod gpu;
pub(crate) mod host;
pub mod mamba1;
pub mod mamba2;
pub mod mlp;
pub mod moe;
pub(crate) mod parameters;

use crate::model::explanation::Units;
use crate::reference::GatedNorm;
pub use parameters::{Init, Param, Role};

/// A layer's kind and dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    Mamba1(mamba1::Shape),
    Mamba2(mamba2::Shape),
    Attention(attention::Shape),
    Mlp(mlp::Shape),
    Moe(moe::Shape),
}

/// A layer's parameters, each of them a `T`: a place in a table, a view of a file, a tensor on a host or on a device.
#[derive(Debug, Clone)]
pub enum Weights<T> {
    Mamba1(mamba1::Weights<T>),
    Mamba2(mamba2::Weights<T>),
    Attention(attention::Weights<T>),
    Mlp(mlp::Weights<T>),
    Moe(moe::Weights<T>),
}

/// A tensor that a layer keeps of a text, besides what it makes of the next token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// As mamba-ssm calls it: `conv_state`, `ssm_state`.
    pub name: &'static str,
    pub shape: Vec<usize>,
}

impl Field {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The states that layers may keep, in the order in which they are saved.
pub const STATES: [&str; 2] = ["conv_state", "ssm_state"];

impl Shape {
    /// The one list of a layer's parameters, in the order of the forward pass; those that a model may lack are in it.
    pub fn params(&self) -> Vec<Param> {
        match self {
            Shape::Mamba1(s) => s.params(),
            Shape::Mamba2(s) => s.params(),
            Shape::Attention(s) => s.params(),
            Shape::Mlp(s) => s.params(),
            Shape::Moe(s) => s.params(),
        }
    }

    /// What the layer keeps of a text.
    pub fn state(&self) -> Vec<Field> {
        match self {
            Shape::Mamba1(s) => s.state(),
            Shape::Mamba2(s) => s.state(),
            Shape::Attention(_) | Shape::Mlp(_) | Shape::Moe(_) => Vec::new(),
        }
    }

    /// Elements of one of the [`STATES`]; 0 where the layer keeps none of that name.
    pub fn state_elements(&self, name: &str) -> usize {
        self.state().iter().find(|field| field.name == name).map_or(0, Field::elements)
    }

    /// Whether models of this shape have a parameter, where they may have biases in linear layers and on the convolution.
    pub(crate) fn has(&self, param: &Param, use_bias: bool, use_conv_bias: bool) -> bool {
        if let Some(needs) = self.needs(param) {
            return needs;
        }
        match (self, &*param.name) {
            _ if !param.optional => true,
            (_, "mixer.conv1d.bias") => use_conv_bias,
            (Shape::Mamba2(s), "mixer.norm.weight") => s.norm != GatedNorm::GateOnly,
            _ => use_bias,
        }
    }

    /// The widest row of activations, which limits how many tokens fit into a binding.
    pub fn widest(&self) -> usize {
        match self {
            Shape::Mamba1(s) => s.widest(),
            Shape::Mamba2(s) => s.widest(),
            Shape::Attention(s) => s.widest(),
            Shape::Mlp(s) => s.widest(),
            Shape::Moe(s) => s.widest(),
        }
    }

    /// What a config.json of transformers says of such layers, besides what it says of all.
    pub(crate) fn config(&self) -> Vec<(&'static str, serde_json::Value)> {
        match self {
            Shape::Mamba1(s) => s.config(),
            Shape::Mamba2(s) => s.config(),
            Shape::Attention(_) | Shape::Mlp(_) | Shape::Moe(_) => Vec::new(),
        }
    }

    /// Its dimensions but d_model, by the names that mamba-ssm has for them.
    pub fn dimensions(&self) -> Vec<(&'static str, usize)> {
        match self {
            Shape::Mamba1(s) => s.dimensions(),
            Shape::Mamba2(s) => s.dimensions(),
            Shape::Attention(s) => s.dimensions(),
            Shape::Mlp(s) => s.dimensions(),
            Shape::Moe(s) => s.dimensions(),
        }
    }

    /// What else a config decides of its output, by the names that mamba-ssm has for it.
    pub fn options(&self) -> Vec<(&'static str, serde_json::Value)> {
        match self {
            Shape::Mamba2(s) => s.options(),
            Shape::Mamba1(_) | Shape::Attention(_) | Shape::Mlp(_) | Shape::Moe(_) => Vec::new(),
        }
    }

    /// What `explain` shows one by one: channels, or heads; `None` of layers that are not explained.
    pub fn units(&self) -> Option<Units> {
        match self {
            Shape::Mamba1(s) => Some((&s.explained(0)).into()),
            Shape::Mamba2(s) => Some((&s.explained(0)).into()),
            Shape::Attention(_) | Shape::Mlp(_) | Shape::Moe(_) => None,
        }
    }

    /// Multiplications with additions of the linear layers, a token.
    pub fn multiply_adds(&self) -> usize {
        if let Shape::Moe(s) = self {
            return s.multiply_adds();
        }
        let matrices = self.params().into_iter().filter(|param| matches!(param.role, Role::Matrix | Role::Exact));
        matrices.map(|param| param.shape.iter().product::<usize>()).sum()
    }

    /// Mamba-2's dimensions, of a layer that is one.
    pub fn mamba2(&self) -> Option<&mamba2::Shape> {
        match self {
            Shape::Mamba2(s) => Some(s),
            _ => None,
        }
    }

    /// Mamba-1's dimensions, of a layer that is one.
    pub fn mamba1(&self) -> Option<&mamba1::Shape> {
        match self {
            Shape::Mamba1(s) => Some(s),
            _ => None,
        }
    }

    /// Its constants, for the fingerprint of a model.
    pub(crate) fn constants(&self) -> Vec<f32> {
        match self {
            Shape::Mamba1(s) => vec![s.mixer_rms_eps.unwrap_or(mamba1::MIXER_RMS_EPS)],
            Shape::Mamba2(s) => s.constants(),
            Shape::Attention(s) => s.constants(),
            Shape::Mlp(s) => s.constants(),
            Shape::Moe(s) => s.constants(),
        }
    }

    /// Whether a layer of this shape has a parameter that others may lack, where the shape says it: then it must be there.
    pub(crate) fn needs(&self, param: &Param) -> Option<bool> {
        match self {
            Shape::Mlp(s) if param.name == "mixer.gate_proj.weight" => Some(s.has_gate_proj()),
            Shape::Attention(s) if param.name == "norm.weight" => Some(!s.beside),
            Shape::Mamba2(s) if param.name == "mixer.norm.weight" => Some(s.norm != GatedNorm::GateOnly),
            Shape::Moe(s) if param.optional => Some(s.needs(&param.name)),
            _ => None,
        }
    }

    /// What a parameter is multiplied by as backends hold it: a scale of the layer's output, in what that is linear in.
    pub(crate) fn factor(&self, name: &str) -> f32 {
        match self {
            Shape::Mamba1(_) | Shape::Moe(_) => 1.0,
            Shape::Mamba2(s) => s.factor(name),
            Shape::Attention(s) => s.factor(name),
            Shape::Mlp(s) => s.factor(name),
        }
    }

    /// Rows of a parameter that lie in one part of it on a device: an expert's of those of all.
    pub(crate) fn rows_together(&self, name: &str) -> usize {
        match self {
            Shape::Moe(s) => s.expert_rows(name).unwrap_or(1),
            _ => 1,
        }
    }

    /// Heads of keys and values and their channels, of a layer that keeps some of every token.
    pub fn keys_values(&self) -> Option<(usize, usize)> {
        match self {
            Shape::Attention(s) => Some((s.kv_heads, s.head_dim)),
            _ => None,
        }
    }

    /// Its kind in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Shape::Mamba1(_) => "mamba",
            Shape::Mamba2(_) => "mamba2",
            Shape::Attention(_) => "attention",
            Shape::Mlp(_) => "mlp",
            Shape::Moe(_) => "moe",
        }
    }

    /// Takes every parameter: `has` says whether one that a model may lack is there.
    pub(crate) fn build<T, E>(
        &self,
        has: &mut dyn FnMut(&Param) -> bool,
        take: &mut dyn FnMut(&Param) -> Result<T, E>,
    ) -> Result<Weights<T>, E> {
        Ok(match self {
            Shape::Mamba1(s) => Weights::Mamba1(mamba1::Weights::build(s, has, take)?),
            Shape::Mamba2(s) => Weights::Mamba2(mamba2::Weights::build(s, has, take)?),
            Shape::Attention(s) => Weights::Attention(attention::Weights::build(s, has, take)?),
            Shape::Mlp(s) => Weights::Mlp(mlp::Weights::build(s, has, take)?),
            Shape::Moe(s) => Weights::Moe(moe::Weights::build(s, has, take)?),
        })
    }
}

/// Makes one of a parameter's tensors, by the name of the first.
pub(crate) type Join<'f, T, U, E> = dyn FnMut(&str, &[&T]) -> Result<U, E> + 'f;

impl<T> Weights<T> {
    /// Every parameter that is there, in the order of [`Shape::params`].
    pub fn for_each<'a>(&'a self, f: &mut dyn FnMut(&'a str, &'a T)) {
        match self {
            Weights::Mamba1(w) => w.for_each(f),
            Weights::Mamba2(w) => w.for_each(f),
            Weights::Attention(w) => w.for_each(f),
            Weights::Mlp(w) => w.for_each(f),
            Weights::Moe(w) => w.for_each(f),
        }
    }

    /// The parameter of a name, without what stands before it in a file: `mixer.in_proj.weight`.
    pub fn get(&self, name: &str) -> Option<&T> {
        let mut found = None;
        self.for_each(&mut |n, value| {
            if n == name {
                found = Some(value);
            }
        });
        found
    }

    /// The same parameters as something else, which cannot fail.
    pub fn each<U>(&self, f: &mut dyn FnMut(&str, &T) -> U) -> Weights<U> {
        let Ok(all) = self.map(&mut |name, value| Ok::<_, std::convert::Infallible>(f(name, value)));
        all
    }

    /// The same parameters as something else.
    pub fn map<U, E>(&self, f: &mut dyn FnMut(&str, &T) -> Result<U, E>) -> Result<Weights<U>, E> {
        Ok(match self {
            Weights::Mamba1(w) => Weights::Mamba1(w.map(f)?),
            Weights::Mamba2(w) => Weights::Mamba2(w.map(f)?),
            Weights::Attention(w) => Weights::Attention(w.map(f)?),
            Weights::Mlp(w) => Weights::Mlp(w.map(f)?),
            Weights::Moe(w) => Weights::Moe(w.map(f)?),
        })
    }

    /// The same, each parameter of what lies in several tensors as one, by the name of the first.
    pub(crate) fn join<U, E>(&self, f: &mut Join<'_, T, U, E>) -> Result<Weights<U>, E> {
        Ok(match self {
            Weights::Mamba1(w) => Weights::Mamba1(w.join(f)?),
            Weights::Mamba2(w) => Weights::Mamba2(w.join(f)?),
            Weights::Attention(w) => Weights::Attention(w.join(f)?),
            Weights::Mlp(w) => Weights::Mlp(w.join(f)?),
            Weights::Moe(w) => Weights::Moe(w.join(f)?),
        })
    }
}
