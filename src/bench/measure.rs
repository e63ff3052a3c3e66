//! The stopwatch: repeats within a share of the time, and what earlier rows tell of later ones.

use super::report::{Row, Spread};
use super::Suite;
use crate::error::Result;
use crate::gpu::{Gpu, Plan, Tensor, Timer, Timing};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use web_time::{Duration, Instant};

/// A row repeats for its equal share of the time left, and is not begun if one run is likely to take more than so many
/// shares: fast rows leave some over.
const SINGLE_SHARES: u32 = 6;

/// Kinds of work whose speed carries over from one row to the next: a suite's variant, in its own unit.
pub(super) type Kind = (Suite, String);

/// The time limit, and the speeds measured so far.
pub(super) struct Clock {
    deadline: Instant,
    cancel: Arc<AtomicBool>,
    rows_left: u32,
    /// Units of work a second.
    speeds: HashMap<Kind, f64>,
}

impl Clock {
    pub fn new(limit: Duration, rows: usize, cancel: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        // A limit beyond what the clock can count is a day: no row takes that long.
        let deadline = now.checked_add(limit).unwrap_or(now + Duration::from_secs(86_400));
        Self { deadline, cancel, rows_left: rows as u32, speeds: HashMap::new() }
    }

    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn share(&self) -> Duration {
        self.left() / self.rows_left.max(1)
    }

    /// A row is done with.
    pub fn next_row(&mut self) {
        self.rows_left = self.rows_left.saturating_sub(1);
    }

    /// Why a run of `work` is not to be begun. `kinds`: whose speed tells how long it takes, the best teller first.
    pub fn refuses(&self, kinds: &[Kind], work: f64) -> Option<String> {
        if self.cancelled() {
            return Some("interrupted".into());
        }
        let left = self.left();
        if left.is_zero() {
            return Some("the time limit is reached".into());
        }
        let seconds = self.foreseen(kinds, work)?;
        let most = (self.share() * SINGLE_SHARES).min(left).as_secs_f64();
        (seconds > most).then(|| {
            format!("one run would take about {}, the time limit leaves {} for it", in_words(seconds), in_words(most))
        })
    }

    /// Seconds that `work` is likely to take, by the first of the kinds that is known.
    fn foreseen(&self, kinds: &[Kind], work: f64) -> Option<f64> {
        kinds.iter().find_map(|kind| self.speeds.get(kind)).map(|speed| work / speed)
    }

    /// Whether `work` is likely to take more than a row's equal share.
    pub fn takes_long(&self, kinds: &[Kind], work: f64) -> bool {
        self.foreseen(kinds, work).is_some_and(|seconds| seconds > self.share().as_secs_f64())
    }

    /// Whether anything is known of the speed of one of the kinds.
    pub fn knows(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.speeds.contains_key(kind))
    }

    /// `work` took so long.
    pub fn learn(&mut self, kind: Kind, work: f64, seconds: f64) {
        if seconds > 0.0 {
            self.speeds.insert(kind, work / seconds);
        }
    }

    /// A stopwatch for a row of at most `most` repeats.
    pub fn samples(&self, most: usize) -> Samples {
        let now = Instant::now();
        Samples { until: now + self.share(), warm_up: None, timings: Vec::new(), most, cancel: self.cancel.clone() }
    }
}

