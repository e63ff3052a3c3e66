//! The stopwatch: what is measured once the device is warm, within a share of the time, and what earlier rows tell of later ones.

use super::options::{ClockReader, Options};
use super::pulse::{Pulse, TIMES};
use super::report::{ClockMhz, Row};
use super::steady::{Agreement, Group, Next, Outcome, Series};
use super::suite::Suite;
use crate::error::Result;
use crate::gpu::{Gpu, Pass, Plan, Tensor, Timer};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use web_time::{Duration, Instant};

/// A row repeats for its equal share of the time left, and is not begun if one run is likely to take more than so many
/// shares: fast rows leave some over.
const SINGLE_SHARES: u32 = 4;
/// What a speed known from a single run may be wrong by.
const DOUBT: f64 = 4.0;

/// Kinds of work whose speed carries over from one row to the next: a suite's variant, in its own unit.
pub(super) type Kind = (Suite, String);

/// How fast a kind of work went.
#[derive(Debug, Clone, Copy)]
struct Speed {
    /// Units of work a second, at best.
    rate: f64,
    runs: usize,
}

/// The time limit, and the speeds measured so far.
pub(super) struct Clock {
    deadline: Instant,
    cancel: Arc<AtomicBool>,
    rows_left: u32,
    speeds: HashMap<Kind, Speed>,
}

impl Clock {
    pub fn new(limit: Duration, rows: usize, cancel: Arc<AtomicBool>) -> Self {
        // A limit may be beyond what the clock can count: nothing takes a year.
        let deadline = Instant::now() + limit.min(Duration::from_secs(365 * 86_400));
        Self { deadline, cancel, rows_left: rows as u32, speeds: HashMap::new() }
    }

    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub fn share(&self) -> Duration {
        self.left() / self.rows_left.max(1)
    }

    /// What was to be done whatever the limit took so long, and not from the others' time.
    pub fn forgive(&mut self, spent: Duration) {
        self.deadline += spent.saturating_sub(self.share());
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
        let (seconds, runs) = self.foreseen(kinds, work)?;
        let most = self.most_a_run().as_secs_f64();
        // A single run may have been an exception: of that speed only what is far too slow is refused.
        let doubt = if runs > 1 { 1.0 } else { DOUBT };
        (seconds > most * doubt).then(|| {
            format!(
                "one run would take about {} (by the fastest of {runs} like it), the time limit leaves {} for it",
                in_words(seconds),
                in_words(most)
            )
        })
    }

    /// What a single run may take.
    pub fn most_a_run(&self) -> Duration {
        (self.share() * SINGLE_SHARES).min(self.left())
    }

    /// Seconds that `work` is likely to take, by the first of the kinds that is known, and of how many runs that is known.
    fn foreseen(&self, kinds: &[Kind], work: f64) -> Option<(f64, usize)> {
        kinds.iter().find_map(|kind| self.speeds.get(kind)).map(|speed| (work / speed.rate, speed.runs))
    }

    /// Whether `work` is likely to take more than a row's equal share.
    pub fn takes_long(&self, kinds: &[Kind], work: f64) -> bool {
        self.foreseen(kinds, work).is_some_and(|(seconds, _)| seconds > self.share().as_secs_f64())
    }

    /// Whether anything is known of the speed of one of the kinds.
    pub fn knows(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.speeds.contains_key(kind))
    }

    /// `work` took so long at best, of so many runs.
    pub fn learn(&mut self, kind: Kind, work: f64, seconds: f64, runs: usize) {
        if seconds > 0.0 && seconds.is_finite() {
            self.speeds.insert(kind, Speed { rate: work / seconds, runs });
        }
    }
}

