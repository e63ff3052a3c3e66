//! Every variant compiles on the adapter, with the run-time checks and without them.

use mamba_wgpu::gpu::shader::ShaderSpec;
use mamba_wgpu::gpu::{Gpu, GpuOptions, LimitMode};
use mamba_wgpu::kernels::all_specs;

#[test]
fn every_variant_compiles_on_the_adapter() {
    for limits in [LimitMode::Full, LimitMode::WebGpuDefaults] {
        for checked_shaders in [false, true] {
            let options = GpuOptions { limits, checked_shaders, ..Default::default() };
            let gpu = pollster::block_on(Gpu::new(&options)).expect("an adapter");
            let usable =
                |spec: &ShaderSpec| (gpu.shader_f16() || !spec.f16()) && (gpu.cooperative() || !spec.cooperative);
            for spec in all_specs().into_iter().filter(usable) {
                gpu.pipeline(&spec);
                gpu.check().unwrap_or_else(|e| panic!("{}: {e}", spec.label()));
            }
        }
    }
}

/// The check above can fail: a shader that is not there has no entry point.
#[test]
fn a_shader_that_does_not_compile_is_an_error() {
    let gpu = pollster::block_on(Gpu::new(&GpuOptions::default())).expect("an adapter");
    gpu.pipeline(&mamba_wgpu::gpu::shader::ShaderSpec::new("no such kernel"));
    assert!(matches!(gpu.check(), Err(mamba_wgpu::gpu::GpuError::Validation { .. })));
    assert!(gpu.check().is_ok(), "an error that is no loss is reported once");
}
