//! Random models of any size, to test and measure with: initialised as mamba-ssm does, so that activations stay sane.
//!
//! `A_log = ln(1 .. d_state)`, `D = 1`, dt biases such that softplus gives delta log-uniform in dt_min to dt_max, norms 1,
//! linear layers uniform within +-1/sqrt(inputs) (out_proj's divided by sqrt(n_layer)), the embedding normal with a deviation
//! of 0.02. Names are Hugging Face's. The same [`Spec`] and seed give the same bytes on every machine.

mod outline;

use super::write::{header, place, write_quantised, Entry};
use super::{names, Arch, Checkpoint, Dtype, LoadError};
use half::{bf16, f16};
use std::{borrow::Cow, io, ops::Range};

pub(crate) use outline::Outline;

/// What to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub arch: Arch,
    pub n_layer: usize,
    pub d_model: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
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
pub const PRESETS: [&str; 6] = ["tiny", "130m", "370m", "790m", "1.4b", "2.8b"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Init {
    Constant(f32),
    /// Uniform in +-x.
    Uniform(f32),
    /// Normal, by its standard deviation.
    Normal(f32),
    /// ln(1 .. columns) in every row.
    ALog,
    /// Such that softplus gives a delta that is log-uniform between these.
    DtBias(f64, f64),
}

/// A tensor to be written.
struct Plan {
    name: String,
    shape: Vec<usize>,
    init: Init,
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
            d_inner: 2 * d_model,
            d_state: 16,
            d_conv: 4,
            dt_rank: d_model.div_ceil(16),
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

    /// The shapes of the published Mamba models, and `tiny` (odd sizes, some kilobytes).
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "tiny" => Self { d_inner: 26, d_state: 5, d_conv: 3, dt_rank: 2, ..Self::new(2, 13, 37) },
            "130m" => Self::new(24, 768, 50280),
            "370m" => Self::new(48, 1024, 50280),
            "790m" => Self::new(48, 1536, 50280),
            "1.4b" => Self::new(48, 2048, 50280),
            "2.8b" => Self::new(64, 2560, 50280),
            _ => return None,
        })
    }

    /// The `config.json` that goes with the weights.
    pub fn config_json(&self) -> String {
        format!("{:#}\n", self.config())
    }

    /// The same as an object, each value of the type that transformers' configuration classes declare: they refuse others.
    pub(crate) fn config(&self) -> serde_json::Value {
        let falcon = self.arch == Arch::FalconMamba;
        let mut config = serde_json::json!({
            "architectures": [if falcon { "FalconMambaForCausalLM" } else { "MambaForCausalLM" }],
            "model_type": self.arch.to_string(),
            "bos_token_id": 0,
            "eos_token_id": 0,
            "conv_kernel": self.d_conv,
            "hidden_act": "silu",
            "hidden_size": self.d_model,
            "intermediate_size": self.d_inner,
            "layer_norm_epsilon": 1e-5,
            "num_hidden_layers": self.n_layer,
            "state_size": self.d_state,
            "tie_word_embeddings": self.tied,
            "time_step_rank": self.dt_rank,
            "use_bias": self.use_bias,
            "use_conv_bias": self.use_conv_bias,
            "vocab_size": self.vocab_size,
        });
        // transformers knows no d_inner but a whole multiple of d_model.
        if self.d_inner.is_multiple_of(self.d_model.max(1)) {
            config["expand"] = serde_json::json!(self.d_inner / self.d_model.max(1));
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
                    Ok((0..rows.len() * k).map(|i| plan.init.value((i % k) as u64, &mut random)).collect())
                };
                write_quantised(out, quant, (n, k), rows, |_, _, _| {})?;
                done += plan.entry(dtype).bytes();
                progress(done, total);
                continue;
            }
            for start in (0..plan.elements()).step_by(BLOCK as usize) {
                bytes.clear();
                for element in start..(start + BLOCK).min(plan.elements()) {
                    put(&mut bytes, plan.init.value(element % columns, &mut random), dtype);
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
        let &Spec { d_model, d_inner, d_state, d_conv, dt_rank, vocab_size, .. } = self;
        let linear = |inputs: usize| Init::Uniform(1.0 / (inputs as f32).sqrt());
        let out_proj = Init::Uniform(1.0 / ((d_inner * self.n_layer) as f32).sqrt());
        let mut plans = Vec::new();
        let mut add = |name: String, shape: &[usize], init| plans.push(Plan { name, shape: shape.to_vec(), init });
        add("backbone.embeddings.weight".into(), &[vocab_size, d_model], Init::Normal(0.02));
        for i in 0..self.n_layer {
            let mut layer = |name: &str, shape: &[usize], init| add(format!("backbone.layers.{i}.{name}"), shape, init);
            layer("norm.weight", &[d_model], Init::Constant(1.0));
            layer("mixer.in_proj.weight", &[2 * d_inner, d_model], linear(d_model));
            layer("mixer.conv1d.weight", &[d_inner, 1, d_conv], linear(d_conv));
            if self.use_conv_bias {
                layer("mixer.conv1d.bias", &[d_inner], linear(d_conv));
            }
            layer("mixer.x_proj.weight", &[dt_rank + 2 * d_state, d_inner], linear(d_inner));
            layer("mixer.dt_proj.weight", &[d_inner, dt_rank], linear(dt_rank));
            layer("mixer.dt_proj.bias", &[d_inner], Init::DtBias(self.dt_min, self.dt_max));
            layer("mixer.A_log", &[d_inner, d_state], Init::ALog);
            layer("mixer.D", &[d_inner], Init::Constant(1.0));
            layer("mixer.out_proj.weight", &[d_model, d_inner], out_proj);
            if self.use_bias {
                layer("mixer.in_proj.bias", &[2 * d_inner], Init::Uniform(0.02));
                layer("mixer.out_proj.bias", &[d_model], Init::Uniform(0.02));
            }
        }
        add("backbone.norm_f.weight".into(), &[d_model], Init::Constant(1.0));
        if !self.tied {
            add("lm_head.weight".into(), &[vocab_size, d_model], Init::Normal(0.02));
        }
        plans
    }
}

