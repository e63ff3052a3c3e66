//! What a run measures, and for how long.

use super::report::Host;
use super::shapes::Shapes;
use super::suite::Suite;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use web_time::Duration;

/// What a run measures, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// In the order in which they are measured; the ceilings first, in any case.
    pub suites: Vec<Suite>,
    pub shapes: Shapes,
    pub time_limit: Duration,
    /// Tokens of a prompt that go through a model at once.
    pub chunk: usize,
    /// Goes into the report as it is: the library has no calendar.
    pub date: String,
    /// Set from outside, it ends the run after the dispatch on its way.
    pub cancel: Arc<AtomicBool>,
    /// How long the device is kept busy before a row, after a pause (otherwise a fifth of it): GPUs raise their clocks within half a
    /// second of work, and lower them within one of idling.
    pub warm_up: Duration,
    /// At how many places in memory a row is measured; `None`: five, on a software adapter one.
    pub places: Option<usize>,
    /// Asks the device's driver for its clock; the library asks no system.
    pub clock_mhz: Option<ClockReader>,
    /// Goes into the report as it is.
    pub host: Option<Host>,
}

/// Tells a device's core clock in MHz, where its driver does.
#[derive(Clone)]
pub struct ClockReader(Arc<dyn Fn() -> Option<f64> + Send + Sync>);

impl ClockReader {
    pub fn new(read: impl Fn() -> Option<f64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
    pub(super) fn mhz(&self) -> Option<f64> {
        (self.0)()
    }
}

impl std::fmt::Debug for ClockReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClockReader")
    }
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
            warm_up: Duration::from_millis(500),
            places: None,
            clock_mhz: None,
            host: None,
        }
    }
}
