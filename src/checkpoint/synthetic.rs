//! Random models of any size, to test and measure with: initialised as mamba-ssm does, so that activations stay sane.
//!
//! `A_log = ln(1 .. d_state)`, `D = 1`, dt biases such that softplus gives delta log-uniform in dt_min to dt_max, norms 1,
//! linear layers uniform within +-1/sqrt(inputs) (out_proj's divided by sqrt(n_layer)), the embedding normal with a deviation
//! of 0.02. Names are Hugging Face's. The same [`Spec`] and seed give the same bytes on every machine.

mod hybrids;
mod outline;

use super::write::{header, place, write_quantised, Entry};
use super::{names, Arch, Checkpoint, Dtype, LoadError};
use crate::model::blocks::{mamba1, mamba2, Init, Param, Role, Shape};
use half::{bf16, f16};
use std::{borrow::Cow, io, ops::Range};

pub(crate) use outline::Outline;

/// What to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub arch: Arch,
    pub n_layer: usize,
    pub d_model: usize,
    /// Every layer's kind and dimensions; of a hybrid those of its state space layers.
    pub layer: Shape,
    /// Each layer's where they are of several kinds; else empty. Such a model can be measured, not written.
    pub layers: Vec<Shape>,
    /// delta begins log-uniform between these (mamba-ssm's `dt_min` and `dt_max`).
    pub dt_min: f64,
    pub dt_max: f64,
    pub vocab_size: usize,
    /// Without a head of its own.
    pub tied: bool,
    /// Biases on in_proj and out_proj.
    pub use_bias: bool,
    /// A bias on the convolution.
    pub use_conv_bias: bool,
    /// How all is stored; with a quantised type the matrices that [`super::quantise`] would quantise, and the rest as f16.
    pub dtype: Dtype,
    pub seed: u64,
}

