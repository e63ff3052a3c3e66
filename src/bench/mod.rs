//! `mamba-wgpu bench`: how fast a device runs the kernels and whole models, and how near that is to what it can do.
//!
//! [`run`] measures the rows of the [`Suite`]s asked for, in an order in which the ceilings come first: a device copy and
//! chained multiply-adds, of which all other rows state their share. Weights are synthetic, so nothing is downloaded.
//!
//! # What is timed
//! Kernels run alone: GPU time from the begin of the compute pass to its end (where the adapter has timestamps), wall
//! time from the recording until the host knows of the end. Models run through [`Session`](crate::model::Session) as a
//! text does: wall time only. One run warms up, then medians over repeats; a run that alone takes most of its row's
//! time is its own warm-up.
//!
//! # Time limit
//! Nothing can stop a dispatch on its way, so the limit is kept by foresight: each row gets a share of the time left,
//! repeats while that lasts, and is left out, with a reason, where earlier rows of its kind tell that one run would take
//! far longer. On a slow adapter the report has fewer numbers, never an error.
//!
//! - `suite`: options, and the loop over the rows; `shapes`: sizes; `jobs`: which rows there are.
//! - `measure`: the stopwatch, the time limit, what is known of the device's speed.
//! - `kernels`, `models`: one row each of kernels and of whole models; `backward`, `training`: of what only training needs.
//! - [`compare`]: reports side by side.
//! - [`report`]: rows and what they were measured on, to and from JSON.

#[cfg(not(target_arch = "wasm32"))]
mod backward;
pub mod compare;
mod jobs;
mod kernels;
mod measure;
mod models;
pub mod report;
mod shapes;
mod suite;
#[cfg(not(target_arch = "wasm32"))]
mod training;

pub use report::{Ceilings, Device, Report, Row, Spread};
pub use shapes::Shapes;
pub use suite::{run, Options, Progress, Suite};

/// The commit that this crate was built from, or "unknown".
pub const COMMIT: &str = match option_env!("MAMBA_WGPU_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
