//! Several timings in three numbers.

use serde::{Deserialize, Serialize};

/// Several timings of one thing, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// How many there were.
    pub n: usize,
}

/// The middle, or the mean of the two in the middle; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    Some((values.get(n.checked_sub(1)? / 2)? + values.get(n / 2)?) / 2.0)
}

/// Seven digits, more than any clock here has. They read back from JSON as the same number, which seventeen need not.
pub(super) fn rounded(x: f64) -> f64 {
    format!("{x:.6e}").parse().unwrap_or(x)
}

impl Spread {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { median: rounded(median(&values)?), min: rounded(min), max: rounded(max), n: values.len() })
    }

    /// Of a part of what was timed.
    pub(super) fn divided(self, by: f64) -> Self {
        let part = |x: f64| rounded(x / by);
        Self { median: part(self.median), min: part(self.min), max: part(self.max), n: self.n }
    }
}
