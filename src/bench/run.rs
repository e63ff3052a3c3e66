//! The loop over the rows.

use super::jobs::{one_token, Job};
use super::measure::{Clock, Kind, Meter};
use super::models::{LoadedModel, Model, LEAST_DECODED};
use super::options::Options;
use super::placements::{self, Budget, PLACES};
use super::report::{Ceilings, Device, Report, Row};
use super::spread::rounded;
use super::suite::Suite;
#[cfg(not(target_arch = "wasm32"))]
use super::training;
use super::{kernels, models};
use crate::error::Result;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError};
use crate::Error;
use web_time::Instant;

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

/// A prompt's operations come that much faster than a single token's at least: its weights are read once for many.
const PROMPT_SPEED_UP: f64 = 4.0;

/// The commit that this crate was built from, or "unknown".
pub const COMMIT: &str = match option_env!("MAMBA_WGPU_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// A run under way.
struct Run<'a> {
    gpu: &'a Gpu,
    chunk: usize,
    meter: Meter<'a>,
    ceilings: Ceilings,
    /// The last model used: its rows stand beside each other.
    loaded: Option<LoadedModel>,
    #[cfg(not(target_arch = "wasm32"))]
    trained: Option<training::Trained>,
}

impl Run<'_> {
    /// Measures into the row, at several places. What it cannot measure, it says why.
    async fn measure(&mut self, job: &Job, row: &mut Row) -> Result<()> {
        row.skipped = self.does_not_fit(job).or_else(|| match job {
            // Every share is of these: they are measured whatever the time limit.
            Job::Copy { .. } | Job::Fma => self.meter.clock.cancelled().then(|| "interrupted".to_owned()),
            _ => self.refuses(job),
        });
        if row.skipped.is_none() && job.activations() == NumberFormat::F16 && !self.gpu.shader_f16() {
            row.skipped = Some("the adapter has no shader-f16".into());
        }
        #[cfg(not(target_arch = "wasm32"))]
        if matches!(job, Job::Ssd(alone) if row.skipped.is_none() && !alone.runs(self.gpu)) {
            row.skipped = Some("no cooperative matrices for it".into());
        }
        if row.skipped.is_some() {
            return Ok(());
        }
        self.meter.ceiling = matches!(job, Job::Copy { .. } | Job::Fma);
        let budget = Budget::new(&self.meter);
        let mut places = Vec::with_capacity(self.meter.places);
        // The model of the row before serves, if it is the same.
        self.meter.spacers.clear();
        self.clear(Some(job))?;
        let work = loop {
            let mut here = job.row(self.chunk);
            let work = self.measure_here(job, &mut here).await?;
            let skipped = here.skipped.is_some();
            if !skipped || places.is_empty() {
                places.push(here);
            }
            if skipped || !budget.allows_another(&self.meter, places.len()) {
                break work;
            }
            self.clear(None)?;
            placements::move_on(self.gpu, &mut self.meter, places.len())?;
        };
        row.take_from(&places);
        row.rate(work.0, work.1, &self.ceilings);
        match job {
            Job::Copy { .. } => self.ceilings.copy_gbps = row.gbps,
            Job::Fma => self.ceilings.fma_tflops = row.tflops,
            _ => {}
        }
        row.tokens_per_s = row.wall_us.zip(job.tokens()).map(|(wall, l)| rounded(l as f64 / wall.median * 1e6));
        Ok(())
    }

    /// Why a row is not to be begun, by what is known of the time that it takes.
    fn refuses(&self, job: &Job) -> Option<String> {
        let (bytes, flops) = job.work();
        let least = if matches!(job, Job::Decode { .. }) { LEAST_DECODED as f64 } else { 1.0 };
        self.meter.clock.refuses(&job.kinds(), bytes.or(flops).unwrap_or(0.0) * least)
    }

    /// Takes what the row `but` does not use off the device, or everything: what a suite before left there would decide
    /// where this one's buffers go, and count as its memory.
    fn clear(&mut self, but: Option<&Job>) -> Result<()> {
        if self.loaded.as_ref().is_some_and(|loaded| !but.and_then(Job::model).is_some_and(|model| loaded.is(model))) {
            self.loaded = None;
        }
        #[cfg(not(target_arch = "wasm32"))]
        if self.trained.as_ref().is_some_and(|t| !matches!(but, Some(Job::Training(training)) if t.is(training))) {
            self.trained = None;
        }
        Ok(self.gpu.settle()?)
    }

    /// Measures a row where the allocator puts its buffers now. Gives bytes and operations of what the times are of.
    async fn measure_here(&mut self, job: &Job, row: &mut Row) -> Result<(Option<f64>, Option<f64>)> {
        let (bytes, flops) = job.work();
        self.meter.next_place();
        if let Some(model) = job.model() {
            row.skipped = self.load(model).await?;
            if row.skipped.is_none() && !self.meter.clock.knows(&job.kinds()) {
                self.try_one_token(model).await?;
                row.skipped = self.refuses(job);
            }
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Job::Training(training) = job {
            row.skipped = self.prepare(training).await?;
        }
        if row.skipped.is_some() {
            return Ok((bytes, flops));
        }
        let (gpu, meter) = (self.gpu, &mut self.meter);
        let (bytes, flops) = match job {
            Job::Copy { bytes } => (Some(kernels::copy(gpu, meter, *bytes, row).await?), None),
            Job::Fma => (None, Some(kernels::fma(gpu, meter, row).await?)),
            Job::Alone(alone) => {
                let (plan, restore) = alone.prepare(gpu).await?;
                let restore: Vec<_> = restore.iter().map(|(from, to)| (from, to)).collect();
                meter.repeat(&plan, &restore, kernels::REPEATS, row).await?;
                (bytes, flops)
            }
            #[cfg(not(target_arch = "wasm32"))]
            Job::Ssd(alone) => {
                meter.repeat(&alone.prepare(gpu)?, &[], kernels::REPEATS, row).await?;
                (bytes, flops)
            }
            Job::Linear { l, n, k, dtype, act } => {
                kernels::linear(gpu, meter, *l, (*n, *k), (*dtype, *act), row).await?;
                (bytes, flops)
            }
            Job::Sample { vocab_size, params, .. } => {
                kernels::sample(gpu, meter, *vocab_size, params, row).await?;
                (bytes, flops)
            }
            Job::Prefill { tokens, .. } => {
                if let Some(loaded) = &mut self.loaded {
                    models::prefill(loaded, meter, *tokens, row).await?;
                }
                (bytes, flops)
            }
            Job::Decode { model, prompt, tokens, texts } => {
                let reading = Job::Prefill { model: model.clone(), tokens: *prompt };
                let slow = meter.clock.takes_long(&reading.kinds(), reading.work().1.unwrap_or(0.0));
                // Mamba's step costs the same after any prompt: on a slow adapter one token is prompt enough.
                let prompt = if slow { 1 } else { *prompt };
                if let Some(loaded) = &mut self.loaded {
                    match texts {
                        1 => models::decode(loaded, meter, prompt, *tokens, row).await?,
                        _ => models::decode_batch(loaded, meter, (*texts, prompt), *tokens, row).await?,
                    }
                }
                (bytes, flops)
            }
            #[cfg(not(target_arch = "wasm32"))]
            Job::Backward(kernel) => {
                kernel.measure(gpu, meter, row).await?;
                (bytes, flops)
            }
            #[cfg(not(target_arch = "wasm32"))]
            Job::Training(training) => {
                if let Some(trained) = &mut self.trained {
                    trained.measure(meter, training, row).await?;
                }
                (bytes, flops)
            }
        };
        if let Some(loaded) = &mut self.loaded {
            match job {
                Job::Prefill { tokens, .. } => {
                    row.memory_bytes = Some(self.meter.memory_bytes());
                    if *tokens <= self.chunk {
                        models::gpu_time(loaded, &mut self.meter, *tokens, row).await?;
                    }
                }
                Job::Decode { texts: 1, .. } => models::gpu_time(loaded, &mut self.meter, 1, row).await?,
                Job::Decode { texts, .. } => models::gpu_time_batch(loaded, &mut self.meter, *texts, row).await?,
                _ => {}
            }
        }
        self.learn(job.kinds(), bytes.or(flops), usize::MAX);
        Ok((bytes, flops))
    }

    /// Keeps the speed of the row that was measured last, as of `most` runs at most.
    fn learn(&mut self, kinds: Vec<Kind>, work: Option<f64>, most: usize) {
        if let (Some(kind), Some(work), Some((seconds, runs))) = (kinds.into_iter().next(), work, self.meter.fastest())
        {
            self.meter.clock.learn(kind, work, seconds, runs.min(most));
        }
    }

    /// Why a row cannot be measured on this adapter, however long it might take.
    fn does_not_fit(&self, job: &Job) -> Option<String> {
        let (bytes, limit) = (job.largest_binding()?, self.gpu.max_binding());
        (bytes > limit).then(|| {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            format!("a tensor of {} MiB, of which the adapter shows a shader {} at most", mib(bytes), mib(limit))
        })
    }

    /// Brings a model to the device unless it is there; or why not.
    async fn load(&mut self, model: &Model) -> Result<Option<String>> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.is(model)) {
            return Ok(None);
        }
        let kind = (Suite::Prefill, format!("load {}", model.spec.dtype));
        if let Some(reason) = self.meter.clock.refuses(std::slice::from_ref(&kind), model.bytes() as f64) {
            return Ok(Some(format!("loading the model: {reason}")));
        }
        let (loaded, seconds) = LoadedModel::new(self.gpu, model, self.chunk).await?;
        self.meter.clock.learn(kind, model.bytes() as f64, seconds, 1);
        self.loaded = Some(loaded);
        Ok(None)
    }

    /// Makes a model that can be trained unless there is one; or says why not.
    #[cfg(not(target_arch = "wasm32"))]
    async fn prepare(&mut self, training: &training::Training) -> Result<Option<String>> {
        if self.trained.as_ref().is_some_and(|trained| trained.is(training)) {
            return Ok(None);
        }
        if !self.meter.clock.knows(&training.kinds()) {
            let trial = Job::Backward(training.trial());
            let mut row = trial.row(self.chunk);
            training.trial().measure(self.gpu, &mut self.meter, &mut row).await?;
            // As of a single run, however many there were: so few tokens leave a fast adapter idle, which a step does not.
            self.learn(trial.kinds(), trial.work().1, 1);
            self.meter.take();
            if let Some(reason) = self.meter.clock.refuses(&training.kinds(), training.flops()) {
                return Ok(Some(reason));
            }
        }
        self.trained = Some(training::Trained::new(self.gpu, training)?);
        Ok(None)
    }

    /// Runs a model for one token, to foresee the rest by.
    async fn try_one_token(&mut self, model: &Model) -> Result<()> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let (seconds, runs) = models::one_token(loaded).await?;
        let kind = |suite| (suite, one_token(model.spec.dtype));
        self.meter.clock.learn(kind(Suite::Prefill), PROMPT_SPEED_UP * model.prefill_flops(1), seconds, runs);
        self.meter.clock.learn(kind(Suite::Decode), model.bytes() as f64, seconds, runs);
        Ok(())
    }
}