fn in_words(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// The repeats of one row.
pub(super) struct Samples {
    until: Instant,
    warm_up: Option<Timing>,
    timings: Vec<Timing>,
    most: usize,
    cancel: Arc<AtomicBool>,
}

impl Samples {
    /// Whether to run once more.
    pub fn more(&self) -> bool {
        if self.warm_up.is_none() {
            return true;
        }
        self.timings.len() < self.most && Instant::now() < self.until && !self.cancel.load(Ordering::Relaxed)
    }

    /// Whether nothing was run yet.
    pub fn is_empty(&self) -> bool {
        self.warm_up.is_none()
    }

    /// Whether the row's time is up, for runs that can end early.
    pub fn late(&self) -> bool {
        Instant::now() >= self.until || self.cancel.load(Ordering::Relaxed)
    }

    /// The first is the warm-up.
    pub fn push(&mut self, timing: Timing) {
        if self.warm_up.is_none() {
            self.warm_up = Some(timing);
        } else {
            self.timings.push(timing);
        }
    }

    /// The spreads, into a row. The warm-up counts only where there was no time for another run.
    pub fn finish(mut self, row: &mut Row) {
        if self.timings.is_empty() {
            self.timings.extend(self.warm_up);
        }
        // All or none: a median over runs that the device's clock happened to catch would mislead.
        let gpu: Option<Vec<f64>> = self.timings.iter().map(|t| t.gpu_ns.map(|ns| ns / 1e3)).collect();
        row.gpu_us = gpu.and_then(Spread::of);
        row.wall_us = Spread::of(self.timings.iter().map(|t| t.wall_ns / 1e3).collect());
    }
}

/// Runs a plan as often as its row's time allows.
pub(super) async fn repeat(clock: &Clock, gpu: &Gpu, plan: &Plan, most: usize, row: &mut Row) -> Result<()> {
    repeat_restored(clock, gpu, plan, &[], most, row).await
}

/// The same for a plan that writes over what it reads: before every run each second tensor is again what the first one is.
pub(super) async fn repeat_restored(
    clock: &Clock,
    gpu: &Gpu,
    plan: &Plan,
    restore: &[(&Tensor, &Tensor)],
    most: usize,
    row: &mut Row,
) -> Result<()> {
    let timer = Timer::new(gpu);
    let mut samples = clock.samples(most);
    while samples.more() {
        if !restore.is_empty() {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            restore.iter().for_each(|(from, to)| from.copy_to(&mut encoder, to));
            gpu.submit_and_wait(encoder.finish()).await?;
        }
        samples.push(timer.run(plan).await?);
    }
    samples.finish(row);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(limit: Duration, rows: usize) -> Clock {
        Clock::new(limit, rows, Arc::default())
    }

    #[test]
    fn slow_work_is_foreseen_by_the_best_teller() {
        let mut c = clock(Duration::from_secs(100), 10);
        let kind = |v: &str| (Suite::Scan, v.to_owned());
        assert_eq!(c.refuses(&[kind("a")], 1e12), None, "of an unknown kind, the first run tells");
        c.learn(kind("a"), 10.0, 1.0);
        assert_eq!(c.refuses(&[kind("a")], 100.0), None);
        assert!(c.refuses(&[kind("a")], 1000.0).unwrap().contains("100 s"));
        assert!(c.refuses(&[kind("b"), kind("a")], 1000.0).is_some());
        c.cancel.store(true, Ordering::Relaxed);
        assert_eq!(c.refuses(&[], 0.0).unwrap(), "interrupted");
        assert!(clock(Duration::ZERO, 1).refuses(&[], 0.0).unwrap().contains("limit"));
    }

    #[test]
    fn a_slow_run_is_its_own_warm_up_and_a_fast_one_is_not() {
        let timing = |us: f64| Timing { gpu_ns: Some(us * 500.0), wall_ns: us * 1e3 };
        let mut row = Row::new(Suite::Scan, "", "");
        let mut samples = clock(Duration::from_secs(100), 1).samples(2);
        for us in [50.0, 10.0, 20.0] {
            assert!(samples.more());
            samples.push(timing(us));
        }
        assert!(!samples.more());
        samples.finish(&mut row);
        assert_eq!((row.wall_us.unwrap().median, row.gpu_us.unwrap().median), (15.0, 7.5));

        let mut samples = clock(Duration::ZERO, 1).samples(2);
        assert!(samples.more(), "at least once");
        samples.push(Timing { gpu_ns: None, ..timing(10.0) });
        assert!(!samples.more());
        samples.finish(&mut row);
        assert_eq!((row.wall_us.unwrap().n, row.gpu_us), (1, None));
    }
}