/// Names that [`Spec::preset`] knows.
pub const PRESETS: [&str; 12] = [
    "tiny",
    "130m",
    "370m",
    "790m",
    "1.4b",
    "2.8b",
    "mamba2-tiny",
    "mamba2-130m",
    "mamba2-370m",
    "mamba2-780m",
    "mamba2-1.3b",
    "mamba2-2.7b",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Draw {
    Constant(f32),
    /// Uniform in +-x.
    Uniform(f32),
    /// Normal, by its standard deviation.
    Normal(f32),
    /// ln(1 .. columns) in every row.
    ALog,
    /// The logarithm of a number drawn uniformly from 1 to 16.
    UniformALog,
    /// Such that softplus gives a delta that is log-uniform between these.
    DtBias(f64, f64),
}

/// A tensor to be written.
struct Plan {
    name: String,
    shape: Vec<usize>,
    draw: Draw,
    /// Whether a linear layer or the embedding reads it.
    matrix: bool,
}

impl Spec {
    /// What delta begins between unless said otherwise, as in mamba-ssm.
    pub const DT_MIN: f64 = 0.001;
    pub const DT_MAX: f64 = 0.1;

    /// A Mamba-1 of the usual proportions: expand 2, d_state 16, d_conv 4, dt_rank d_model / 16.
    pub fn new(n_layer: usize, d_model: usize, vocab_size: usize) -> Self {
        Self {
            arch: Arch::Mamba1,
            n_layer,
            d_model,
            layer: Shape::Mamba1(mamba1::Shape::of(d_model)),
            layers: Vec::new(),
            dt_min: Self::DT_MIN,
            dt_max: Self::DT_MAX,
            vocab_size,
            tied: true,
            use_bias: false,
            use_conv_bias: true,
            dtype: Dtype::F32,
            seed: 0,
        }
    }

    /// A Mamba-2 of the published proportions.
    pub fn mamba2(n_layer: usize, d_model: usize, vocab_size: usize) -> Self {
        let layer = Shape::Mamba2(mamba2::Shape::of(d_model));
        Self { arch: Arch::Mamba2, layer, ..Self::new(n_layer, d_model, vocab_size) }
    }

    /// The shapes of the published Mamba models, and `tiny` (odd sizes, some kilobytes); besides [`PRESETS`] those of some hybrids and
    /// of a Transformer, to measure with.
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "tiny" => {
                let odd = mamba1::Shape { d_inner: 26, d_state: 5, d_conv: 3, dt_rank: 2, ..mamba1::Shape::of(13) };
                Self { layer: Shape::Mamba1(odd), ..Self::new(2, 13, 37) }
            }
            "mamba2-tiny" => {
                let odd = mamba2::Shape {
                    n_heads: 6,
                    head_dim: 5,
                    d_state: 7,
                    n_groups: 3,
                    d_conv: 3,
                    ..mamba2::Shape::of(15)
                };
                Self { layer: Shape::Mamba2(odd), ..Self::mamba2(2, 15, 37) }
            }
            "mamba2-130m" => Self::mamba2(24, 768, 50288),
            "mamba2-370m" => Self::mamba2(48, 1024, 50288),
            "mamba2-780m" => Self::mamba2(48, 1536, 50288),
            "mamba2-1.3b" => Self::mamba2(48, 2048, 50288),
            "mamba2-2.7b" => Self::mamba2(64, 2560, 50288),
            "granite-4.0-h-350m" => hybrids::granite(32, 768, &[10, 13, 17, 27], (48, 32), (64, 2048)),
            "granite-4.0-h-1b" => hybrids::granite(40, 1536, &[5, 15, 25, 35], (48, 64), (128, 4096)),
            "granite-4.0-h-tiny" => hybrids::granite_tiny(),
            "falcon-h1-0.5b" => hybrids::falcon_h1(),
            "llama-1b" => hybrids::llama(),
            "130m" => Self::new(24, 768, 50280),
            "370m" => Self::new(48, 1024, 50280),
            "790m" => Self::new(48, 1536, 50280),
            "1.4b" => Self::new(48, 2048, 50280),
            "2.8b" => Self::new(64, 2560, 50280),
            _ => return None,
        })
    }

    /// Each layer's kind and dimensions.
    pub fn shapes(&self) -> Vec<Shape> {
        match &self.layers[..] {
            [] => vec![self.layer; self.n_layer],
            layers => layers.to_vec(),
        }
    }

    /// Of a family whose layers are Mamba's.
    #[must_use]
    pub fn of(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self.with(|layer| layer.mixer_rms_eps = (arch == Arch::FalconMamba).then_some(mamba1::MIXER_RMS_EPS))
    }

    /// With other dimensions of Mamba's layers.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut mamba1::Shape)) -> Self {
        if let Shape::Mamba1(layer) = &mut self.layer {
            change(layer);
        }
        self
    }

    /// The `config.json` that goes with the weights.
    pub fn config_json(&self) -> String {
        format!("{:#}\n", self.config())
    }

    /// The same as an object, each value of the type that transformers' configuration classes declare: they refuse others.
    pub(crate) fn config(&self) -> serde_json::Value {
        let mut config = serde_json::json!({
            "architectures": [self.arch.class()],
            "model_type": self.arch.to_string(),
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": self.d_model,
            "layer_norm_epsilon": 1e-5,
            "num_hidden_layers": self.n_layer,
            "tie_word_embeddings": self.tied,
            "use_bias": self.use_bias,
            "use_conv_bias": self.use_conv_bias,
            "vocab_size": self.vocab_size,
        });
        for (key, value) in self.layer.config() {
            config[key] = value;
        }
        config
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.plans().iter().map(|plan| plan.entry(self.dtype).bytes()).sum()
    }

    /// Writes the safetensors file piece by piece (memory does not grow with the model), telling `progress` the bytes of
    /// weights done and in all.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_safetensors(&self, out: &mut dyn io::Write, progress: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        let plans = self.plans();
        let mut order: Vec<usize> = (0..plans.len()).collect();
        order.sort_by_key(|&i| place(plans[i].stored_as(self.dtype)));
        out.write_all(&header(order.iter().map(|&i| plans[i].entry(self.dtype))))?;
        let total = self.weight_bytes();

        const BLOCK: u64 = 1 << 16;
        let mut bytes = Vec::new();
        let mut done = 0;
        for i in order {
            let plan = &plans[i];
            // A stream of its own for every tensor: the values do not depend on what is written before.
            let mut random = SplitMix64(self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (i as u64) << 32);
            let columns = plan.shape.last().copied().unwrap_or(1).max(1) as u64;
            let dtype = plan.stored_as(self.dtype);
            if let (Some(quant), &[n, k]) = (dtype.quant(), &plan.shape[..]) {
                let rows = |rows: Range<usize>| -> io::Result<Vec<f32>> {
                    progress(done + (rows.start * dtype.row_bytes(k)) as u64, total);
                    Ok((0..rows.len() * k).map(|i| plan.draw.value((i % k) as u64, &mut random)).collect())
                };
                write_quantised(out, quant, (n, k), rows, |_, _, _| {})?;
                done += plan.entry(dtype).bytes();
                progress(done, total);
                continue;
            }
            for start in (0..plan.elements()).step_by(BLOCK as usize) {
                bytes.clear();
                for element in start..(start + BLOCK).min(plan.elements()) {
                    put(&mut bytes, plan.draw.value(element % columns, &mut random), dtype);
                }
                out.write_all(&bytes)?;
                done += bytes.len() as u64;
                progress(done, total);
            }
        }
        Ok(())
    }

    /// The model in memory.
    ///
    /// # Errors
    /// [`LoadError::ZeroSize`] and the like if a dimension is 0.
    pub fn checkpoint(&self) -> Result<Checkpoint, LoadError> {
        let mut bytes = Vec::new();
        // A model beyond the memory is refused before it is made.
        let room = usize::try_from(self.weight_bytes()).ok().filter(|&room| bytes.try_reserve(room).is_ok());
        room.ok_or_else(|| LoadError::Io {
            path: "synthetic/model.safetensors".into(),
            reason: io::ErrorKind::OutOfMemory.into(),
        })?;
        self.write_safetensors(&mut bytes, &mut |_, _| {})
            .map_err(|reason| LoadError::Io { path: "synthetic/model.safetensors".into(), reason })?;
        Checkpoint::from_named_bytes("synthetic", self.config_json().as_bytes(), vec![Cow::Owned(bytes)], None)
    }

    fn plans(&self) -> Vec<Plan> {
        let &Spec { d_model, n_layer, vocab_size, .. } = self;
        let mut plans = Vec::new();
        let mut add = |name: String, shape: Vec<usize>, draw, matrix| plans.push(Plan { name, shape, draw, matrix });
        add("backbone.embeddings.weight".into(), vec![vocab_size, d_model], Draw::Normal(0.02), true);
        for (i, layer) in self.shapes().into_iter().enumerate() {
            let has = |param: &Param| layer.has(param, self.use_bias, self.use_conv_bias);
            for param in layer.params().into_iter().filter(has) {
                let uniform = |inputs: usize| Draw::Uniform(1.0 / (inputs as f32).sqrt());
                let draw = match param.init {
                    Init::Constant(x) => Draw::Constant(x),
                    Init::Linear { inputs } => uniform(inputs),
                    Init::Output { inputs } => uniform(inputs * n_layer),
                    Init::Uniform(x) => Draw::Uniform(x),
                    Init::ALog => Draw::ALog,
                    Init::UniformALog => Draw::UniformALog,
                    Init::DtBias => Draw::DtBias(self.dt_min, self.dt_max),
                };
                let matrix = matches!(param.role, Role::Matrix | Role::Exact);
                add(format!("backbone.layers.{i}.{}", param.name), param.shape, draw, matrix);
            }
        }
        add("backbone.norm_f.weight".into(), vec![d_model], Draw::Constant(1.0), false);
        if !self.tied {
            add("lm_head.weight".into(), vec![vocab_size, d_model], Draw::Normal(0.02), true);
        }
        plans
    }
}