/// Measures on a device. Never fails: what could not be measured is a row with a reason.
pub async fn run(gpu: &Gpu, options: &Options, progress: &mut dyn FnMut(Progress<'_>)) -> Report {
    let jobs = Job::all(options);
    let clock = Clock::new(options.time_limit, jobs.len(), options.cancel.clone());
    let mut report = Report {
        device: Device::of(gpu),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: COMMIT.to_owned(),
        date: options.date.clone(),
        time_limit_s: options.time_limit.as_secs_f64(),
        interrupted: false,
        host: options.host.clone(),
        order: options.suites.clone(),
        reference_us: None,
        ceilings: Ceilings::default(),
        rows: Vec::with_capacity(jobs.len()),
    };
    // A software adapter's memory is the host's, and its time is short.
    let places = options.places.unwrap_or(if gpu.software() { 1 } else { PLACES });
    match Meter::new(gpu, clock, places, options).await {
        Ok(meter) => {
            let run = Run {
                gpu,
                chunk: options.chunk,
                meter,
                ceilings: Ceilings::default(),
                loaded: None,
                #[cfg(not(target_arch = "wasm32"))]
                trained: None,
            };
            run.all(&jobs, &mut report, progress).await;
        }
        Err(error) => {
            let skipped = Some(error.to_string());
            report.rows.extend(jobs.iter().map(|job| Row { skipped: skipped.clone(), ..job.row(options.chunk) }));
        }
    }
    // Measured in the order asked for, read suite by suite.
    report.rows.sort_by_key(|row| row.suite);
    report
}

impl Run<'_> {
    /// All rows, into the report.
    async fn all(mut self, jobs: &[Job], report: &mut Report, progress: &mut dyn FnMut(Progress<'_>)) {
        let total = jobs.len();
        let mut lost: Option<String> = None;
        let mut references = Vec::with_capacity(total);
        for (done, job) in jobs.iter().enumerate() {
            let begin = Instant::now();
            let mut row = job.row(self.chunk);
            progress(Progress { done, total, row: &row, rows: &report.rows });
            if lost.is_some() {
                row.skipped.clone_from(&lost);
            } else if let Err(error) = self.measure(job, &mut row).await {
                if matches!(error, Error::Gpu(GpuError::Lost { .. })) {
                    lost = Some(error.to_string());
                }
                row = Row { skipped: Some(error.to_string()), ..job.row(self.chunk) };
            }
            if matches!(job, Job::Copy { .. } | Job::Fma) {
                self.meter.clock.forgive(begin.elapsed());
            }
            self.meter.clock.next_row();
            let of_row = self.meter.take();
            row.discarded = of_row.discarded;
            references.push(of_row.reference);
            self.judge(&mut row, of_row.reference);
            report.rows.push(row);
        }
        // The best may have been seen after a row.
        for (row, reference) in report.rows.iter_mut().zip(references) {
            self.judge(row, reference);
        }
        report.interrupted = self.meter.clock.cancelled();
        report.ceilings = self.ceilings;
        let best = self.meter.pulse.best();
        report.reference_us = best.is_finite().then(|| rounded(best / 1e3));
    }

    /// Says how much slower the reference was beside a row, and what to beware of.
    fn judge(&self, row: &mut Row, reference: f64) {
        if row.skipped.is_none() {
            let slowdown = reference / self.meter.pulse.best();
            row.reference_slowdown = (slowdown > 0.0 && slowdown.is_finite()).then(|| rounded(slowdown));
            row.flags = row.flags();
        }
    }
}