fn in_words(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// Timed passes of a submission at most, besides the reference's.
const GROUP: usize = 10;
/// Samples that are taken one right after the other take about so long together.
const GROUP_NS: f64 = 2e7;
/// Groups by which a row warms up at most.
const WARMING_GROUPS: usize = 8;
/// Runs by which the host's share of a kernel's time is told.
const WALL_RUNS: usize = 5;
/// What a row's time is not enough for is measured so often all the same, where that takes no more than a single run may.
pub(super) const LEAST: usize = 3;
/// Samples by the host's clock go on for as long as this though there are as many as asked for: in a run of a millisecond
/// the host's moods count, which last longer than ten of them.
pub(super) const HOSTED: Duration = Duration::from_millis(300);
/// As many of them are enough.
const HOSTED_SAMPLES: usize = 200;
/// A row whose runs take seconds like this one's is warmed up by them at its first place alone.
pub(super) const LONG_RUN: f64 = 0.5;
/// Samples of the ceilings, whatever the time limit: every share is of them.
const CEILING: usize = 10;

/// Measures rows on a device: the reference, the clock that its driver tells, the time limit.
pub(super) struct Meter<'a> {
    gpu: &'a Gpu,
    pub clock: Clock,
    pub pulse: Pulse,
    timer: Timer,
    warm_up: Duration,
    reader: Option<ClockReader>,
    /// At how many places each row is measured: its time and samples are shared out among them.
    pub places: usize,
    /// What is held so that a row's next place is another.
    pub spacers: Vec<Tensor>,
    /// Whether the row is a ceiling.
    pub ceiling: bool,
    of_row: OfRow,
    /// When the row's place was begun, and whether it is known from another to take long.
    place: (Instant, bool),
}

/// What a row's series came to, besides their times.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OfRow {
    /// The reference's slowest time beside samples that were kept, in nanoseconds.
    pub reference: f64,
    pub discarded: usize,
    /// Seconds of the fastest run, and of how many; of the first series at the place.
    pub fastest: Option<(f64, usize)>,
}

impl<'a> Meter<'a> {
    pub async fn new(gpu: &'a Gpu, clock: Clock, places: usize, options: &Options) -> Result<Self> {
        let (warm_up, reader) = (options.warm_up, options.clock_mhz.clone());
        let pulse = Pulse::new(gpu, warm_up.min(clock.left() / 20)).await?;
        let timer = Timer::new(gpu);
        let (places, spacers, place) = (places.max(1), Vec::new(), (Instant::now(), false));
        let (ceiling, of_row) = (false, OfRow::default());
        Ok(Self { gpu, clock, pulse, timer, warm_up, reader, places, spacers, ceiling, of_row, place })
    }

    /// What the series since the last call came to.
    pub fn take(&mut self) -> OfRow {
        std::mem::take(&mut self.of_row)
    }

    /// A row's next place comes: what its series come to is added, how fast it is begins anew.
    pub fn next_place(&mut self) {
        self.place = (Instant::now(), self.long_run().is_some());
        self.of_row.fastest = None;
    }

    /// Seconds of a run, if they are so many that it is warmed up by such at its first place alone.
    pub fn long_run(&self) -> Option<f64> {
        self.of_row.fastest.map(|(seconds, _)| seconds).filter(|seconds| *seconds >= LONG_RUN)
    }

    /// Seconds of the fastest run since, and of how many.
    pub fn fastest(&self) -> Option<(f64, usize)> {
        self.of_row.fastest
    }

    /// What was run so far did the row's work so often.
    pub fn each_of(&mut self, parts: usize) {
        if let Some((seconds, _)) = &mut self.of_row.fastest {
            *seconds /= parts.max(1) as f64;
        }
    }

    /// Bytes on the device but for the reference's and the spacers'.
    pub fn memory_bytes(&self) -> u64 {
        let spacers: u64 = self.spacers.iter().map(|spacer| spacer.bytes() as u64).sum();
        self.gpu.memory_bytes().0.saturating_sub(self.pulse.bytes() + spacers)
    }

    fn mhz(&self) -> Option<f64> {
        self.reader.as_ref().and_then(ClockReader::mhz)
    }

