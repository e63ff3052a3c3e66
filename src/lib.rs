//! mamba-wgpu
pub mod error;
pub mod generate;
pub mod gpu;
pub mod kernels;
pub mod model;
pub mod reference;
pub use error::{Error, Result};
