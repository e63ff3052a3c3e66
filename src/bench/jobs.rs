//! The rows: what each measures, and of whose speed that can be foreseen.

use super::measure::Kind;
use super::models::Model;
use super::options::Options;
use super::report::Row;
use super::shapes::Shapes;
use super::suite::Suite;
#[cfg(not(target_arch = "wasm32"))]
use super::{backward, training};
use crate::checkpoint::synthetic::Spec;
use crate::generate::SamplingParams;
use crate::gpu::shader::NumberFormat;
use crate::model::blocks::mamba1::{
    self,
    alone::{Alone, Kernel},
};
#[cfg(not(target_arch = "wasm32"))]
use crate::model::blocks::mamba2::alone as mamba2;
use crate::model::{Dtype, Scan};

/// What a row measures.
#[derive(Debug, Clone)]
pub(super) enum Job {
    Copy {
        bytes: u64,
    },
    Fma,
    /// A kernel that only one kind of layer has.
    Alone(Alone),
    /// The same of Mamba-2's.
    #[cfg(not(target_arch = "wasm32"))]
    Ssd(mamba2::Alone),
    /// `l` None: a matvec.
    Linear {
        l: Option<usize>,
        n: usize,
        k: usize,
        dtype: Dtype,
        act: NumberFormat,
    },
    Sample {
        vocab_size: usize,
        variant: &'static str,
        params: SamplingParams,
    },
    Prefill {
        model: Model,
        tokens: usize,
    },
    /// `texts` at once, a token of each in a step.
    Decode {
        model: Model,
        prompt: usize,
        tokens: usize,
        texts: usize,
    },
    #[cfg(not(target_arch = "wasm32"))]
    Backward(backward::Kernel),
    #[cfg(not(target_arch = "wasm32"))]
    Training(training::Training),
}

/// The ways to choose a token that are measured.
fn samplers() -> [(&'static str, SamplingParams); 4] {
    let greedy = SamplingParams::default();
    let plain = SamplingParams { temperature: 0.8, ..greedy };
    [
        ("greedy", greedy),
        ("plain", plain),
        ("top-k 40", SamplingParams { top_k: 40, ..plain }),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..plain }),
    ]
}

/// The speed of a single token, by which a model's first row is foreseen.
pub(super) fn one_token(dtype: Dtype) -> String {
    format!("one token {dtype}")
}

/// "f16", "f16, activations f16"; f32 goes without saying.
fn with_activations(variant: &str, act: NumberFormat) -> String {
    match act {
        NumberFormat::F32 => variant.to_owned(),
        NumberFormat::F16 => format!("{variant}, activations f16"),
    }
}

/// "f16", "f16, batch 8"; one text goes without saying.
fn with_texts(variant: &str, texts: usize) -> String {
    match texts {
        1 => variant.to_owned(),
        _ => format!("{variant}, batch {texts}"),
    }
}

