//! A model's shapes with its small tensors: what a device needs to make a model of any size by itself. To measure with, where
//! only the sizes matter; it has nothing to say.

use super::{put, Spec, SplitMix64};
use crate::checkpoint::config::NORM_EPS;
use crate::checkpoint::{Dtype, LoadError, ModelConfig, ModelWeights, TensorView};
use crate::model::blocks::{Param, Shape};

/// A model's tensors, made by [`Spec::outline`].
#[derive(Debug)]
pub(crate) struct Outline {
    config: ModelConfig,
    tensors: Vec<Outlined>,
}

#[derive(Debug)]
struct Outlined {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    /// Of a matrix that a linear layer or the embedding reads, none.
    data: Vec<u8>,
}

impl Spec {
    /// The model's tensors; of its matrices the shapes alone.
    pub(crate) fn outline(&self) -> Outline {
        let tensors = self.plans().into_iter().enumerate().map(|(i, plan)| {
            let (dtype, elements) = (plan.stored_as(self.dtype), plan.elements());
            let mut data = Vec::new();
            if !plan.matrix {
                let mut random = SplitMix64(self.seed.wrapping_add(i as u64));
                let columns = plan.shape.last().copied().unwrap_or(1).max(1) as u64;
                (0..elements).for_each(|at| put(&mut data, plan.draw.value(at % columns, &mut random), dtype));
            }
            Outlined { name: plan.name, shape: plan.shape, dtype, data }
        });
        Outline {
            config: ModelConfig {
                arch: self.arch,
                d_model: self.d_model,
                vocab_size: self.vocab_size,
                layers: self.shapes(),
                norm_eps: NORM_EPS,
                head_scale: 1.0,
                tie_embeddings: self.tied,
                eos_token_id: Vec::new(),
                bos_token_id: None,
            },
            tensors: tensors.collect(),
        }
    }
}

impl Outline {
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] for none: a spec names all that a model needs.
    pub fn weights(&self) -> Result<ModelWeights<'_>, LoadError> {
        let maybe = |name: &str| {
            let Outlined { name, shape, dtype, data } = self.tensors.iter().find(|t| t.name == name)?;
            Some(TensorView { name, dtype: *dtype, shape, data, scales: &[], file: "synthetic", patch: None })
        };
        let find = |name: &str| {
            let missing =
                || LoadError::MissingTensor { file: "synthetic".into(), tensor: name.into(), hint: String::new() };
            maybe(name).ok_or_else(missing)
        };
        let layer = |(i, shape): (usize, &Shape)| {
            let full = |param: &Param| format!("backbone.layers.{i}.{}", param.name);
            shape.build(&mut |param| maybe(&full(param)).is_some(), &mut |param| find(&full(param)))
        };
        Ok(ModelWeights {
            embedding: find("backbone.embeddings.weight")?,
            layers: self.config.layers.iter().enumerate().map(layer).collect::<Result<_, LoadError>>()?,
            norm_f: find("backbone.norm_f.weight")?,
            lm_head: maybe("lm_head.weight"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_shapes_and_config_as_the_checkpoint() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::Q8, Dtype::Q4] {
            for (use_bias, tied) in [(false, true), (true, false)] {
                let spec = Spec { dtype, use_bias, tied, ..Spec::preset("tiny").unwrap() };
                let (outline, checkpoint) = (spec.outline(), spec.checkpoint().unwrap());
                let weights = outline.weights().unwrap();
                let (mut got, mut want) = (Vec::new(), Vec::new());
                let mut empty = 0;
                weights.for_each(|t| {
                    got.push((t.name.to_owned(), t.shape.to_vec(), t.dtype));
                    match t.data.is_empty() {
                        true => empty += 1,
                        false => assert_eq!(t.to_f32().unwrap().len(), t.len()),
                    }
                });
                checkpoint.weights().for_each(|t| want.push((t.name.to_owned(), t.shape.to_vec(), t.dtype)));
                assert_eq!(got, want);
                // Four matrices in each of two layers, the embedding, and the head where it is not the same.
                assert_eq!(empty, 2 * 4 + 1 + usize::from(!tied));
                let a_log = weights.layers[1].get("mixer.A_log").unwrap().data;
                assert_eq!(a_log, checkpoint.weights().layers[1].get("mixer.A_log").unwrap().data);
                let config =
                    ModelConfig { eos_token_id: Vec::new(), bos_token_id: None, ..checkpoint.config().clone() };
                assert_eq!(outline.config(), &config);
            }
        }
    }
}
