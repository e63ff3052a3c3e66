//! Every kernel variant that an adapter would use, on that adapter, against its CPU twin: what `mamba-wgpu doctor`
//! runs, and what the tests run at more sizes. GPUs and drivers do compute wrongly now and then; better to know.

#[cfg(not(target_arch = "wasm32"))]
pub mod attention;
#[cfg(not(target_arch = "wasm32"))]
pub mod backward;
pub mod batch;
pub mod data;
#[cfg(not(target_arch = "wasm32"))]
pub mod experts;
pub mod explain;
pub mod linear;
#[cfg(not(target_arch = "wasm32"))]
pub mod optimiser;
pub mod pointwise;
pub mod sampling;
pub mod scan;
#[cfg(not(target_arch = "wasm32"))]
pub mod ssd;
#[cfg(not(target_arch = "wasm32"))]
pub mod ssd_step;
pub mod step;
mod table;

use crate::gpu::{Gpu, GpuError, Variant};
pub use data::CheckError;
use data::Random;
use serde::Serialize;
pub use table::{table, Check};

/// One check's outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The kernels checked.
    pub name: String,
    /// Why it did not pass.
    pub failure: Option<String>,
    /// What was switched off for it; `None` for a kernel that nothing can stand in for.
    pub switched_off: Option<Variant>,
}

/// What the self-test found on a device.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Nothing failed.
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|o| o.failure.is_none())
    }
    /// Whatever failed has something to stand in for it.
    pub fn usable(&self) -> bool {
        self.outcomes.iter().all(|o| o.failure.is_none() || o.switched_off.is_some())
    }
}

/// Runs all checks, tells `progress` checks done and in all, and switches off on this device what fails and can be.
///
/// # Errors
/// Only a lost device: everything else is an outcome.
pub async fn run(gpu: &Gpu, progress: &mut dyn FnMut(usize, usize)) -> Result<Report, GpuError> {
    let all: Vec<_> = table().into_iter().filter(|check| check.applies(gpu)).collect();
    let total = all.len();
    let mut report = Report { outcomes: Vec::new() };
    for (i, check) in all.iter().enumerate() {
        let result = check.run(gpu).await;
        if let Err(CheckError::Gpu(lost @ GpuError::Lost { .. })) = result {
            return Err(lost);
        }
        let failure = result.err().map(|e| e.to_string());
        let switched_off = failure.as_ref().and(check.variant);
        switched_off.iter().for_each(|v| gpu.switch_off(*v));
        report.outcomes.push(Outcome { name: check.name(), failure, switched_off });
        progress(i + 1, total);
    }
    Ok(report)
}