impl Job {
    pub fn row(&self, chunk: usize) -> Row {
        match self {
            Job::Copy { .. } => Row::new(Suite::Ceilings, "copy", "f32"),
            Job::Fma => Row::new(Suite::Ceilings, "fma", "f32"),
            Job::Alone(alone) => {
                let size = format!("{}x{}", alone.channels(), alone.l);
                let row = match alone.kernel {
                    Kernel::Scan(rung, act) => Row::new(Suite::Scan, size, with_activations(&rung.to_string(), act)),
                    #[cfg(not(target_arch = "wasm32"))]
                    kernel => Row::new(Suite::Backward, format!("{kernel} {size}"), "f32"),
                };
                row.of_channels(alone.l, alone.channels(), alone.states())
            }
            #[cfg(not(target_arch = "wasm32"))]
            Job::Ssd(alone) => {
                let shape = &alone.shape;
                let channels = shape.n_heads * shape.head_dim;
                let row = Row::new(Suite::Scan, alone.size(), alone.kernel.to_string());
                row.of_channels(alone.l, channels, Some(shape.d_state))
            }
            Job::Linear { l, n, k, dtype, act } => {
                let name = match l {
                    Some(l) => format!("matmul {l}x{n}x{k}"),
                    None => format!("matvec {n}x{k}"),
                };
                let l = Some(l.unwrap_or(1));
                Row {
                    l,
                    n: Some(*n),
                    k: Some(*k),
                    ..Row::new(Suite::Matmul, name, with_activations(&dtype.to_string(), *act))
                }
            }
            Job::Sample { vocab_size, variant, .. } => {
                Row { n: Some(*vocab_size), ..Row::new(Suite::Sampling, format!("of {vocab_size}"), *variant) }
            }
            Job::Prefill { model, tokens } => {
                let (l, chunk) = (Some(*tokens), Some(chunk));
                Row { l, chunk, ..Row::new(Suite::Prefill, &model.name, model.spec.dtype.to_string()) }
            }
            Job::Decode { model, tokens, texts, .. } => {
                let variant = with_texts(&model.spec.dtype.to_string(), *texts);
                Row { l: Some(*tokens), ..Row::new(Suite::Decode, &model.name, variant) }
            }
            #[cfg(not(target_arch = "wasm32"))]
            Job::Backward(kernel) => kernel.row(),
            #[cfg(not(target_arch = "wasm32"))]
            Job::Training(training) => training.row(),
        }
    }

    /// Bytes that must move, and operations, in what the row's times are of.
    pub fn work(&self) -> (Option<f64>, Option<f64>) {
        match self {
            Job::Copy { .. } | Job::Fma => (None, None), // settled by measuring
            Job::Alone(alone) => (Some(alone.bytes()), None),
            #[cfg(not(target_arch = "wasm32"))]
            Job::Ssd(alone) => {
                let (bytes, flops) = alone.work();
                (Some(bytes), Some(flops).filter(|&flops| flops > 0.0))
            }
            Job::Linear { l: Some(l), n, k, .. } => (None, Some(2.0 * *l as f64 * (n * k) as f64)),
            Job::Linear { l: None, n, k, dtype, .. } => (Some((n * dtype.row_bytes(*k)) as f64), None),
            Job::Sample { vocab_size, .. } => (Some(4.0 * *vocab_size as f64), None),
            Job::Prefill { model, tokens } => (None, Some(model.prefill_flops(*tokens))),
            Job::Decode { model, .. } => (Some(model.bytes() as f64), None),
            #[cfg(not(target_arch = "wasm32"))]
            Job::Backward(kernel) => kernel.work(),
            #[cfg(not(target_arch = "wasm32"))]
            Job::Training(training) => (None, Some(training.flops())),
        }
    }

    /// Tokens of what the row's wall time is of, where that is a whole model's.
    pub fn tokens(&self) -> Option<usize> {
        match self {
            Job::Prefill { tokens, .. } => Some(*tokens),
            Job::Decode { texts, .. } => Some(*texts),
            #[cfg(not(target_arch = "wasm32"))]
            Job::Training(training) => Some(training.tokens()),
            _ => None,
        }
    }

