//! The two devices of the kernel tests.

use mamba_wgpu::checks::CheckError;
use mamba_wgpu::gpu::{Gpu, GpuOptions, LimitMode};
use std::future::Future;
use std::sync::OnceLock;

/// The device with all that the adapter has, and one with WebGPU's default limits and every shader check on.
pub fn devices() -> &'static [(&'static str, Gpu); 2] {
    static DEVICES: OnceLock<[(&str, Gpu); 2]> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let open = |limits, checked_shaders| {
            let options = GpuOptions { limits, checked_shaders, ..Default::default() };
            pollster::block_on(Gpu::new(&options)).expect("GPU tests need an adapter (a software one will do)")
        };
        [("full", open(LimitMode::Full, false)), ("WebGPU defaults", open(LimitMode::WebGpuDefaults, true))]
    })
}

/// Passes if the check does.
#[track_caller]
pub fn pass(device: &str, check: impl Future<Output = Result<(), CheckError>>) {
    if let Err(e) = pollster::block_on(check) {
        panic!("on {device}: {e}");
    }
}
