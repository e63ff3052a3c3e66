//! The self-test finds a kernel that computes wrongly, switches it off, and the model is right without it.

use mamba_wgpu::checks;
use mamba_wgpu::gpu::Variant;
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::{golden, Backend};

async fn gpu(fault: Option<&str>) -> Gpu {
    let options = GpuOptions { fault: fault.map(str::to_owned), ..Default::default() };
    Gpu::new(&options).await.expect("GPU tests need an adapter (a software one will do)")
}

#[test]
fn a_sound_device_passes_and_nothing_is_switched_off() {
    pollster::block_on(async {
        let gpu = gpu(None).await;
        let report = checks::run(&gpu, &mut |_, _| {}).await.unwrap();
        assert!(report.passed() && report.usable(), "{report:?}");
        assert!(Variant::ALL.iter().all(|v| gpu.allows(*v)));
        assert_eq!(golden::check(&Backend::Gpu(gpu)).await.unwrap(), None);
    });
}

#[test]
fn a_spoilt_variant_is_found_and_done_without() {
    let faults = [
        ("matvec", Variant::Matvec),
        ("step_mixer", Variant::FusedStep),
        ("conv1d_update", Variant::Step),
        ("selective_state_update", Variant::Step),
        ("scan_fused_apply", Variant::FusedScan),
        ("scan_fused_reduce", Variant::FusedScan),
        ("discretise", Variant::BlellochScan),
        ("ssd_chunk_cumsum", Variant::ChunkedSsd),
        ("ssd_bmm_chunk", Variant::ChunkedSsd),
        ("ssd_chunk_state", Variant::ChunkedSsd),
        ("ssd_state_passing", Variant::ChunkedSsd),
        ("ssd_chunk_scan", Variant::ChunkedSsd),
        ("ssd_state_update", Variant::SsdStep),
        ("channel_stats", Variant::Explain),
        ("hidden_attention", Variant::Explain),
        ("embedding f16", Variant::F16Weights),
        ("matmul q8", Variant::Q8Weights),
        ("matvec q4", Variant::Q4Weights),
    ];
    for (kernel, variant) in faults {
        pollster::block_on(async {
            let gpu = gpu(Some(kernel)).await;
            let report = checks::run(&gpu, &mut |_, _| {}).await.unwrap();
            assert!(!report.passed(), "{kernel} spoilt and not found");
            assert!(report.usable(), "{kernel}: {report:?}");
            let failed: Vec<_> = report.outcomes.iter().filter(|o| o.failure.is_some()).collect();
            // The fused step's matvec is the same file as the plain one, and quantised weights go through it, as does Mamba-2's step; f16 activations
            // and training go through the fused scan.
            let also: &[Variant] = match kernel {
                "matvec" => &[Variant::FusedStep, Variant::SsdStep, Variant::Q8Weights, Variant::Q4Weights],
                "scan_fused_apply" | "scan_fused_reduce" => &[Variant::F16Activations, Variant::Training],
                _ => &[],
            };
            let mine = |v: Option<Variant>| v.is_some_and(|v| v == variant || also.contains(&v));
            assert!(failed.iter().all(|o| mine(o.switched_off)), "{kernel}: {failed:?}");
            assert!(!gpu.allows(variant));
            assert_eq!(golden::check(&Backend::Gpu(gpu)).await.unwrap(), None, "without {kernel}");
        });
    }
}

/// What nothing can stand in for leaves the device unusable, and the model's expected values show it too.
#[test]
fn a_spoilt_kernel_without_a_fallback_is_found() {
    for kernel in ["rms_norm", "matmul", "conv1d", "scan_sequential", "ssd_sequential", "ssd_delta", "gated_rms_norm"] {
        pollster::block_on(async {
            let gpu = gpu(Some(kernel)).await;
            let report = checks::run(&gpu, &mut |_, _| {}).await.unwrap();
            assert!(!report.passed() && !report.usable(), "{kernel}: {report:?}");
            if ["rms_norm", "matmul", "conv1d"].contains(&kernel) {
                assert!(golden::check(&Backend::Gpu(gpu)).await.unwrap().is_some(), "{kernel}");
            }
        });
    }
}
