//! Weights of any size in little time and memory: tensors initialised alike share one short run of random values,
//! repeated. To measure with, where only the sizes matter; a model of them has nothing to say.

use super::{Init, Spec, SplitMix64};
use crate::model::config::{MIXER_RMS_EPS, NORM_EPS};
use crate::model::{Dtype, LayerWeights, LoadError, ModelConfig, ModelWeights, TensorView};
use half::{bf16, f16};

/// Random values before they repeat; a prime, so that neighbouring rows differ.
const PERIOD: usize = 65_537;

/// A model's weights, made by [`Spec::repeated`].
#[derive(Debug)]
pub struct Repeated {
    config: ModelConfig,
    dtype: Dtype,
    /// Name, shape, and place in `values`.
    tensors: Vec<(String, Vec<usize>, usize)>,
    /// An initialisation's bytes, as many as the largest tensor of it has.
    values: Vec<(Init, Vec<u8>)>,
}

impl Spec {
    /// The model's shapes with short runs of random values repeated: gigabytes of weights from some hundred megabytes.
    pub fn repeated(&self) -> Repeated {
        let mut tensors = Vec::new();
        let mut values: Vec<(Init, usize)> = Vec::new();
        for plan in self.plans() {
            let at = values.iter().position(|(init, _)| *init == plan.init).unwrap_or(values.len());
            let elements = plan.elements() as usize;
            match values.get_mut(at) {
                Some((_, most)) => *most = elements.max(*most),
                None => values.push((plan.init, elements)),
            }
            tensors.push((plan.name, plan.shape, at));
        }
        let bytes = |(init, elements): (Init, usize)| (init, self.run(init, elements));
        Repeated {
            config: ModelConfig {
                arch: self.arch,
                d_model: self.d_model,
                n_layer: self.n_layer,
                vocab_size: self.vocab_size,
                d_inner: self.d_inner,
                d_state: self.d_state,
                d_conv: self.d_conv,
                dt_rank: self.dt_rank,
                norm_eps: NORM_EPS,
                mixer_rms_eps: MIXER_RMS_EPS,
                tie_embeddings: self.tied,
                eos_token_id: Vec::new(),
                bos_token_id: None,
            },
            dtype: self.dtype,
            tensors,
            values: values.into_iter().map(bytes).collect(),
        }
    }

    /// `elements` values as bytes.
    fn run(&self, init: Init, elements: usize) -> Vec<u8> {
        let mut random = SplitMix64(self.seed);
        // A_log's rows count the states: whole rows repeat.
        let columns = if matches!(init, Init::ALog) { self.d_state.max(1) } else { 1 };
        let period = PERIOD.next_multiple_of(columns).min(elements);
        let mut bytes = Vec::with_capacity(elements * self.dtype.bytes());
        for i in 0..period {
            let x = init.value((i % columns) as u64, &mut random);
            match self.dtype {
                Dtype::F32 => bytes.extend(x.to_le_bytes()),
                Dtype::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
                Dtype::BF16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
            }
        }
        let run = bytes.len();
        let total = elements * self.dtype.bytes();
        while bytes.len() < total {
            bytes.extend_from_within(..run.min(total - bytes.len()));
        }
        bytes
    }
}

impl Repeated {
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] for none: a spec names all that a model needs.
    pub fn weights(&self) -> Result<ModelWeights<'_>, LoadError> {
        let maybe = |name: &str| {
            let (name, shape, at) = self.tensors.iter().find(|(n, ..)| n == name)?;
            let bytes = shape.iter().product::<usize>() * self.dtype.bytes();
            let data = self.values.get(*at)?.1.get(..bytes)?;
            Some(TensorView { name, dtype: self.dtype, shape, data, file: "synthetic" })
        };
        let find = |name: &str| {
            let missing =
                || LoadError::MissingTensor { file: "synthetic".into(), tensor: name.into(), hint: String::new() };
            maybe(name).ok_or_else(missing)
        };
        let layer = |i: usize| {
            let full = |name: &str| format!("backbone.layers.{i}.{name}");
            let maybe = |name: &str| maybe(&full(name));
            let find = |name: &str| find(&full(name));
            Ok(LayerWeights {
                norm: find("norm.weight")?,
                in_proj: find("mixer.in_proj.weight")?,
                in_proj_bias: maybe("mixer.in_proj.bias"),
                conv1d: find("mixer.conv1d.weight")?,
                conv1d_bias: maybe("mixer.conv1d.bias"),
                x_proj: find("mixer.x_proj.weight")?,
                dt_proj: find("mixer.dt_proj.weight")?,
                dt_proj_bias: find("mixer.dt_proj.bias")?,
                a_log: find("mixer.A_log")?,
                d: find("mixer.D")?,
                out_proj: find("mixer.out_proj.weight")?,
                out_proj_bias: maybe("mixer.out_proj.bias"),
            })
        };
        Ok(ModelWeights {
            embedding: find("backbone.embeddings.weight")?,
            layers: (0..self.config.n_layer).map(layer).collect::<Result<_, LoadError>>()?,
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
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            for (use_bias, tied) in [(false, true), (true, false)] {
                let spec = Spec { dtype, use_bias, tied, ..Spec::preset("tiny").unwrap() };
                let (repeated, checkpoint) = (spec.repeated(), spec.checkpoint().unwrap());
                let weights = repeated.weights().unwrap();
                let (mut got, mut want) = (Vec::new(), Vec::new());
                weights.for_each(|t| {
                    t.to_f32().unwrap();
                    got.push((t.name.to_owned(), t.shape.to_vec(), t.dtype, t.data.len()));
                });
                checkpoint.weights().for_each(|t| {
                    want.push((t.name.to_owned(), t.shape.to_vec(), t.dtype, t.data.len()));
                });
                assert_eq!(got, want);
                let a_log = weights.layers[1].a_log.data;
                assert_eq!(a_log, checkpoint.weights().layers[1].a_log.data);
                let config =
                    ModelConfig { eos_token_id: Vec::new(), bos_token_id: None, ..checkpoint.config().clone() };
                assert_eq!(repeated.config(), &config);
            }
        }
    }

    #[test]
    fn long_runs_repeat_to_their_end() {
        let spec = Spec::new(1, 64, 5000);
        let repeated = spec.repeated();
        let weights = repeated.weights().unwrap();
        let values = weights.embedding.to_f32().unwrap();
        assert_eq!(values.len(), 5000 * 64);
        assert_eq!(values[PERIOD..2 * PERIOD], values[..PERIOD]);
        assert_eq!(values[4 * PERIOD..], values[..5000 * 64 - 4 * PERIOD]);
    }
}
