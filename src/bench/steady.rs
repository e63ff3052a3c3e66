//! Which timings count: those taken while the reference kernel was as fast as it has ever been. No clock is read here.

use super::spread::{median, Spread};

/// How much slower than its best the reference may be beside samples that count.
pub(super) const MOST_SLOWDOWN: f64 = 1.05;
/// By how much successive medians may differ once a device is warm.
const AGREEMENT: f64 = 0.02;
/// Times that a row is warmed up and begun again.
const TRIES: usize = 3;
/// Fewer samples than this are flagged.
pub(super) const FEW: usize = 3;

/// Whether successive medians agree.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    last: Option<f64>,
}

impl Agreement {
    /// The next median; whether it is within 2 % of the one before.
    pub fn reached(&mut self, median: f64) -> bool {
        let last = self.last.replace(median);
        last.is_some_and(|last| (median - last).abs() <= AGREEMENT * last.min(median))
    }
}

/// Samples taken one right after the other, in nanoseconds, with the slower of the reference's times before and after.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// NaN: the device's clock made no sense.
    pub samples: Vec<f64>,
    pub reference: f64,
}

impl Group {
    pub fn median(&self) -> f64 {
        median(&self.samples).unwrap_or(f64::NAN)
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The fixed load, then the row itself until it is steady.
    WarmUp,
    /// So many samples more.
    Take(usize),
    Done,
}

/// One row's samples.
#[derive(Debug)]
pub(super) struct Series {
    most: usize,
    /// As many are wanted even from a device that stays slow.
    needed: usize,
    warm: bool,
    tries: usize,
    kept: Vec<f64>,
    /// The last samples that were not kept, with the reference beside them.
    spare: Option<Group>,
    discarded: usize,
    /// The fastest single run so far, of any kind.
    fastest: f64,
    runs: usize,
    /// The slowest reference beside samples that were kept.
    slowest: f64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    /// In microseconds; `None` of clocks that made no sense.
    pub spread: Option<Spread>,
    pub discarded: usize,
    /// The reference's slowest time beside them, in nanoseconds.
    pub reference: f64,
}

impl Series {
    /// Of at most `most` samples, of which `needed` are wanted whatever the reference says.
    pub fn new(most: usize, needed: usize) -> Self {
        let (kept, fastest, slowest) = (Vec::new(), f64::INFINITY, 0.0);
        Self { most, needed, warm: false, tries: 0, kept, spare: None, discarded: 0, fastest, runs: 0, slowest }
    }

    /// A run of the row to warm it up.
    pub fn warming(&mut self, group: Group) {
        self.note(&group);
        self.spare = Some(group);
    }

    /// The row is warm: what follows counts.
    pub fn warmed(&mut self) {
        self.warm = true;
    }

    /// As many samples are wanted at most, if not more.
    pub fn at_least(&mut self, most: usize) {
        self.most = self.most.max(most);
    }

    fn note(&mut self, group: &Group) {
        self.runs += group.samples.len();
        self.fastest = group.samples.iter().copied().fold(self.fastest, f64::min);
    }

    /// Samples, and the reference's best time. Beside a slower reference they do not count, and the row is to be warmed up again;
    /// if that has not helped either they count after all, and the outcome tells by how much the reference was slower.
    pub fn push(&mut self, group: Group, best: f64) {
        self.note(&group);
        let hopeless = self.tries == TRIES && (self.kept.len() < self.needed || self.slowest > best * MOST_SLOWDOWN);
        if group.reference <= best * MOST_SLOWDOWN || hopeless {
            self.slowest = self.slowest.max(group.reference);
            self.kept.extend(group.samples);
            return;
        }
        self.discarded += group.samples.len();
        self.spare = Some(group);
        self.tries = (self.tries + 1).min(TRIES);
        self.warm = false;
        if self.tries == TRIES && self.kept.len() >= self.needed {
            self.most = self.kept.len(); // what there is is good
        }
    }

    /// There is no time for another try: what comes now counts.
    pub fn give_up(&mut self) {
        self.tries = TRIES;
    }

    /// `late`: the row's time is up; it then stops once it has `least` samples. `size`: samples at a time.
    pub fn next(&self, late: bool, least: usize, size: usize) -> Next {
        let wanted = if late { least.min(self.most) } else { self.most };
        match wanted.saturating_sub(self.kept.len()) {
            0 => Next::Done,
            // Of a device that stays slow nothing is gained by another warm-up.
            _ if !self.warm && (self.tries < TRIES || self.runs == 0) => Next::WarmUp,
            missing => Next::Take(missing.min(size.max(1))),
        }
    }

