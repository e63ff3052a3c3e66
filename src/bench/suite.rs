//! Which rows there are, and the loop over them.

use super::measure::{Clock, Kind};
use super::models::{LoadedModel, Model};
use super::report::{Ceilings, Device, Report, Row};
use super::{kernels, models, COMMIT};
use crate::error::Result;
use crate::generate::SamplingParams;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError};
use crate::kernels::ScanShape;
use crate::model::synthetic::Spec;
use crate::model::{Dtype, Scan};
use crate::Error;
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use web_time::Duration;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// What the device can do at most. Part of every run.
    Ceilings,
    /// The selective scan's rungs.
    Scan,
    /// Linear layers, for many tokens (matmul) and for one (matvec).
    Matmul,
    /// A token from the logits.
    Sampling,
    /// Whole models reading a prompt.
    Prefill,
    /// Whole models writing greedily, a token at a time.
    Decode,
}

impl Suite {
    pub const ALL: [Suite; 6] =
        [Suite::Ceilings, Suite::Scan, Suite::Matmul, Suite::Sampling, Suite::Prefill, Suite::Decode];
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Suite::Ceilings => "ceilings",
            Suite::Scan => "scan",
            Suite::Matmul => "matmul",
            Suite::Sampling => "sampling",
            Suite::Prefill => "prefill",
            Suite::Decode => "decode",
        })
    }
}

/// What a run measures, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The ceilings are measured in any case.
    pub suites: Vec<Suite>,
    pub shapes: Shapes,
    pub time_limit: Duration,
    /// Tokens of a prompt that go through a model at once.
    pub chunk: usize,
    /// Goes into the report as it is: the library has no calendar.
    pub date: String,
    /// Set from outside, it ends the run after the dispatch on its way.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            suites: Suite::ALL.to_vec(),
            shapes: Shapes::default(),
            time_limit: Duration::from_secs(120),
            chunk: 8192,
            date: String::new(),
            cancel: Arc::default(),
        }
    }
}

/// The sizes measured. The default is what docs and records compare.
#[derive(Debug, Clone)]
pub struct Shapes {
    /// Bytes of the buffer that is copied, or what the device's limits allow of it.
    pub copy_bytes: u64,
    /// (d_inner, L)
    pub scan: Vec<(usize, usize)>,
    pub d_state: usize,
    /// (L, outputs, inputs)
    pub matmul: Vec<[usize; 3]>,
    /// (outputs, inputs)
    pub matvec: Vec<[usize; 2]>,
    /// Tokens of the vocabulary to choose from.
    pub sampling: Vec<usize>,
    /// By name; their `dtype` is of no matter, each is measured in f16 and f32.
    pub models: Vec<(String, Spec)>,
    /// Lengths of prompts to read.
    pub prefill: Vec<usize>,
    /// A length beyond what is usual, for one model in f16: time a token and memory should not depend on it.
    pub long: Option<(String, usize)>,
    /// Length of the prompt before decoding, and tokens then decoded.
    pub decode: (usize, usize),
}

impl Default for Shapes {
    fn default() -> Self {
        Self {
            copy_bytes: 256 << 20,
            scan: vec![(1536, 512), (1536, 2048), (1536, 8192), (5120, 2048), (5120, 8192), (1536, 65_536)],
            d_state: 16,
            matmul: vec![[512, 3072, 768], [2048, 8192, 2048], [2048, 4096, 4096]],
            matvec: vec![[3072, 768], [8192, 2048], [10_240, 2560], [50_280, 2560]],
            sampling: vec![50_280],
            models: Self::MODELS.iter().filter_map(|name| Some((name.to_string(), Spec::preset(name)?))).collect(),
            prefill: vec![512, 2048, 8192],
            long: Some(("130m".into(), 1 << 20)),
            decode: (100, 64),
        }
    }
}

impl Shapes {
    /// The published sizes.
    pub const MODELS: [&'static str; 5] = ["130m", "370m", "790m", "1.4b", "2.8b"];
}

/// Where a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    pub done: usize,
    pub total: usize,
    /// The row that is measured now, still without numbers.
    pub row: &'a Row,
    /// The rows before it, in the order in which they were measured.
    pub rows: &'a [Row],
}

