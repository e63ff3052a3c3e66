//! One row each of kernels run alone, on buffers full of harmless numbers.

use super::measure::Meter;
use super::report::Row;
use crate::error::Result;
use crate::generate::SamplingParams;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, Plan, PlanBuilder, Tensor, Timer};
use crate::kernels::{self, filled, Linear, SampleBuffers};
use crate::model::Dtype;

/// Repeats of a kernel at most.
pub(super) const REPEATS: usize = 30;

/// What a slow adapter copies: more than most caches hold, in a time that can be repeated.
const SLOW_COPY: u64 = 64 << 20;
/// An adapter is slow if that takes it longer.
const SLOW_COPY_NS: f64 = 2e7;

/// The copy ceiling; gives the bytes moved.
pub(super) async fn copy(gpu: &Gpu, meter: &mut Meter<'_>, bytes: u64, row: &mut Row) -> Result<f64> {
    let bytes = bytes.min(gpu.max_binding()) / 16 * 16;
    let plan_of = |bytes: u64| -> Result<Plan> {
        let elements = (bytes / 4) as usize;
        let source = filled(gpu, "copy source", elements, (-1.0, 1.0), NumberFormat::F32)?;
        let destination = Tensor::zeros(gpu, "copy destination", elements)?;
        let mut plan = PlanBuilder::new(gpu);
        kernels::bench_copy(&mut plan, &source, &destination)?;
        Ok(plan.finish()?)
    };
    let (timer, trial) = (Timer::new(gpu), plan_of(bytes.min(SLOW_COPY))?);
    timer.run(&trial).await?;
    let slow = timer.run(&trial).await?.wall_ns > SLOW_COPY_NS;
    let (bytes, plan) = if slow { (bytes.min(SLOW_COPY), trial) } else { (bytes, plan_of(bytes)?) };
    meter.repeat(&plan, &[], REPEATS, row).await?;
    Ok(2.0 * bytes as f64)
}

/// Invocations and rounds of the arithmetic ceiling, from what a software adapter does in a moment on.
const FMA_SIZES: [(usize, usize); 4] = [(1 << 14, 16), (1 << 16, 64), (1 << 18, 256), (1 << 20, 512)];
/// Long enough that a launch does not count.
const FMA_ENOUGH_NS: f64 = 1e6;

/// The arithmetic ceiling; gives the operations.
pub(super) async fn fma(gpu: &Gpu, meter: &mut Meter<'_>, row: &mut Row) -> Result<f64> {
    let timer = Timer::new(gpu);
    for (i, (invocations, rounds)) in FMA_SIZES.into_iter().enumerate() {
        let sums = Tensor::zeros(gpu, "fma sums", invocations)?;
        let mut plan = PlanBuilder::new(gpu);
        kernels::bench_fma(&mut plan, &sums, rounds)?;
        let plan = plan.finish()?;
        timer.run(&plan).await?;
        let timing = timer.run(&plan).await?;
        // Without timestamps the wait is in the time: it must be a small part of it.
        let enough = timing.gpu_ns.map_or(timing.wall_ns > 10.0 * FMA_ENOUGH_NS, |ns| ns > FMA_ENOUGH_NS);
        if enough || i + 1 == FMA_SIZES.len() {
            meter.repeat(&plan, &[], REPEATS, row).await?;
            return Ok(kernels::bench_fma_flops(invocations, rounds));
        }
    }
    Ok(0.0)
}

/// A linear layer without bias: for `l` tokens, or matvec's single one.
pub(super) async fn linear(
    gpu: &Gpu,
    meter: &mut Meter<'_>,
    l: Option<usize>,
    (n, k): (usize, usize),
    (dtype, act): (Dtype, NumberFormat),
    row: &mut Row,
) -> Result<()> {
    let format = dtype.on_device();
    let mut weights = PlanBuilder::new(gpu);
    let w = kernels::fill_matrix(&mut weights, "w", (n, k), format, 0.1, 1)?;
    weights.finish()?.submit(gpu)?;
    let tokens = l.unwrap_or(1);
    let x = filled(gpu, "x", tokens * k, (-1.0, 1.0), act)?;
    let y = Tensor::activations(gpu, "y", tokens * n, act)?;
    let shape = Linear { l: tokens, x_stride: k, y_stride: n, softplus: false };
    let mut plan = PlanBuilder::new(gpu);
    match l {
        Some(_) => kernels::matmul(&mut plan, &x, &w, None, &y, shape)?,
        None => kernels::matvec(&mut plan, &x, &w, None, &y, shape)?,
    }
    let plan = plan.finish()?;
    meter.repeat(&plan, &[], REPEATS, row).await
}

/// One token out of `vocab_size`.
pub(super) async fn sample(
    gpu: &Gpu,
    meter: &mut Meter<'_>,
    vocab_size: usize,
    params: &SamplingParams,
    row: &mut Row,
) -> Result<()> {
    let logits = filled(gpu, "logits", vocab_size, (-10.0, 10.0), NumberFormat::F32)?;
    let buffers = SampleBuffers::new(gpu, vocab_size)?;
    let mut plan = PlanBuilder::new(gpu);
    kernels::sample(&mut plan, &logits, &buffers, vocab_size, params)?;
    let plan = plan.finish()?;
    meter.repeat(&plan, &[], REPEATS, row).await
}
