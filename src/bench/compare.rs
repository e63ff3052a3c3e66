//! Reports side by side: which rows they share, and what makes them hard to compare.

use super::report::{Flag, Report, Row};
use super::suite::Suite;

/// A thing measured, with each report's row of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared<'a> {
    pub suite: Suite,
    pub name: &'a str,
    pub variant: &'a str,
    /// In the reports' order; `None` where a report has no such row or did not measure it.
    pub rows: Vec<Option<&'a Row>>,
}

/// What makes two rows rows of one thing: suite, name, variant, length. A prompt's length belongs to it; a decode's does not, which is shorter where time was.
type Key<'a> = (Suite, &'a str, &'a str, Option<usize>);

fn key(row: &Row) -> Key<'_> {
    (row.suite, &row.name, &row.variant, row.l.filter(|_| row.suite == Suite::Prefill))
}

/// All rows of several reports, those of one thing together, in the order in which they first appear.
pub fn side_by_side(reports: &[Report]) -> Vec<Compared<'_>> {
    let mut all: Vec<(Key<'_>, Compared<'_>)> = Vec::new();
    for (i, report) in reports.iter().enumerate() {
        for row in &report.rows {
            let measured = row.skipped.is_none().then_some(row);
            match all.iter_mut().find(|(k, _)| *k == key(row)) {
                Some((_, c)) => c.rows[i] = measured,
                None => {
                    let mut rows = vec![None; reports.len()];
                    rows[i] = measured;
                    let c = Compared { suite: row.suite, name: &row.name, variant: &row.variant, rows };
                    all.push((key(row), c));
                }
            }
        }
    }
    let mut all: Vec<Compared<'_>> = all.into_iter().map(|(_, c)| c).collect();
    // Within a suite as they came; suites in their own order, whichever report has them first.
    all.sort_by_key(|c| c.suite);
    all.retain(|c| c.rows.iter().any(Option::is_some));
    all
}

/// A row of one report, and what another has of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference<'a> {
    pub base: &'a Row,
    /// `None` where it was not measured.
    pub other: Option<&'a Row>,
    /// What was compared, in microseconds; `None` where one has no time.
    pub times_us: Option<(f64, f64)>,
}

impl Difference<'_> {
    /// How much longer the other's time is, in terms of the base's: 0.05 is five per cent.
    pub fn change(&self) -> Option<f64> {
        self.times_us.map(|(base, other)| other / base - 1.0)
    }
}

/// Two rows' times of one kind: the device's where both have it, else the host's, of the fastest place: what a host does besides
/// only adds to them.
fn times_us(base: &Row, other: &Row) -> Option<(f64, f64)> {
    let device = |row: &Row| row.gpu_us.map(|spread| spread.median);
    let place = |row: &Row| row.places_us.iter().copied().reduce(f64::min);
    let host = |row: &Row| place(row).or(row.spread().map(|spread| spread.median));
    let (a, b) = device(base).zip(device(other)).or_else(|| host(base).zip(host(other)))?;
    (a > 0.0 && b > 0.0).then_some((a, b))
}

/// Every row that `base` has measured, with the other's.
pub fn differences<'a>(base: &'a Report, other: &'a Report) -> Vec<Difference<'a>> {
    let measured = |row: &&Row| row.skipped.is_none();
    let difference = |row: &'a Row| {
        let other = other.rows.iter().filter(measured).find(|o| key(o) == key(row));
        Difference { base: row, other, times_us: other.and_then(|other| times_us(row, other)) }
    };
    base.rows.iter().filter(measured).map(difference).collect()
}

