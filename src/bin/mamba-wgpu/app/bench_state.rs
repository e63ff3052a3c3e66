//! The bench's tab: what is to be measured, how far it is, what came out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use mamba_wgpu::bench::{Options, Report, Row, Shapes, Suite};

/// Time limits offered, in seconds.
pub const LIMITS: [u64; 5] = [15, 30, 60, 120, 600];

pub struct BenchState {
    /// Which suites, in the order of [`Suite::ALL`] without the ceilings, which are measured in any case.
    pub suites: Vec<(Suite, bool)>,
    /// Which models, by name.
    pub sizes: Vec<(&'static str, bool)>,
    pub limit_s: u64,
    pub progress: Option<Progress>,
    /// Rows of the run that goes on, or of the last one.
    pub rows: Vec<Row>,
    pub report: Option<Arc<Report>>,
    cancel: Arc<AtomicBool>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub done: usize,
    pub total: usize,
    pub what: String,
    pub stopping: bool,
}

impl Default for BenchState {
    fn default() -> Self {
        Self {
            suites: Suite::ALL
                .into_iter()
                .filter(|suite| *suite != Suite::Ceilings)
                .map(|suite| (suite, true))
                .collect(),
            sizes: Shapes::MODELS.into_iter().map(|name| (name, name == "130m")).collect(),
            limit_s: 60,
            progress: None,
            rows: Vec::new(),
            report: None,
            cancel: Arc::default(),
        }
    }
}

impl BenchState {
    pub fn running(&self) -> bool {
        self.progress.is_some()
    }

    /// The options of a run that begins now; `None` while one goes on.
    pub(super) fn start(&mut self, date: String) -> Option<Options> {
        if self.running() {
            return None;
        }
        let chosen = |name: &str| self.sizes.iter().any(|(size, on)| *on && *size == name);
        let mut shapes = Shapes::default();
        shapes.models.retain(|(name, _)| chosen(name));
        self.cancel = Arc::default();
        self.rows.clear();
        self.report = None;
        self.progress = Some(Progress { done: 0, total: 0, what: "opening the device".into(), stopping: false });
        Some(Options {
            suites: self.suites.iter().filter(|(_, on)| *on).map(|(suite, _)| *suite).collect(),
            shapes,
            time_limit: Duration::from_secs(self.limit_s),
            date,
            cancel: self.cancel.clone(),
            ..Options::default()
        })
    }

    pub fn stop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(progress) = &mut self.progress {
            progress.stopping = true;
        }
    }

    pub(super) fn measuring(&mut self, done: usize, total: usize, what: String, rows: Vec<Row>) {
        let stopping = self.progress.as_ref().is_some_and(|progress| progress.stopping);
        self.progress = Some(Progress { done, total, what, stopping });
        self.rows = rows;
    }

    pub(super) fn measured(&mut self, report: Arc<Report>) {
        self.progress = None;
        self.rows.clone_from(&report.rows);
        self.report = Some(report);
    }

    pub(super) fn failed(&mut self) {
        self.progress = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_measures_what_was_chosen_and_can_be_stopped() {
        let mut bench = BenchState::default();
        bench.suites.iter_mut().for_each(|(suite, on)| *on = *suite == Suite::Decode);
        bench.limit_s = 15;
        let options = bench.start("now".into()).unwrap();
        assert_eq!((options.suites, options.time_limit), (vec![Suite::Decode], Duration::from_secs(15)));
        let names: Vec<&str> = options.shapes.models.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["130m"]);
        assert!(bench.start("now".into()).is_none(), "one at a time");
        bench.stop();
        assert!(options.cancel.load(Ordering::Relaxed));
        bench.measuring(1, 3, "copy".into(), Vec::new());
        assert!(bench.progress.as_ref().unwrap().stopping, "still");
        bench.failed();
        let again = bench.start("later".into()).unwrap();
        assert!(!again.cancel.load(Ordering::Relaxed), "a flag of its own");
    }
}