/// What a row measures.
#[derive(Debug, Clone)]
pub(super) enum Job {
    Copy {
        bytes: u64,
    },
    Fma,
    Scan {
        rung: Scan,
        act: NumberFormat,
        shape: ScanShape,
    },
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
    Decode {
        model: Model,
        prompt: usize,
        tokens: usize,
    },
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

/// Tokens that a decode on a slow adapter ends after at the earliest.
pub(super) const LEAST_DECODED: usize = 4;

/// The speed of a single token, by which a model's first row is foreseen.
fn one_token(dtype: Dtype) -> String {
    format!("one token {dtype}")
}

/// A prompt's operations come that much faster than a single token's at least: its weights are read once for many.
const PROMPT_SPEED_UP: f64 = 4.0;

/// "f16", "f16, activations f16"; f32 goes without saying.
fn with_activations(variant: &str, act: NumberFormat) -> String {
    match act {
        NumberFormat::F32 => variant.to_owned(),
        NumberFormat::F16 => format!("{variant}, activations f16"),
    }
}

impl Job {
    fn row(&self, chunk: usize) -> Row {
        match self {
            Job::Copy { .. } => Row::new(Suite::Ceilings, "copy", "f32"),
            Job::Fma => Row::new(Suite::Ceilings, "fma", "f32"),
            Job::Scan { rung, act, shape } => Row {
                l: Some(shape.l),
                d_inner: Some(shape.d_inner),
                d_state: Some(shape.d_state),
                ..Row::new(
                    Suite::Scan,
                    format!("{}x{}", shape.d_inner, shape.l),
                    with_activations(&rung.to_string(), *act),
                )
            },
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
            Job::Decode { model, tokens, .. } => {
                Row { l: Some(*tokens), ..Row::new(Suite::Decode, &model.name, model.spec.dtype.to_string()) }
            }
        }
    }

    /// Bytes that must move, and operations, in what the row's times are of.
    fn work(&self) -> (Option<f64>, Option<f64>) {
        match self {
            Job::Copy { .. } | Job::Fma => (None, None), // settled by measuring
            Job::Scan { shape, act, .. } => {
                let (wide, narrow) = (4 * shape.l * shape.d_inner, 2 * shape.l * shape.d_state);
                (Some((act.bytes() * wide + 4 * narrow) as f64), None)
            }
            Job::Linear { l: Some(l), n, k, .. } => (None, Some(2.0 * *l as f64 * (n * k) as f64)),
            Job::Linear { l: None, n, k, dtype, .. } => (Some((n * dtype.row_bytes(*k)) as f64), None),
            Job::Sample { vocab_size, .. } => (Some(4.0 * *vocab_size as f64), None),
            Job::Prefill { model, tokens } => (None, Some(model.prefill_flops(*tokens))),
            Job::Decode { model, .. } => (Some(model.bytes() as f64), None),
        }
    }

    /// Whose speed tells this one's, the best teller first; the first is its own.
    fn kinds(&self) -> Vec<Kind> {
        let kind = |suite, variant: &str| (suite, variant.to_owned());
        match self {
            Job::Copy { .. } => vec![kind(Suite::Ceilings, "copy")],
            Job::Fma => vec![kind(Suite::Ceilings, "fma")],
            Job::Scan { rung, .. } => vec![kind(Suite::Scan, &rung.to_string()), kind(Suite::Ceilings, "copy")],
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
            Job::Decode { model, .. } => {
                let dtype = model.spec.dtype;
                let (own, near) = (kind(Suite::Decode, &dtype.to_string()), format!("matvec {dtype}"));
                vec![own, kind(Suite::Matmul, &near), kind(Suite::Decode, &one_token(dtype))]
            }
        }
    }

    /// What the row needs the adapter to hold activations in.
    fn activations(&self) -> NumberFormat {
        match self {
            Job::Scan { act, .. } | Job::Linear { act, .. } => *act,
            _ => NumberFormat::F32,
        }
    }

    fn model(&self) -> Option<&Model> {
        match self {
            Job::Prefill { model, .. } | Job::Decode { model, .. } => Some(model),
            _ => None,
        }
    }

