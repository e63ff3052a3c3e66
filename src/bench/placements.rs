//! The same row at several places in memory.
//!
//! A kernel's time depends on where its buffers lie: which of them begin beside each other in a block of the allocator's, and which pages the
//! driver took for the block. That differs from process to process and with all that was allocated before, and stands still as long as
//! the buffers live, so that no number of samples tells. So a row's inputs are made anew a few times, with something held in between that
//! the next ones cannot lie where the last ones did.

use super::measure::{Meter, LEAST};
use super::report::{median, rounded, ClockMhz, Row, Spread};
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

    /// Whether to go on after so many places: while the row's share lasts, and for as many as samples are wanted in any case while one
    /// takes no longer than a single run may.
    pub fn allows_another(&self, meter: &Meter<'_>, places: usize) -> bool {
        let (spent, each) = (self.begin.elapsed(), self.begin.elapsed() / places.max(1) as u32);
        let time = meter.ceiling || spent + each <= self.share || (places < LEAST && each <= meter.clock.most_a_run());
        places < meter.places && time && !meter.clock.cancelled()
    }
}

/// Makes the row's next place another than its last ones.
pub(super) fn move_on(gpu: &Gpu, meter: &mut Meter<'_>, places: usize) -> Result<(), GpuError> {
    let spacer = Tensor::zeros(gpu, "spacer", places * SPACER)?;
    meter.spacers.push(spacer);
    Ok(())
}

/// Words that the first spacer has; later ones have more, and no two places the same distance.
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
