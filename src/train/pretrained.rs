//! A model that a run begins with, instead of from nothing: fine-tuning.

use super::named::{named_tensors, NamedTensor, NORM_EPS, UNKNOWN};
use super::{Settings, Shape, TrainError};
use crate::error::Result;
use crate::model::blocks::{self, mamba1};
use crate::model::{Arch, Checkpoint};
use serde::{Deserialize, Serialize};

/// Where a run's first parameters are from, as its folder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The model's file or folder.
    pub model: String,
    /// Its [`Fingerprint`](crate::model::Fingerprint).
    pub fingerprint: String,
    /// Tokens that end a text; they go on into the trained models' config.json.
    pub eos_token_id: Vec<u32>,
    pub bos_token_id: Option<u32>,
}

/// A model's parameters in f32, whatever they were stored as, under Hugging Face's names.
pub struct Pretrained {
    origin: Origin,
    shape: Shape,
    vocab_size: usize,
    tensors: Vec<NamedTensor>,
}

impl Pretrained {
    /// Takes a Mamba-1 model's parameters out of its checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Untrainable`] for what the trainer does not know: Falcon-Mamba, biases on in_proj and out_proj, a convolution
    /// without a bias, another epsilon than 1e-5, a d_inner that is no multiple of d_model. Weights that are NaN or infinite.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let c = checkpoint.config();
        let fail = |what: String| Err(TrainError::Untrainable { model: checkpoint.source().into(), what }.into());
        let kind = || format!("it is a {} model, only mamba is trained", c.arch);
        let Some(&mamba1::Shape { d_inner, d_state, d_conv, dt_rank, mixer_rms_eps: None, .. }) =
            c.first().and_then(blocks::Shape::mamba1)
        else {
            return fail(kind());
        };
        let shape = Shape {
            d_state,
            d_conv,
            expand: d_inner / c.d_model.max(1),
            tied: c.tie_embeddings,
            ..Shape::new(c.n_layer(), c.d_model)
        };
        let shape = Shape { dt_rank: Some(dt_rank).filter(|&rank| rank != shape.dt_rank()), ..shape };
        if c.arch != Arch::Mamba1 {
            return fail(kind());
        }
        if d_inner != shape.d_inner() {
            return fail(format!("its d_inner is {d_inner}, no multiple of its d_model, {}", c.d_model));
        }
        if c.norm_eps != NORM_EPS {
            return fail(format!("its norms' epsilon is {}, it must be {NORM_EPS}", c.norm_eps));
        }
        let weights = checkpoint.weights();
        for (i, w) in weights.layers.iter().enumerate() {
            if w.get("mixer.conv1d.bias").is_none() {
                return fail(format!("layer {i}: its convolution has no bias"));
            }
            if UNKNOWN.iter().any(|name| w.get(name).is_some()) {
                return fail(format!("layer {i}: in_proj and out_proj must have no bias"));
            }
        }
        let tensors = named_tensors(&weights)?;
        let origin = Origin {
            model: checkpoint.source().into(),
            fingerprint: checkpoint.fingerprint().to_string(),
            eos_token_id: c.eos_token_id.clone(),
            bos_token_id: c.bos_token_id,
        };
        Ok(Self { origin, shape, vocab_size: c.vocab_size, tensors })
    }

    /// Makes settings those of a run that begins with this model: its shape and its vocabulary.
    pub fn adopt(&self, settings: &mut Settings) {
        settings.shape = self.shape.clone();
        settings.task.set_vocab_size(self.vocab_size);
        settings.origin = Some(self.origin.clone());
    }

    /// The parameters, for settings that [`adopt`](Self::adopt) made.
    ///
    /// # Errors
    /// Settings for another model.
    pub(super) fn tensors_for(&self, settings: &Settings) -> Result<&[NamedTensor], TrainError> {
        let mut adopted = settings.clone();
        self.adopt(&mut adopted);
        match adopted == *settings {
            true => Ok(&self.tensors),
            false => Err(TrainError::Untrainable {
                model: self.origin.model.clone(),
                what: "the settings are for another model".into(),
            }),
        }
    }
}