    /// One series: warms the device up, then what `take` measures until it is steady, then takes samples, so many at a time
    /// as `take` is asked for, as often as the row's time allows and at most `most` at all places together, or as many as last
    /// for `hosted`; again where the reference became slower meanwhile.
    pub async fn steady(
        &mut self,
        most: usize,
        hosted: Duration,
        row: &mut Row,
        mut take: impl AsyncFnMut(&mut Pulse, usize) -> Result<Group>,
    ) -> Result<Outcome> {
        let places = self.places;
        let (whole, share) = (self.clock.share(), self.clock.share() / places as u32);
        let begin = Instant::now();
        let needed = if self.ceiling { CEILING } else { LEAST };
        let mut series = Series::new(most.div_ceil(places), needed.div_ceil(places));
        let (groups, mut before) = (if self.place.1 { 0 } else { WARMING_GROUPS }, None);
        loop {
            let (run, size) = (series.fastest(), (GROUP_NS / series.fastest()).clamp(1.0, GROUP as f64) as usize);
            let (late, least) = (begin.elapsed() >= share || self.clock.cancelled(), self.least(run, whole));
            if late && !self.ceiling {
                series.give_up();
            }
            match series.next(late, least, size) {
                Next::Done => break,
                Next::Take(n) => {
                    let group = take(&mut self.pulse, n).await?;
                    series.push(group, self.pulse.best());
                }
                Next::WarmUp => {
                    self.pulse.warm_up(self.warm_up.min(whole / 2)).await?;
                    let (now, mut agreement, mut size) = (Instant::now(), Agreement::default(), 1);
                    for _ in 0..groups {
                        let group = take(&mut self.pulse, size).await?;
                        let agrees = agreement.reached(group.median());
                        series.warming(group);
                        if agrees || now.elapsed() >= share / 4 || self.clock.cancelled() {
                            break;
                        }
                        size = (GROUP_NS / series.fastest()).clamp(1.0, GROUP as f64 / 2.0) as usize;
                    }
                    series.warmed();
                    let lasting = (hosted.as_nanos() as f64 / series.fastest()) as usize;
                    series.at_least(lasting.min(HOSTED_SAMPLES).div_ceil(places));
                    before = before.or_else(|| self.mhz());
                }
            }
        }
        self.of_row.fastest = self.of_row.fastest.or(Some((series.fastest() / 1e9, series.runs())));
        let outcome = series.finish();
        self.of_row.reference = self.of_row.reference.max(outcome.reference);
        self.of_row.discarded += outcome.discarded;
        if let (Some(before), Some(after), None) = (before, self.mhz(), row.clock_mhz) {
            row.clock_mhz = Some(ClockMhz { before, after });
        }
        Ok(outcome)
    }

    /// Samples that a row takes at a place though its time is up; `run`: nanoseconds of one.
    fn least(&self, run: f64, share: Duration) -> usize {
        if self.clock.cancelled() {
            return 0;
        }
        if self.ceiling {
            return CEILING.div_ceil(self.places);
        }
        let run = run / 1e9;
        let single = (share * SINGLE_SHARES).min(self.clock.left()).as_secs_f64();
        // There will be no other place after one that took so long.
        let last = self.place.0.elapsed().as_secs_f64() > single;
        let here = if last { LEAST } else { LEAST.div_ceil(self.places) };
        match run {
            run if here as f64 * run <= single => here,
            // Of what takes longer than a single run may, the run that showed it is enough.
            run => usize::from(run <= single || run.is_infinite()),
        }
    }

    /// How long a plan takes by the device's clock, in microseconds; `None` without one. Before every run each second tensor of
    /// `restore` is again what the first one is.
    pub async fn device(
        &mut self,
        plan: &Plan,
        restore: &[(&Tensor, &Tensor)],
        most: usize,
        row: &mut Row,
    ) -> Result<Option<Outcome>> {
        Ok(self.device_and_wall(plan, restore, most, row).await?.map(|(outcome, _)| outcome))
    }

    /// The same, with the host's time of the last of them in microseconds, where that was long and alone.
    async fn device_and_wall(
        &mut self,
        plan: &Plan,
        restore: &[(&Tensor, &Tensor)],
        most: usize,
        row: &mut Row,
    ) -> Result<Option<(Outcome, Vec<f64>)>> {
        if !self.timer.has_timestamps() {
            return Ok(None);
        }
        let timer = Timer::with_room(self.gpu, GROUP + 2 * TIMES);
        let (mut fastest, mut walls) = (f64::INFINITY, Vec::new());
        let outcome = self.steady(most, Duration::ZERO, row, async |pulse, n| {
            // Both run once untimed: what is timed then shares its buffers with something before it, and waits for that. A long
            // run would not notice, nor does the first, which warms up.
            let mut passes = vec![pulse.pass(false)];
            let lead = (fastest < GROUP_NS).then_some(Pass { plan, restore, timed: false });
            passes.extend(lead);
            passes.extend([pulse.pass(true); TIMES]);
            passes.extend(vec![Pass { plan, restore, timed: true }; n]);
            passes.extend([pulse.pass(true); TIMES]);
            let (times, wall) = timer.passes(&passes).await?;
            let times: Vec<f64> = times.into_iter().map(|ns| ns.unwrap_or(f64::NAN)).collect();
            let (before, rest) = times.split_at(TIMES.min(times.len()));
            let (samples, after) = rest.split_at(n.min(rest.len()));
            fastest = samples.iter().copied().fold(fastest, f64::min);
            let reference = pulse.both(before, after);
            if lead.is_none() && n == 1 {
                // Less the reference's runs.
                let others = times.iter().sum::<f64>() - samples.iter().sum::<f64>();
                walls.push((wall - others * (2.0 * TIMES as f64 + 1.0) / (2.0 * TIMES as f64)) / 1e3);
            }
            Ok(Group { samples: samples.to_vec(), reference })
        });
        let outcome = outcome.await?;
        let long = fastest >= GROUP_NS && fastest.is_finite();
        let last = walls.len().saturating_sub(outcome.spread.map_or(0, |spread| spread.n).min(WALL_RUNS));
        let walls = if long { walls.split_off(last) } else { Vec::new() };
        Ok(Some((outcome, walls)))
    }