/// A value's bytes. (A matrix that is quantised is not stored value by value.)
fn put(bytes: &mut Vec<u8>, x: f32, dtype: Dtype) {
    match dtype {
        Dtype::F32 => bytes.extend(x.to_le_bytes()),
        Dtype::F16 | Dtype::Quantised(_) => bytes.extend(f16::from_f32(x).to_le_bytes()),
        Dtype::BF16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
    }
}

impl Plan {
    /// The type it is stored as in a model of this type.
    fn stored_as(&self, dtype: Dtype) -> Dtype {
        match dtype {
            Dtype::Quantised(_) if !names::is_quantisable(&self.name) => Dtype::F16,
            dtype => dtype,
        }
    }

    fn entry(&self, dtype: Dtype) -> Entry<'_> {
        Entry { name: &self.name, shape: &self.shape, dtype: self.stored_as(dtype) }
    }

    fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

impl Draw {
    fn value(self, column: u64, random: &mut SplitMix64) -> f32 {
        match self {
            Draw::Constant(x) => x,
            Draw::Uniform(bound) => (2.0 * random.uniform() - 1.0) * bound,
            Draw::Normal(deviation) => random.normal() * deviation,
            Draw::UniformALog => (1.0 + 15.0 * random.uniform()).ln(),
            Draw::ALog => ((column + 1) as f32).ln(),
            Draw::DtBias(min, max) => {
                let delta = ((min as f32).ln() + random.uniform() * ((max / min) as f32).ln()).exp();
                // Inverse softplus.
                delta + (-(-delta).exp_m1()).ln()
            }
        }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// Nearly normal, mean 0, deviation 1: the sum of four 16-bit uniform numbers (bounded, and the same everywhere).
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65535.0 - 2.0) * 3f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_open_and_have_the_published_sizes() {
        let tiny = Spec { use_bias: true, tied: false, ..Spec::preset("tiny").unwrap() };
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::Q8, Dtype::Q4] {
            for arch in [Arch::Mamba1, Arch::FalconMamba] {
                let checkpoint = Spec { dtype, ..tiny.clone() }.of(arch).checkpoint().unwrap();
                let c = checkpoint.config();
                let mixer_rms_eps = (arch == Arch::FalconMamba).then_some(1e-6);
                let odd = mamba1::Shape { d_inner: 26, d_state: 5, d_conv: 3, dt_rank: 2, ..mamba1::Shape::of(13) };
                assert_eq!((c.arch, c.d_model, c.n_layer(), c.vocab_size), (arch, 13, 2, 37));
                assert_eq!(c.layers[1], Shape::Mamba1(mamba1::Shape { mixer_rms_eps, ..odd }));
                assert!(!c.tie_embeddings);
                assert!(checkpoint.warnings().is_empty(), "{:?}", checkpoint.warnings());
                checkpoint.weights().for_each(|t| assert_eq!(t.to_f32().unwrap().len(), t.len()));
                let spec = Spec { dtype, ..tiny.clone() }.of(arch);
                assert_eq!(checkpoint.weights().total_bytes(), spec.weight_bytes());
                assert_eq!(checkpoint.weights().layers[1].get("mixer.x_proj.weight").unwrap().dtype, dtype);
            }
        }
        let published = [129.1e6, 371.5e6, 793.2e6, 1372e6, 2768e6, 128.9e6, 369.6e6, 780e6, 1344e6, 2702e6];
        for (name, parameters) in PRESETS.iter().filter(|name| !name.ends_with("tiny")).zip(published) {
            let n = Spec::preset(name).unwrap().weight_bytes() as f64 / 4.0;
            assert!((n / parameters - 1.0).abs() < 0.01, "{name}: {n}");
        }
    }

    #[test]
    fn dt_bias_is_the_inverse_of_softplus() {
        let mut random = SplitMix64(1);
        for (min, max) in [(1e-3, 1e-1), (1e-8, 1e-6), (0.5, 5.0)] {
            for _ in 0..1000 {
                let delta = f64::from(Draw::DtBias(min, max).value(0, &mut random).exp().ln_1p());
                assert!((0.99 * min..1.01 * max).contains(&delta), "{delta}");
            }
        }
    }
}