/// A value's bytes. (A matrix that is quantised is not stored value by value.)
fn put(bytes: &mut Vec<u8>, x: f32, dtype: Dtype) {
    match dtype {
        Dtype::F32 => bytes.extend(x.to_le_bytes()),
        Dtype::F16 | Dtype::Q8 | Dtype::Q4 => bytes.extend(f16::from_f32(x).to_le_bytes()),
        Dtype::BF16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
    }
}

impl Plan {
    /// The type it is stored as in a model of this type.
    fn stored_as(&self, dtype: Dtype) -> Dtype {
        match dtype {
            Dtype::Q8 | Dtype::Q4 if !names::is_quantisable(&self.name) => Dtype::F16,
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

impl Init {
    fn value(self, column: u64, random: &mut SplitMix64) -> f32 {
        match self {
            Init::Constant(x) => x,
            Init::Uniform(bound) => (2.0 * random.uniform() - 1.0) * bound,
            Init::Normal(deviation) => random.normal() * deviation,
            Init::ALog => ((column + 1) as f32).ln(),
            Init::DtBias(min, max) => {
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
                let checkpoint = Spec { dtype, arch, ..tiny.clone() }.checkpoint().unwrap();
                let c = checkpoint.config();
                assert_eq!((c.arch, c.d_model, c.d_inner, c.d_state, c.d_conv, c.dt_rank), (arch, 13, 26, 5, 3, 2));
                assert_eq!((c.n_layer, c.vocab_size, c.tie_embeddings), (2, 37, false));
                assert!(checkpoint.warnings().is_empty(), "{:?}", checkpoint.warnings());
                checkpoint.weights().for_each(|t| assert_eq!(t.to_f32().unwrap().len(), t.len()));
                let spec = Spec { dtype, arch, ..tiny.clone() };
                assert_eq!(checkpoint.weights().total_bytes(), spec.weight_bytes());
                assert_eq!(checkpoint.weights().layers[1].x_proj.dtype, dtype);
            }
        }
        for (name, parameters) in PRESETS.iter().skip(1).zip([129.1e6, 371.5e6, 793.2e6, 1372e6, 2768e6]) {
            let n = Spec::preset(name).unwrap().weight_bytes() as f64 / 4.0;
            assert!((n / parameters - 1.0).abs() < 0.01, "{name}: {n}");
        }
    }

    #[test]
    fn dt_bias_is_the_inverse_of_softplus() {
        let mut random = SplitMix64(1);
        for (min, max) in [(1e-3, 1e-1), (1e-8, 1e-6), (0.5, 5.0)] {
            for _ in 0..1000 {
                let delta = f64::from(Init::DtBias(min, max).value(0, &mut random).exp().ln_1p());
                assert!((0.99 * min..1.01 * max).contains(&delta), "{delta}");
            }
        }
    }
}
