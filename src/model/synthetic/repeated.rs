//! Weights of any size in little time and memory: tensors initialised alike share one short run of random values,
//! repeated. To measure with, where only the sizes matter; a model of them has nothing to say.

use super::{put, Init, Spec, SplitMix64};
use crate::model::config::{MIXER_RMS_EPS, NORM_EPS};
use crate::model::{Dtype, LayerWeights, LoadError, ModelConfig, ModelWeights, TensorView};
use crate::reference::{quantise, Quant, BLOCK};

/// Random values before they repeat; a prime, so that neighbouring rows differ.
const PERIOD: usize = 65_537;

/// A model's weights, made by [`Spec::repeated`].
#[derive(Debug)]
pub struct Repeated {
    config: ModelConfig,
    /// Name, shape, and place in `values`.
    tensors: Vec<(String, Vec<usize>, usize)>,
    /// An initialisation's bytes in one type, as many as the largest tensor of them has.
    values: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    dtype: Dtype,
    data: Vec<u8>,
    /// Of a quantised type.
    scales: Vec<u8>,
}

impl Spec {
    /// The model's shapes with short runs of random values repeated: gigabytes of weights from some hundred megabytes.
    pub fn repeated(&self) -> Repeated {
        let mut tensors = Vec::new();
        let mut values: Vec<(Init, Dtype, usize)> = Vec::new();
        for plan in self.plans() {
            let dtype = plan.stored_as(self.dtype);
            let at = values.iter().position(|(init, d, _)| (*init, *d) == (plan.init, dtype)).unwrap_or(values.len());
            // Of quantised rows whole blocks are stored.
            let elements = match (dtype.quant(), &plan.shape[..]) {
                (Some(_), &[n, k]) => n * k.next_multiple_of(BLOCK),
                _ => plan.elements() as usize,
            };
            match values.get_mut(at) {
                Some((_, _, most)) => *most = elements.max(*most),
                None => values.push((plan.init, dtype, elements)),
            }
            tensors.push((plan.name, plan.shape, at));
        }
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
            tensors,
            values: values.into_iter().map(|(init, dtype, elements)| self.run(init, dtype, elements)).collect(),
        }
    }

    /// `elements` values as bytes.
    fn run(&self, init: Init, dtype: Dtype, elements: usize) -> Run {
        let mut random = SplitMix64(self.seed);
        // A_log's rows count the states: whole rows repeat. Blocks do too.
        let columns = if matches!(init, Init::ALog) { self.d_state.max(1) } else { 1 };
        let unit = if dtype.quant().is_some() { BLOCK } else { columns };
        let period = PERIOD.next_multiple_of(unit).min(elements);
        let values = (0..period).map(|i| init.value((i % columns) as u64, &mut random));
        let (mut data, mut scales) = (Vec::new(), Vec::new());
        match dtype.quant() {
            Some(quant) => {
                quantise(quant, &values.collect::<Vec<f32>>(), BLOCK, &mut data, &mut scales);
                repeat(&mut data, elements / BLOCK * quant.block_bytes());
                repeat(&mut scales, elements / BLOCK * 2);
            }
            None => {
                values.for_each(|x| put(&mut data, x, dtype));
                repeat(&mut data, elements * dtype.row_bytes(1));
            }
        }
        Run { dtype, data, scales }
    }
}

/// Goes on from the begin until there are so many bytes.
fn repeat(bytes: &mut Vec<u8>, total: usize) {
    let run = bytes.len();
    bytes.reserve_exact(total.saturating_sub(run));
    while bytes.len() < total {
        bytes.extend_from_within(..run.min(total - bytes.len()));
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
            let Run { dtype, data, scales } = self.values.get(*at)?;
            let (data, scales) = match (dtype.quant(), &shape[..]) {
                (Some(quant), &[n, k]) => {
                    (data.get(..n * quant.row_bytes(k))?, scales.get(..n * Quant::row_scale_bytes(k))?)
                }
                _ => (data.get(..shape.iter().product::<usize>() * dtype.row_bytes(1))?, &[][..]),
            };
            Some(TensorView { name, dtype: *dtype, shape, data, scales, file: "synthetic", patch: None })
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
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::Q8, Dtype::Q4] {
            for (use_bias, tied) in [(false, true), (true, false)] {
                let spec = Spec { dtype, use_bias, tied, ..Spec::preset("tiny").unwrap() };
                let (repeated, checkpoint) = (spec.repeated(), spec.checkpoint().unwrap());
                let weights = repeated.weights().unwrap();
                let (mut got, mut want) = (Vec::new(), Vec::new());
                weights.for_each(|t| {
                    t.to_f32().unwrap();
                    got.push((t.name.to_owned(), t.shape.to_vec(), t.dtype, t.data.len(), t.scales.len()));
                });
                checkpoint.weights().for_each(|t| {
                    want.push((t.name.to_owned(), t.shape.to_vec(), t.dtype, t.data.len(), t.scales.len()));
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