/// A name for each report, as short as tells them apart: the adapter and its API; with the driver, the commit or the date where
/// two have the same.
pub fn names(reports: &[Report]) -> Vec<String> {
    let base = |r: &Report| format!("{} ({})", r.device.adapter.name, r.device.backend);
    let driver = |r: &Report| format!("{}, {}", base(r), r.device.adapter.driver_info);
    let commit = |r: &Report| format!("{}, {}", base(r), r.commit.get(..8).unwrap_or(&r.commit));
    let date = |r: &Report| format!("{}, {}", base(r), r.date);
    let ways: [&dyn Fn(&Report) -> String; 4] = [&base, &driver, &commit, &date];
    let alone = |way: &dyn Fn(&Report) -> String, r: &Report| reports.iter().filter(|o| way(o) == way(r)).count() == 1;
    let name = |(i, r): (usize, &Report)| match ways.into_iter().find(|way| alone(*way, r)) {
        Some(way) => way(r),
        None => format!("{}, number {}", base(r), i + 1),
    };
    reports.iter().enumerate().map(name).collect()
}

/// What a reader must know before comparing them, in words.
pub fn warnings(reports: &[Report]) -> Vec<String> {
    let names = names(reports);
    let mut out = Vec::new();
    let mut commits: Vec<&str> = reports.iter().map(|r| r.commit.as_str()).collect();
    commits.sort_unstable();
    commits.dedup();
    if commits.len() > 1 {
        let short: Vec<&str> = commits.iter().map(|c| c.get(..8).unwrap_or(c)).collect();
        out.push(format!(
            "The reports are of different commits ({}): part of a difference may be the code's.",
            short.join(", ")
        ));
    }
    for (i, a) in reports.iter().enumerate() {
        for b in reports.iter().skip(i + 1) {
            let (x, y) = (&a.device.adapter, &b.device.adapter);
            if x.name == y.name && a.device.backend == b.device.backend && x.driver_info != y.driver_info {
                out.push(format!("{} was measured with two drivers: {} and {}.", x.name, x.driver_info, y.driver_info));
            }
        }
    }
    for (report, name) in reports.iter().zip(&names) {
        if report.interrupted {
            out.push(format!("{name}: the run was interrupted; rows are missing."));
        }
        if report.reference_us.is_none() {
            out.push(format!(
                "{name}: measured before rows were warmed up: short ones may be of a clock far below the adapter's."
            ));
        }
        let flagged = |flag: Flag| report.rows.iter().filter(|row| row.flags().contains(&flag)).count();
        let (few, unsteady) = (flagged(Flag::FewSamples), flagged(Flag::Unsteady));
        if few > 0 {
            out.push(format!("{name}: {few} rows have fewer than three samples."));
        }
        if unsteady > 0 {
            out.push(format!("{name}: while {unsteady} rows were measured the adapter was slower than it can be."));
        }
        let skipped = report.rows.iter().filter(|row| row.skipped.is_some()).count();
        if skipped > 0 {
            out.push(format!("{name}: {skipped} of {} rows were not measured.", report.rows.len()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::spread::Spread;

    fn row(gpu: Option<f64>, wall: f64, places_us: &[f64]) -> Row {
        let spread = |us| Spread::of(vec![us]);
        let row = Row::new(Suite::Decode, "x", "y");
        Row { gpu_us: gpu.and_then(spread), wall_us: spread(wall), places_us: places_us.to_vec(), ..row }
    }

    #[test]
    fn rows_are_compared_by_the_device_or_by_the_fastest_place() {
        let (a, b) = (row(Some(400.0), 500.0, &[500.0, 520.0]), row(Some(404.0), 700.0, &[900.0, 505.0]));
        assert_eq!(times_us(&a, &b), Some((400.0, 404.0)));
        // One has no device's time: neither's counts.
        let hosted = row(None, 700.0, &[900.0, 505.0]);
        assert_eq!(times_us(&a, &hosted), Some((500.0, 505.0)));
        assert_eq!(times_us(&hosted, &row(None, 610.0, &[])), Some((505.0, 610.0)));
        assert_eq!(times_us(&a, &row(None, 0.0, &[])), None);
        let untimed = Row { wall_us: None, ..row(None, 1.0, &[]) };
        assert_eq!(times_us(&a, &untimed), None);
    }
}