    fn all(options: &Options) -> Vec<Self> {
        let shapes = &options.shapes;
        let wanted = |suite| options.suites.contains(&suite);
        let mut jobs = vec![Job::Copy { bytes: shapes.copy_bytes }, Job::Fma];
        if wanted(Suite::Scan) {
            for &(d_inner, l) in &shapes.scan {
                let shape = kernels::scan_shape(l, d_inner, shapes.d_state);
                jobs.extend(Scan::ALL.map(|rung| Job::Scan { rung, act: NumberFormat::F32, shape }));
                jobs.push(Job::Scan { rung: Scan::Fused, act: NumberFormat::F16, shape });
            }
        }
        if wanted(Suite::Matmul) {
            let act = NumberFormat::F32;
            for dtype in [Dtype::F32, Dtype::F16] {
                jobs.extend(shapes.matmul.iter().map(|&[l, n, k]| Job::Linear { l: Some(l), n, k, dtype, act }));
                jobs.extend(shapes.matvec.iter().map(|&[n, k]| Job::Linear { l: None, n, k, dtype, act }));
            }
            let (dtype, act) = (Dtype::F16, NumberFormat::F16);
            jobs.extend(shapes.matmul.iter().map(|&[l, n, k]| Job::Linear { l: Some(l), n, k, dtype, act }));
            for dtype in [Dtype::Q8, Dtype::Q4] {
                let act = NumberFormat::F32;
                jobs.extend(shapes.matvec.iter().map(|&[n, k]| Job::Linear { l: None, n, k, dtype, act }));
            }
        }
        if wanted(Suite::Sampling) {
            for &vocab_size in &shapes.sampling {
                jobs.extend(samplers().map(|(variant, params)| Job::Sample { vocab_size, variant, params }));
            }
        }
        for (name, spec) in &shapes.models {
            for dtype in [Dtype::F16, Dtype::Q8, Dtype::Q4, Dtype::F32] {
                let quantised = matches!(dtype, Dtype::Q8 | Dtype::Q4);
                let model = Model { name: name.clone(), spec: Spec { dtype, ..spec.clone() } };
                if wanted(Suite::Prefill) && !quantised {
                    let prefill = |&tokens: &usize| Job::Prefill { model: model.clone(), tokens };
                    jobs.extend(shapes.prefill.iter().map(prefill));
                    let long = shapes.long.iter().filter(|(of, _)| of == name && dtype == Dtype::F16);
                    jobs.extend(long.map(|(_, tokens)| prefill(tokens)));
                }
                if wanted(Suite::Decode) {
                    let (prompt, tokens) = shapes.decode;
                    jobs.push(Job::Decode { model, prompt, tokens });
                }
            }
        }
        jobs
    }
}

/// A run under way.
struct Run<'a> {
    gpu: &'a Gpu,
    chunk: usize,
    clock: Clock,
    ceilings: Ceilings,
    /// The last model used: its rows stand beside each other.
    loaded: Option<LoadedModel>,
}