    /// Whose speed tells this one's, the best teller first; the first is its own.
    pub fn kinds(&self) -> Vec<Kind> {
        let kind = |suite, variant: &str| (suite, variant.to_owned());
        match self {
            Job::Copy { .. } => vec![kind(Suite::Ceilings, "copy")],
            Job::Fma => vec![kind(Suite::Ceilings, "fma")],
            Job::Alone(alone) => {
                let copy = kind(Suite::Ceilings, "copy");
                match alone.kernel {
                    Kernel::Scan(rung, _) => vec![kind(Suite::Scan, &rung.to_string()), copy],
                    #[cfg(not(target_arch = "wasm32"))]
                    Kernel::ScanBackward { .. } => {
                        vec![kind(Suite::Backward, &alone.kernel.to_string()), kind(Suite::Scan, "fused"), copy]
                    }
                    #[cfg(not(target_arch = "wasm32"))]
                    Kernel::Conv1dBackward => vec![kind(Suite::Backward, &alone.kernel.to_string()), copy],
                }
            }
            #[cfg(not(target_arch = "wasm32"))]
            Job::Ssd(alone) => {
                vec![kind(Suite::Scan, &alone.kernel.to_string()), kind(Suite::Ceilings, "copy")]
            }
            Job::Linear { l: Some(_), dtype, act, .. } => {
                vec![
                    kind(Suite::Matmul, &format!("matmul {}", with_activations(&dtype.to_string(), *act))),
                    kind(Suite::Ceilings, "fma"),
                ]
            }
            Job::Linear { l: None, dtype, .. } => {
                vec![kind(Suite::Matmul, &format!("matvec {dtype}")), kind(Suite::Ceilings, "copy")]
            }
            Job::Sample { variant, .. } => vec![kind(Suite::Sampling, variant)],
            Job::Prefill { model, .. } => {
                let dtype = model.spec.dtype;
                let (own, near) = (kind(Suite::Prefill, &dtype.to_string()), format!("matmul {dtype}"));
                vec![own, kind(Suite::Matmul, &near), kind(Suite::Prefill, &one_token(dtype))]
            }
            Job::Decode { model, texts, .. } => {
                let dtype = model.spec.dtype;
                let own = kind(Suite::Decode, &with_texts(&dtype.to_string(), *texts));
                let near = format!("matvec {dtype}");
                vec![own, kind(Suite::Matmul, &near), kind(Suite::Decode, &one_token(dtype))]
            }
            #[cfg(not(target_arch = "wasm32"))]
            Job::Backward(kernel) => kernel.kinds(),
            #[cfg(not(target_arch = "wasm32"))]
            Job::Training(training) => training.kinds(),
        }
    }

    /// What the row needs the adapter to hold activations in.
    pub fn activations(&self) -> NumberFormat {
        match self {
            Job::Alone(alone) => alone.format(),
            Job::Linear { act, .. } => *act,
            #[cfg(not(target_arch = "wasm32"))]
            Job::Ssd(alone) => alone.kernel.act,
            _ => NumberFormat::F32,
        }
    }

    /// Bytes of the largest tensor that a kernel has to see at once, where that may be more than an adapter shows.
    pub fn largest_binding(&self) -> Option<u64> {
        match self {
            Job::Alone(alone) => Some(alone.largest_binding()),
            #[cfg(not(target_arch = "wasm32"))]
            Job::Ssd(alone) => Some(alone.largest_binding()),
            _ => None,
        }
    }

    pub fn model(&self) -> Option<&Model> {
        match self {
            Job::Prefill { model, .. } | Job::Decode { model, .. } => Some(model),
            _ => None,
        }
    }

    /// The ceilings, and the suites asked for in their order.
    pub fn all(options: &Options) -> Vec<Self> {
        let mut jobs = vec![Job::Copy { bytes: options.shapes.copy_bytes }, Job::Fma];
        for (i, suite) in options.suites.iter().enumerate() {
            if !options.suites[..i].contains(suite) {
                jobs.extend(Self::of(*suite, &options.shapes));
            }
        }
        jobs
    }

