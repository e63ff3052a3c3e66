//! The reference: a short dispatch of multiply-adds in registers, whose time tells the device's clock on every adapter, and
//! which serves as the load that raises it. Its inputs and outputs are so few that no cache notices it.

use super::spread::median;
use super::steady::{Agreement, Group, MOST_SLOWDOWN};
use crate::error::Result;
use crate::gpu::{Gpu, GpuError, Pass, Plan, PlanBuilder, Tensor, Timer};
use crate::kernels;
use web_time::{Duration, Instant};

/// How long it takes at full clock: long enough for the clock that it is timed by. Browsers give timestamps in steps of 100 us, and
/// by the host's clock the wait is in it; software adapters share their cores with the rest of the machine.
const SHORT_NS: f64 = 1e5;
const LONG_NS: f64 = 2e6;
/// How often it runs each time that it is asked, for the median.
pub(super) const TIMES: usize = 3;
/// Invocations that fill any device, and the least.
const INVOCATIONS: [usize; 2] = [1 << 8, 1 << 18];
const ROUNDS: [usize; 2] = [4, 1 << 16];
/// A warm-up's load a submission.
const LOAD_NS: f64 = 1e7;
/// Until a device that does not get steady is measured all the same: so many times as long as a warm-up lasts.
const PATIENCE: u32 = 3;
/// After the longer pause the whole warm-up is needed, and after the shorter one if the clock has fallen; otherwise this part of it.
const PAUSE: Duration = Duration::from_millis(50);
const LONG_PAUSE: Duration = Duration::from_millis(500);
const UNPAUSED: u32 = 5;

pub(super) struct Pulse {
    sums: Tensor,
    rounds: usize,
    plan: Plan,
    timer: Timer,
    /// Its best time, in nanoseconds.
    best: f64,
    /// When the device last had work.
    worked: Option<Instant>,
}

fn plan_of(gpu: &Gpu, sums: &Tensor, rounds: usize) -> Result<Plan, GpuError> {
    let mut plan = PlanBuilder::new(gpu);
    kernels::bench_fma(&mut plan, sums, rounds)?;
    plan.finish()
}

impl Pulse {
    /// Finds its length, with the clock raised for as long as `warm_up`.
    pub async fn new(gpu: &Gpu, warm_up: Duration) -> Result<Self> {
        let timer = Timer::with_room(gpu, 2 * TIMES);
        let long =
            cfg!(target_arch = "wasm32") || !timer.has_timestamps() || gpu.adapter_summary().device_type == "Cpu";
        let target = if long { LONG_NS } else { SHORT_NS };
        let (mut invocations, mut rounds) = (INVOCATIONS[0], ROUNDS[0]);
        let sums = Tensor::zeros(gpu, "reference", invocations)?;
        let plan = plan_of(gpu, &sums, rounds)?;
        let mut pulse = Self { sums, rounds, plan, timer, best: f64::INFINITY, worked: None };
        loop {
            let ns = pulse.time().await?;
            if ns >= target / 2.0 || rounds >= ROUNDS[1] {
                break;
            }
            match invocations < INVOCATIONS[1] {
                true => invocations *= 4,
                false => rounds *= 2,
            }
            pulse.sums = Tensor::zeros(gpu, "reference", invocations)?;
            pulse.set(gpu, rounds)?;
        }
        // So far at whatever clock there was: the right length is the one at the full clock.
        pulse.warm_up(warm_up).await?;
        let rounds = pulse.rounds as f64 * (target / pulse.best).clamp(0.25, 64.0);
        pulse.set(gpu, (rounds as usize).clamp(1, ROUNDS[1]))?;
        pulse.warm_up(warm_up / UNPAUSED).await?;
        Ok(pulse)
    }

    fn set(&mut self, gpu: &Gpu, rounds: usize) -> Result<(), GpuError> {
        self.plan = plan_of(gpu, &self.sums, rounds)?;
        (self.rounds, self.best) = (rounds, f64::INFINITY);
        Ok(())
    }

    /// Its best time so far, in nanoseconds.
    pub fn best(&self) -> f64 {
        self.best
    }

    /// Bytes that it holds on the device.
    pub fn bytes(&self) -> u64 {
        self.sums.bytes() as u64
    }

    /// A run of it among others.
    pub fn pass(&self, timed: bool) -> Pass<'_> {
        Pass { plan: &self.plan, restore: &[], timed }
    }

    /// Takes note of a time of it, for the best; gives it back.
    pub fn seen(&mut self, ns: f64) -> f64 {
        self.worked = Some(Instant::now());
        if ns > 0.0 {
            self.best = self.best.min(ns);
        }
        ns
    }

    /// The slower of its times before and after something; both for the best.
    pub fn both(&mut self, before: &[f64], after: &[f64]) -> f64 {
        let (before, after) = (median(before).unwrap_or(f64::NAN), median(after).unwrap_or(f64::NAN));
        self.seen(before).max(self.seen(after))
    }

    /// Runs something `n` times, itself before and after.
    pub async fn beside(&mut self, n: usize, mut run: impl AsyncFnMut() -> Result<f64>) -> Result<Group> {
        let before = self.time().await?;
        let mut samples = Vec::with_capacity(n);
        for _ in 0..n {
            samples.push(run().await?);
        }
        let after = self.time().await?;
        Ok(Group { samples, reference: before.max(after) })
    }

    /// The device works on something else until now.
    pub fn worked(&mut self) {
        self.worked = Some(Instant::now());
    }

    /// How long it takes now: the median of a few.
    pub async fn time(&mut self) -> Result<f64> {
        self.load(0).await
    }

    /// The same after so many runs of it.
    async fn load(&mut self, before: usize) -> Result<f64> {
        let mut times = Vec::with_capacity(TIMES);
        if self.timer.has_timestamps() {
            let mut passes = vec![self.pass(false); before + 1];
            passes.extend([self.pass(true); TIMES]);
            times.extend(self.timer.passes(&passes).await?.0.into_iter().flatten());
        }
        // By the host's clock: without timestamps, or with some that make no sense.
        if times.is_empty() {
            self.timer.passes(&vec![self.pass(false); before + 1]).await?;
            for _ in 0..TIMES {
                times.push(self.timer.passes(&[self.pass(false)]).await?.1);
            }
        }
        Ok(self.seen(median(&times).unwrap_or(f64::INFINITY)))
    }

    /// Keeps the device busy, for as long as `least` where its clock has fallen or it has idled long enough for that, and for a part of it
    /// otherwise, until its clock stands still where it was at best; or until patience ends.
    pub async fn warm_up(&mut self, least: Duration) -> Result<()> {
        let begin = Instant::now();
        let (best, idle) = (self.best, self.worked.map(|worked| worked.elapsed()));
        let mut ns = self.time().await?;
        let fresh = match idle {
            Some(idle) => idle < PAUSE || (idle < LONG_PAUSE && ns <= best * MOST_SLOWDOWN),
            None => false,
        };
        let least = if fresh { least / UNPAUSED } else { least };
        let mut agreement = Agreement::default();
        loop {
            let steady = agreement.reached(ns) && ns <= self.best * MOST_SLOWDOWN;
            let elapsed = begin.elapsed();
            if elapsed >= least && (steady || elapsed >= least * PATIENCE) {
                return Ok(());
            }
            let runs = (LOAD_NS / ns.max(1.0)).clamp(0.0, 100.0);
            ns = self.load(runs as usize).await?;
        }
    }
}
