//! `mamba-wgpu bench`: how fast a device runs the kernels and whole models, and how near that is to what it can do.
//!
//! [`run`] measures the rows of the [`Suite`]s asked for, in an order in which the ceilings come first: a device copy and
//! chained multiply-adds, of which all other rows state their share. Weights are synthetic, so nothing is downloaded.
//!
//! # What is timed
//! Kernels run alone, up to ten in one submission with the device busy throughout: GPU time from the begin of the compute pass
//! to its end (where the adapter has timestamps), and wall time of runs by themselves, from the recording until the host knows
//! of the end. What fits a cache is read from there. Models run through [`Session`](crate::model::Session) as a text does, by
//! the wall, and once more their plan alone by the device's clock. All are medians.
//!
//! # Where buffers lie
//! A kernel's time depends on which buffers share a block of wgpu's allocator and on which pages of the driver's they lie, by a few per
//! cent, `rms_norm_backward` by a third. So a row begins on a device without anything of other rows, and is measured at five places in
//! memory: its inputs, or its model and session, are made anew for each. It is the median of the places' medians.
//!
//! # Which timings count
//! A GPU that idles lowers its clock, to a sixth within three seconds on an H200, and takes up to a second of work to raise it again; a
//! short row is over before. So inputs and models are made on the device, and before each row the device works on a fixed load, the
//! reference, until its time stands still, and then on the row until the medians of successive groups agree within 2 %. The reference
//! is timed before and after each group of samples too: where it is more than 5 % slower than at its best, the samples between do not
//! count, and the row is warmed up and taken again. Three such tries in vain, and the row is flagged.
//!
//! # Time limit
//! Nothing can stop a dispatch on its way, so the limit is kept by foresight: each row gets a share of the time left,
//! repeats while that lasts, three times at least where that is possible, and is left out, with a reason, where several earlier runs of
//! its kind tell that one would take far longer. On a slow adapter the report has fewer numbers, never an error. The ceilings have ten
//! samples whatever the limit.
//!
//! - `suite`, `options`: what to measure; `shapes`: sizes; `jobs`: which rows there are; `run`: the loop over them.
//! - `placements`: a row's places in memory, and what comes of them together.
//! - `measure`: the stopwatch, the time limit, what is known of the device's speed; `pulse`: the reference; `steady`: which
//!   samples count.
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
mod options;
mod placements;
mod pulse;
pub mod report;
mod run;
mod shapes;
mod spread;
mod steady;
mod suite;
#[cfg(not(target_arch = "wasm32"))]
mod training;

pub use options::{ClockReader, Options};
pub use report::{Ceilings, ClockMhz, Device, Flag, Host, Report, Row};
pub use run::{run, Progress, COMMIT};
pub use shapes::Shapes;
pub use spread::Spread;
pub use suite::Suite;