    /// The fastest run in nanoseconds.
    pub fn fastest(&self) -> f64 {
        self.fastest
    }
    /// Runs so far, warm-ups too.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// Of no samples the last warm-up's.
    pub fn finish(mut self) -> Outcome {
        if let (true, Some(spare)) = (self.kept.is_empty(), self.spare.take()) {
            self.slowest = spare.reference;
            self.kept = spare.samples;
        }
        let sound = self.kept.iter().all(|ns| *ns > 0.0);
        let spread = Spread::of(self.kept.iter().map(|ns| ns / 1e3).collect()).filter(|_| sound);
        Outcome { spread, discarded: self.discarded, reference: self.slowest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEST: f64 = 100.0;

    /// Runs a series of five samples, two at a time, on a device whose clock is scripted: the slowdown of each group in turn, the
    /// last one for ever. A sample takes 10 ns at full clock. Gives the outcome, and how often the row was warmed up.
    fn scripted(slowdowns: &[f64]) -> (Outcome, usize) {
        let (mut series, mut warm_ups, mut at) = (Series::new(5, 2), 0, 0);
        for _ in 0..100 {
            match series.next(false, 1, 2) {
                Next::Done => return (series.finish(), warm_ups),
                Next::WarmUp => {
                    warm_ups += 1;
                    series.warming(Group { samples: vec![99.0], reference: BEST });
                    series.warmed();
                }
                Next::Take(n) => {
                    let slowdown = slowdowns[at.min(slowdowns.len() - 1)];
                    at += 1;
                    series.push(Group { samples: vec![10.0 * slowdown; n], reference: BEST * slowdown }, BEST);
                }
            }
        }
        panic!("no end: {series:?}");
    }

    fn us(ns: f64) -> f64 {
        ns / 1e3
    }

    #[test]
    fn a_steady_device_is_warmed_up_once() {
        let (outcome, warm_ups) = scripted(&[1.0, 1.04]);
        assert_eq!((warm_ups, outcome.discarded, outcome.reference), (1, 0, 104.0));
        let spread = outcome.spread.unwrap();
        assert_eq!((spread.n, spread.min, spread.max), (5, us(10.0), us(10.4)));
    }

    #[test]
    fn samples_beside_a_drop_are_discarded_and_taken_again() {
        // The clock falls to a third within the row, and rises with the next warm-up.
        let (outcome, warm_ups) = scripted(&[1.0, 3.0, 1.0]);
        assert_eq!((warm_ups, outcome.discarded, outcome.reference), (2, 2, 100.0));
        let spread = outcome.spread.unwrap();
        assert_eq!((spread.n, spread.max), (5, us(10.0)), "none of them is left");
    }

    #[test]
    fn a_clock_that_never_rises_is_told() {
        let (outcome, warm_ups) = scripted(&[2.0]);
        assert_eq!((warm_ups, outcome.discarded, outcome.reference), (3, 6, 200.0));
        let spread = outcome.spread.unwrap();
        assert_eq!((spread.n, spread.median), (5, us(20.0)), "measured all the same");
    }

    #[test]
    fn good_samples_are_not_mixed_with_bad_ones() {
        let (outcome, _) = scripted(&[1.0, 2.0]);
        assert_eq!((outcome.discarded, outcome.reference), (6, 100.0));
        assert_eq!(outcome.spread.unwrap().n, 2, "fewer, but of one clock");
    }

    #[test]
    fn without_time_for_another_try_what_comes_counts() {
        let mut series = Series::new(10, 3);
        series.warming(Group { samples: vec![30.0], reference: BEST });
        series.warmed();
        series.push(Group { samples: vec![20.0], reference: 2.0 * BEST }, BEST);
        assert_eq!(series.next(true, 3, 4), Next::WarmUp);
        series.give_up();
        assert_eq!(series.next(true, 3, 4), Next::Take(3));
        series.push(Group { samples: vec![20.0; 3], reference: 2.0 * BEST }, BEST);
        assert_eq!(series.next(true, 3, 4), Next::Done);
        let outcome = series.finish();
        assert_eq!((outcome.spread.unwrap().n, outcome.discarded, outcome.reference), (3, 1, 200.0));
    }

    #[test]
    fn late_rows_stop_at_the_least() {
        let mut series = Series::new(10, 3);
        assert_eq!(series.next(true, 3, 4), Next::WarmUp);
        series.warming(Group { samples: vec![30.0], reference: BEST });
        series.warmed();
        assert_eq!(series.next(true, 3, 4), Next::Take(3));
        series.push(Group { samples: vec![20.0; 3], reference: BEST }, BEST);
        assert_eq!((series.next(true, 3, 4), series.next(false, 3, 4)), (Next::Done, Next::Take(4)));
        assert_eq!((series.fastest(), series.runs()), (20.0, 4));
    }

    #[test]
    fn without_samples_the_warm_up_counts_and_without_sense_nothing() {
        let mut series = Series::new(3, 3);
        series.warming(Group { samples: vec![30.0], reference: 150.0 });
        let outcome = series.finish();
        assert_eq!((outcome.spread.unwrap().n, outcome.reference), (1, 150.0));
        let mut series = Series::new(3, 3);
        series.warmed();
        series.push(Group { samples: vec![1.0, f64::NAN, 1.0], reference: BEST }, BEST);
        assert_eq!(series.finish().spread, None);
    }

    #[test]
    fn more_samples_can_be_asked_for_but_not_fewer() {
        let mut series = Series::new(3, 1);
        series.warmed();
        series.at_least(2);
        assert_eq!(series.next(false, 1, 100), Next::Take(3));
        series.at_least(50);
        assert_eq!(series.next(false, 1, 100), Next::Take(50));
        assert_eq!(series.next(true, 1, 100), Next::Take(1), "when there is time");
    }

    #[test]
    fn medians_agree_within_two_per_cent() {
        let mut agreement = Agreement::default();
        let reached: Vec<bool> =
            [300.0, 150.0, 120.0, 118.0, 100.0, f64::NAN, f64::NAN].map(|m| agreement.reached(m)).into();
        assert_eq!(reached, [false, false, false, true, false, false, false]);
    }
}
