//! The same row at several places in memory.
//!
//! A kernel's time depends on where its buffers lie: beside which others in a block of wgpu's allocator, and on which of
//! the driver's pages. That stands still as long as the buffers live, so that no number of samples tells. So a row begins on
//! a device that holds nothing of other rows, and its inputs are made anew a few times, with something held in between that
//! they cannot lie where they did.

use super::measure::{Meter, LEAST};
use super::report::{ClockMhz, Row};
use super::spread::{median, rounded, Spread};
use crate::gpu::{Gpu, GpuError, Tensor};
use web_time::{Duration, Instant};

/// At how many places a row is measured, where there is time.
pub(super) const PLACES: usize = 5;

/// A row's time, shared out among its places.
pub(super) struct Budget {
    begin: Instant,
    share: Duration,
}

impl Budget {
    pub fn new(meter: &Meter<'_>) -> Self {
        Self { begin: Instant::now(), share: meter.clock.share() }
    }

    /// Whether to go on after so many places: while the row's share lasts, and for as many as samples are wanted in any
    /// case while one takes no longer than a single run may.
    pub fn allows_another(&self, meter: &Meter<'_>, places: usize) -> bool {
        let spent = self.begin.elapsed();
        // Less the run that the first place alone was warmed up by.
        let warming = Duration::from_secs_f64(meter.long_run().unwrap_or(0.0));
        let each = spent.saturating_sub(warming) / places.max(1) as u32;
        let time = spent + each <= self.share || (places < LEAST && each <= meter.clock.most_a_run());
        places < meter.places && (meter.ceiling || time) && !meter.clock.cancelled()
    }
}

/// Makes the row's next place another than its last ones, whose buffers are gone.
pub(super) fn move_on(gpu: &Gpu, meter: &mut Meter<'_>, places: usize) -> Result<(), GpuError> {
    meter.spacers.push(Tensor::zeros(gpu, "spacer", places * SPACER)?);
    Ok(())
}

/// Words of the first spacer, 1.3 MiB; a later one has as many more, so that no two places are as far apart.
const SPACER: usize = 0x5_1000;

impl Spread {
    /// Of several places: the median of their medians, and how far all samples spread.
    fn of_places(places: &[Spread]) -> Option<Self> {
        let medians: Vec<f64> = places.iter().map(|place| place.median).collect();
        let fold = |of: fn(&Spread) -> f64, to: fn(f64, f64) -> f64| places.iter().map(of).reduce(to);
        Some(Self {
            median: rounded(median(&medians)?),
            min: fold(|place| place.min, f64::min)?,
            max: fold(|place| place.max, f64::max)?,
            n: places.iter().map(|place| place.n).sum(),
        })
    }
}

impl Row {
    /// What was measured at several places, as one row.
    pub(super) fn take_from(&mut self, places: &[Row]) {
        let Some((first, last)) = places.first().zip(places.last()) else { return };
        let spreads = |of: fn(&Row) -> Option<Spread>| places.iter().filter_map(of).collect::<Vec<_>>();
        *self = Row {
            gpu_us: Spread::of_places(&spreads(|row| row.gpu_us)),
            wall_us: Spread::of_places(&spreads(|row| row.wall_us)),
            places_us: spreads(Row::spread).iter().map(|spread| spread.median).collect(),
            clock_mhz: first.clock_mhz.zip(last.clock_mhz).map(|(a, b)| ClockMhz { before: a.before, after: b.after }),
            ..last.clone()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Suite;

    fn place(gpu: &[f64], wall: &[f64], mhz: f64) -> Row {
        let (gpu_us, wall_us) = (Spread::of(gpu.to_vec()), Spread::of(wall.to_vec()));
        let clock_mhz = Some(ClockMhz { before: mhz, after: mhz + 1.0 });
        Row { gpu_us, wall_us, clock_mhz, l: Some(mhz as usize), ..Row::new(Suite::Scan, "x", "y") }
    }

    #[test]
    fn a_row_is_the_middle_of_its_places_and_as_wide_as_all_of_them() {
        let places = [
            place(&[10.0, 11.0, 12.0], &[20.0], 1.0),
            place(&[30.0, 31.0, 32.0], &[40.0], 2.0),
            place(&[14.0, 15.0, 100.0, 101.0, 102.0], &[25.0], 3.0),
        ];
        let mut row = Row::new(Suite::Scan, "x", "y");
        row.take_from(&places);
        assert_eq!(row.gpu_us, Some(Spread { median: 31.0, min: 10.0, max: 102.0, n: 11 }));
        assert_eq!(row.wall_us, Some(Spread { median: 25.0, min: 20.0, max: 40.0, n: 3 }));
        assert_eq!((row.places_us.as_slice(), row.l), (&[11.0, 31.0, 100.0][..], Some(3)));
        assert_eq!(row.clock_mhz, Some(ClockMhz { before: 1.0, after: 4.0 }));
    }

    #[test]
    fn of_one_place_nothing_changes_and_without_times_there_are_none() {
        let one = place(&[], &[20.0, 22.0], 1.0);
        let mut row = Row::new(Suite::Scan, "x", "y");
        row.take_from(std::slice::from_ref(&one));
        assert_eq!(row, Row { places_us: vec![21.0], ..one });
        let skipped = Row { skipped: Some("so".into()), ..Row::new(Suite::Scan, "x", "y") };
        row.take_from(std::slice::from_ref(&skipped));
        assert_eq!(row, skipped);
    }
}