    /// A plan's times, by the device's clock and by the host's, into a row.
    pub async fn repeat(
        &mut self,
        plan: &Plan,
        restore: &[(&Tensor, &Tensor)],
        most: usize,
        row: &mut Row,
    ) -> Result<()> {
        let begin = Instant::now();
        let until = self.clock.share() / self.places as u32;
        if let Some((outcome, mut walls)) = self.device_and_wall(plan, restore, most, row).await? {
            row.gpu_us = outcome.spread;
            walls.retain(|us| us.is_finite() && *us > 0.0);
            // What the host adds, a submission and the wait, is to be seen in short runs by themselves.
            while walls.len() < WALL_RUNS.div_ceil(self.places)
                && (walls.is_empty() || begin.elapsed() < until && !self.clock.cancelled())
            {
                walls.push(self.wall(plan, restore).await? / 1e3);
            }
            row.wall_us = super::Spread::of(walls);
            self.pulse.worked();
            return Ok(());
        }
        let (gpu, timer) = (self.gpu, Timer::new(self.gpu));
        let take = async |pulse: &mut Pulse, n| pulse.beside(n, async || wall(gpu, &timer, plan, restore).await).await;
        row.wall_us = self.steady(most, Duration::ZERO, row, take).await?.spread;
        Ok(())
    }

    async fn wall(&self, plan: &Plan, restore: &[(&Tensor, &Tensor)]) -> Result<f64> {
        wall(self.gpu, &self.timer, plan, restore).await
    }
}

/// Nanoseconds from the recording of a plan until the host knows of its end.
async fn wall(gpu: &Gpu, timer: &Timer, plan: &Plan, restore: &[(&Tensor, &Tensor)]) -> Result<f64> {
    if !restore.is_empty() {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        restore.iter().for_each(|(from, to)| from.copy_to(&mut encoder, to));
        gpu.submit_and_wait(encoder.finish()).await?;
    }
    Ok(timer.passes(&[Pass { plan, restore: &[], timed: false }]).await?.1)
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
        c.learn(kind("a"), 10.0, 1.0, 3);
        assert_eq!(c.refuses(&[kind("a")], 100.0), None, "10 s, and 40 s are left for a run");
        let reason = c.refuses(&[kind("a")], 1000.0).unwrap();
        assert!(reason.contains("100 s") && reason.contains("fastest of 3"), "{reason}");
        assert!(c.refuses(&[kind("b"), kind("a")], 1000.0).is_some());
        c.cancel.store(true, Ordering::Relaxed);
        assert_eq!(c.refuses(&[], 0.0).unwrap(), "interrupted");
        assert!(clock(Duration::ZERO, 1).refuses(&[], 0.0).unwrap().contains("limit"));
    }

    #[test]
    fn a_single_run_leaves_out_only_what_is_far_too_slow() {
        let mut c = clock(Duration::from_secs(100), 10);
        let kind = (Suite::Scan, "a".to_owned());
        c.learn(kind.clone(), 10.0, 1.0, 1);
        assert_eq!(c.refuses(std::slice::from_ref(&kind), 1000.0), None, "100 s, and 40 s are left for a run");
        assert!(c.refuses(std::slice::from_ref(&kind), 3000.0).is_some());
        c.learn(kind.clone(), 10.0, 1.0, 2);
        assert!(c.refuses(&[kind], 1000.0).is_some());
    }
}
