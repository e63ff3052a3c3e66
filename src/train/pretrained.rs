//! A model that a run begins with, instead of from nothing: fine-tuning.

use super::named::{named_tensors, NamedTensor, NORM_EPS};
use super::{Settings, Shape, TrainError, Trained};
use crate::error::Result;
use crate::model::blocks::Shape as Layer;
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
    /// [`TrainError::Untrainable`] for what the trainer does not know: other kinds of layers, among Mamba's biases on linear layers, a
    /// convolution without a bias, a width that is no multiple of d_model; another epsilon than 1e-5. Weights that are NaN or infinite.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let c = checkpoint.config();
        let fail = |what: String| Err(TrainError::Untrainable { model: checkpoint.source().into(), what }.into());
        let layer = match c.first() {
            Some(Layer::Mamba1(layer)) if c.arch == Arch::Mamba1 => Trained::of(layer),
            _ => return fail(format!("it is a {} model, only mamba is trained", c.arch)),
        };
        let layer = match layer {
            Ok(layer) => layer,
            Err(what) => return fail(what),
        };
        let shape = Shape { layer, tied: c.tie_embeddings, ..Shape::new(c.n_layer(), c.d_model) };
        if c.norm_eps != NORM_EPS {
            return fail(format!("its norms' epsilon is {}, it must be {NORM_EPS}", c.norm_eps));
        }
        let weights = checkpoint.weights();
        for (i, w) in weights.layers.iter().enumerate() {
            if let Err(what) = Trained::knows(w) {
                return fail(format!("layer {i}: {what}"));
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