    fn of(suite: Suite, shapes: &Shapes) -> Vec<Self> {
        let mut jobs = Vec::new();
        match suite {
            Suite::Ceilings => {}
            Suite::Scan => {
                let f32s = Scan::ALL.into_iter().map(|rung| Kernel::Scan(rung, NumberFormat::F32));
                let kernels: Vec<_> = f32s.chain([Kernel::Scan(Scan::Fused, NumberFormat::F16)]).collect();
                jobs.extend(Self::alone(&kernels, &shapes.scan, shapes.d_state));
                #[cfg(not(target_arch = "wasm32"))]
                jobs.extend(Self::ssd(shapes));
            }
            Suite::Matmul => {
                let act = NumberFormat::F32;
                for dtype in [Dtype::F32, Dtype::F16] {
                    jobs.extend(shapes.matmul.iter().map(|&[l, n, k]| Job::Linear { l: Some(l), n, k, dtype, act }));
                    jobs.extend(shapes.matvec.iter().map(|&[n, k]| Job::Linear { l: None, n, k, dtype, act }));
                }
                let (dtype, act16) = (Dtype::F16, NumberFormat::F16);
                jobs.extend(shapes.matmul.iter().map(|&[l, n, k]| Job::Linear { l: Some(l), n, k, dtype, act: act16 }));
                for dtype in [Dtype::Q8, Dtype::Q4] {
                    jobs.extend(shapes.matvec.iter().map(|&[n, k]| Job::Linear { l: None, n, k, dtype, act }));
                }
            }
            Suite::Sampling => {
                for &vocab_size in &shapes.sampling {
                    jobs.extend(samplers().map(|(variant, params)| Job::Sample { vocab_size, variant, params }));
                }
            }
            Suite::Prefill => {
                for (model, dtype) in Self::models(shapes, &[Dtype::F16, Dtype::F32]) {
                    let prefill = |&tokens: &usize| Job::Prefill { model: model.clone(), tokens };
                    jobs.extend(shapes.prefill.iter().map(prefill));
                    let long = shapes.long.iter().filter(|(of, _)| *of == model.name && dtype == Dtype::F16);
                    jobs.extend(long.map(|(_, tokens)| prefill(tokens)));
                }
            }
            Suite::Decode => {
                let (prompt, tokens) = shapes.decode;
                let models = Self::models(shapes, &[Dtype::F16, Dtype::Q8, Dtype::Q4, Dtype::F32]);
                jobs.extend(models.flat_map(|(model, _)| {
                    let decode = move |&texts: &usize| Job::Decode { model: model.clone(), prompt, tokens, texts };
                    shapes.batch.iter().map(decode)
                }));
            }
            #[cfg(not(target_arch = "wasm32"))]
            Suite::Backward => {
                let scans = [false, true].map(|whole| Kernel::ScanBackward { whole });
                jobs.extend(Self::alone(&scans, &shapes.scan_backward, shapes.d_state));
                jobs.extend(Self::alone(&[Kernel::Conv1dBackward], &shapes.conv1d_backward, shapes.d_state));
                jobs.extend(backward::kernels(shapes).into_iter().map(Job::Backward));
            }
            #[cfg(not(target_arch = "wasm32"))]
            Suite::Training => {
                for (name, spec, [sequences, length]) in &shapes.training {
                    jobs.extend([false, true].map(|adamw| {
                        let (name, spec, sequences, length) = (name.clone(), spec.clone(), *sequences, *length);
                        Job::Training(training::Training { name, spec, sequences, length, adamw })
                    }));
                }
            }
            #[cfg(target_arch = "wasm32")]
            Suite::Backward | Suite::Training => {}
        }
        jobs
    }

    /// Kernels of a kind of layer, at (channels, tokens).
    fn alone(kernels: &[Kernel], sizes: &[(usize, usize)], states: usize) -> Vec<Self> {
        let of = |&(channels, l): &(usize, usize)| {
            let shape = mamba1::Shape::of_channels(channels, states);
            kernels.iter().map(move |&kernel| Job::Alone(Alone { kernel, shape, l }))
        };
        sizes.iter().flat_map(of).collect()
    }

    /// Mamba-2's recurrence in the layers of its models that are measured.
    #[cfg(not(target_arch = "wasm32"))]
    fn ssd(shapes: &Shapes) -> Vec<Self> {
        let layers = shapes.models.iter().filter_map(|(_, spec)| spec.layer.mamba2());
        let of = |(&shape, &l)| {
            mamba2::Kernel::all().into_iter().map(move |kernel| Job::Ssd(mamba2::Alone { kernel, shape, l }))
        };
        layers.flat_map(|shape| shapes.ssd.iter().map(move |l| (shape, l))).flat_map(of).collect()
    }

    /// The models in some formats, those of one size together.
    fn models<'a>(shapes: &'a Shapes, dtypes: &'a [Dtype]) -> impl Iterator<Item = (Model, Dtype)> + 'a {
        let model =
            |name: &String, spec: &Spec, dtype| Model { name: name.clone(), spec: Spec { dtype, ..spec.clone() } };
        shapes.models.iter().flat_map(move |(name, spec)| dtypes.iter().map(move |&d| (model(name, spec, d), d)))
    }
}
