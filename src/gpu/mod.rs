//! The GPU: which adapter, what it allows, and how a list of kernels becomes one command buffer.
//!
//! - [`context`]: adapter choice, limits, features, errors and memory of one device.
//! - `gate`: what holds submissions back while a window's surface is configured.
//! - [`shader`]: WGSL sources with includes and variants; the pipeline cache's key.
//! - [`buffer`]: storage buffers with a label, views into them, and their sizes' accounting.
//! - [`plan`]: a forward pass as a list of dispatches with their bindings, recorded again and again.
//! - [`readback`]: the way back to the host, the same code natively and in wasm.
//! - [`timing`]: how long a plan takes, by the device's clock and by the host's.
//! - [`Variant`]: what can be switched off on a device (by [`crate::checks`], or by hand).

pub mod adapter;
pub mod buffer;
pub mod context;
mod gate;
pub mod plan;
pub mod readback;
pub mod shader;
mod sync;
pub mod timing;
mod variant;

pub use adapter::{best_hardware, list_adapters, AdapterChoice, AdapterSummary};
pub use buffer::Tensor;
pub use context::{Gpu, GpuOptions, LimitMode};
pub use plan::{Plan, PlanBuilder};
pub use readback::Readback;
pub use timing::{Pass, Timer, Timing};
pub use variant::Variant;

pub use crate::error::GpuError;