impl Run<'_> {
    /// Measures into the row. What it cannot measure, it says why.
    async fn measure(&mut self, job: &Job, row: &mut Row) -> Result<()> {
        let (bytes, flops) = job.work();
        let work = bytes.or(flops).unwrap_or(0.0);
        let least = if matches!(job, Job::Decode { .. }) { LEAST_DECODED as f64 } else { 1.0 };
        row.skipped = self.clock.refuses(&job.kinds(), work * least);
        if row.skipped.is_some() {
            return Ok(());
        }
        if job.activations() == NumberFormat::F16 && !self.gpu.shader_f16() {
            row.skipped = Some("the adapter has no shader-f16".into());
            return Ok(());
        }
        if let Some(model) = job.model() {
            row.skipped = self.load(model).await?;
            if row.skipped.is_none() && !self.clock.knows(&job.kinds()) {
                self.try_one_token(model).await?;
                row.skipped = self.clock.refuses(&job.kinds(), work * least);
            }
            if row.skipped.is_some() {
                return Ok(());
            }
        }
        let (bytes, flops) = match job {
            Job::Copy { bytes } => (Some(kernels::copy(self.gpu, &self.clock, *bytes, row).await?), None),
            Job::Fma => (None, Some(kernels::fma(self.gpu, &self.clock, row).await?)),
            Job::Scan { rung, act, shape } => {
                kernels::scan(self.gpu, &self.clock, (*rung, *act), *shape, row).await?;
                (bytes, flops)
            }
            Job::Linear { l, n, k, dtype, act } => {
                kernels::linear(self.gpu, &self.clock, *l, (*n, *k), (*dtype, *act), row).await?;
                (bytes, flops)
            }
            Job::Sample { vocab_size, params, .. } => {
                kernels::sample(self.gpu, &self.clock, *vocab_size, params, row).await?;
                (bytes, flops)
            }
            Job::Prefill { tokens, .. } => {
                if let Some(loaded) = &mut self.loaded {
                    models::prefill(loaded, &self.clock, *tokens, row).await?;
                }
                (bytes, flops)
            }
            Job::Decode { model, prompt, tokens } => {
                let reading = Job::Prefill { model: model.clone(), tokens: *prompt };
                let slow = self.clock.takes_long(&reading.kinds(), reading.work().1.unwrap_or(0.0));
                // Mamba's step costs the same after any prompt: on a slow adapter one token is prompt enough.
                let prompt = if slow { 1 } else { *prompt };
                if let Some(loaded) = &mut self.loaded {
                    models::decode(loaded, &self.clock, prompt, *tokens, row).await?;
                }
                (bytes, flops)
            }
        };
        match job {
            Job::Copy { .. } => {
                row.rate(bytes, flops, &Ceilings::default());
                self.ceilings.copy_gbps = row.gbps;
            }
            Job::Fma => {
                row.rate(bytes, flops, &Ceilings::default());
                self.ceilings.fma_tflops = row.tflops;
            }
            _ => row.rate(bytes, flops, &self.ceilings),
        }
        // After the rates, which are of the wall time that users see.
        if let (Job::Prefill { tokens: l, .. } | Job::Decode { prompt: l, .. }, Some(loaded)) = (job, &mut self.loaded)
        {
            let decodes = matches!(job, Job::Decode { .. });
            if !decodes {
                row.memory_bytes = Some(self.gpu.memory_bytes().0);
            }
            if decodes || *l <= self.chunk {
                models::gpu_time(loaded, &self.clock, self.gpu, if decodes { 1 } else { *l }, row).await?;
            }
        }
        let kind = job.kinds().into_iter().next();
        if let (Some(kind), Some(wall), Some(work)) = (kind, row.wall_us, bytes.or(flops)) {
            self.clock.learn(kind, work, wall.median / 1e6);
        }
        Ok(())
    }

    /// Brings a model to the device unless it is there; or why not.
    async fn load(&mut self, model: &Model) -> Result<Option<String>> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.is(model)) {
            return Ok(None);
        }
        // The one before must go first: two may not fit.
        self.loaded = None;
        let kind = (Suite::Prefill, format!("load {}", model.spec.dtype));
        if let Some(reason) = self.clock.refuses(std::slice::from_ref(&kind), model.bytes() as f64) {
            return Ok(Some(format!("loading the model: {reason}")));
        }
        let (loaded, seconds) = LoadedModel::new(self.gpu, model, self.chunk).await?;
        self.clock.learn(kind, model.bytes() as f64, seconds);
        self.loaded = Some(loaded);
        Ok(None)
    }

    /// Runs a model for one token, to foresee the rest by.
    async fn try_one_token(&mut self, model: &Model) -> Result<()> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let seconds = models::one_token(loaded).await?;
        let kind = |suite| (suite, one_token(model.spec.dtype));
        self.clock.learn(kind(Suite::Prefill), PROMPT_SPEED_UP * model.prefill_flops(1), seconds);
        self.clock.learn(kind(Suite::Decode), model.bytes() as f64, seconds);
        Ok(())
    }
}

/// Measures on a device. Never fails: what could not be measured is a row with a reason.
pub async fn run(gpu: &Gpu, options: &Options, progress: &mut dyn FnMut(Progress<'_>)) -> Report {
    let jobs = Job::all(options);
    let total = jobs.len();
    let mut run = Run {
        gpu,
        chunk: options.chunk,
        clock: Clock::new(options.time_limit, total, options.cancel.clone()),
        ceilings: Ceilings::default(),
        loaded: None,
    };
    let mut rows = Vec::with_capacity(total);
    let mut lost: Option<String> = None;
    for (done, job) in jobs.iter().enumerate() {
        let mut row = job.row(options.chunk);
        progress(Progress { done, total, row: &row, rows: &rows });
        if lost.is_some() {
            row.skipped.clone_from(&lost);
        } else if let Err(error) = run.measure(job, &mut row).await {
            if matches!(error, Error::Gpu(GpuError::Lost { .. })) {
                lost = Some(error.to_string());
            }
            row = Row { skipped: Some(error.to_string()), ..job.row(options.chunk) };
        }
        run.clock.next_row();
        rows.push(row);
    }
    // Measured model by model, read suite by suite.
    rows.sort_by_key(|row| row.suite);
    Report {
        device: Device::of(gpu),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: COMMIT.to_owned(),
        date: options.date.clone(),
        time_limit_s: options.time_limit.as_secs_f64(),
        interrupted: run.clock.cancelled(),
        ceilings: run.ceilings,
        rows,
    }
}
