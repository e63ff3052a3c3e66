//! The self-test finds a kernel that computes wrongly, switches it off, and the model is right without it.

use mamba_wgpu::checkpoint::synthetic::Spec;
use mamba_wgpu::checks;
use mamba_wgpu::gpu::{Gpu, GpuError, GpuOptions, Variant};
use mamba_wgpu::model::{golden, Backend, LanguageModel, ModelOptions};
use mamba_wgpu::Error;
use std::collections::BTreeSet;

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

/// What has no arithmetic of those that a fault spoils: most of it copies, compares, counts or adds.
const EXACT: [&str; 14] = [
    "conv1d_state",
    "route_order",
    "argmax",
    "sample_scale",
    "sample_greedy",
    "sample_select",
    "sample_mass",
    "sample_draw",
    "token_stats",
    "backward/embedding_backward",
    "backward/largest",
    "backward/sum_partials",
    "train/gradient_clip",
    "train/adamw",
];

/// By the table: each kernel's own checks find it spoilt.
#[test]
fn every_check_finds_its_kernels_spoilt() {
    pollster::block_on(async {
        let sound = gpu(None).await;
        let table = checks::table();
        let kernels: BTreeSet<&str> = table.iter().flat_map(|check| check.kernels).copied().collect();
        let mut not_found = Vec::new();
        for kernel in kernels {
            let spoilt = gpu(Some(kernel)).await;
            for check in table.iter().filter(|check| check.kernels.contains(&kernel) && check.applies(&sound)) {
                if check.run(&spoilt).await.is_ok() {
                    not_found.push(kernel);
                }
            }
        }
        not_found.sort_by_key(|kernel| EXACT.iter().position(|exact| exact == kernel));
        assert_eq!(not_found, EXACT);
    });
}

/// One fault a variant.
#[test]
fn a_spoilt_variant_is_found_and_done_without() {
    let faults = [
        ("matvec", Variant::Matvec),
        ("step_mixer", Variant::FusedStep),
        ("selective_state_update", Variant::Step),
        ("scan_fused_apply", Variant::FusedScan),
        ("discretise", Variant::BlellochScan),
        ("ssd_chunk_scan", Variant::ChunkedSsd),
        ("ssd_state_update", Variant::SsdStep),
        ("gated_rms_norm", Variant::Mamba2),
        ("attention_join", Variant::Attention),
        ("experts_sum", Variant::Experts),
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
            // The fused step's matvec is the same file as the plain one, and other weights go through it, as do Mamba-2's step and experts; f16
            // activations and training go through the fused scan.
            let also: &[Variant] = match kernel {
                "matvec" => &[
                    Variant::FusedStep,
                    Variant::SsdStep,
                    Variant::F16Weights,
                    Variant::Q8Weights,
                    Variant::Q4Weights,
                    Variant::Experts,
                ],
                "scan_fused_apply" => &[Variant::F16Activations, Variant::Training],
                _ => &[],
            };
            let mine = |v: Option<Variant>| v.is_some_and(|v| v == variant || also.contains(&v));
            assert!(failed.iter().all(|o| mine(o.switched_off)), "{kernel}: {failed:?}");
            assert!(!gpu.allows(variant));
            assert_eq!(golden::check(&Backend::Gpu(gpu)).await.unwrap(), None, "without {kernel}");
        });
    }
}

/// Without what Mamba-2's layers need, models that have them are refused, and others run.
#[test]
fn a_device_may_do_without_mamba2() {
    pollster::block_on(async {
        let gpu = gpu(Some("ssd_sequential")).await;
        let report = checks::run(&gpu, &mut |_, _| {}).await.unwrap();
        assert!(!report.passed() && report.usable(), "{report:?}");
        let load = async |preset: &str| {
            let checkpoint = Spec::preset(preset).unwrap().checkpoint().unwrap();
            LanguageModel::load(&checkpoint, &Backend::Gpu(gpu.clone()), ModelOptions::default(), &mut |_, _| {}).await
        };
        assert!(load("tiny").await.is_ok());
        let refused = load("mamba2-tiny").await.err().expect("a model that would compute nonsense");
        assert!(matches!(refused, Error::Gpu(GpuError::Unfit { layers: "Mamba-2" })), "{refused}");
    });
}

/// What nothing can stand in for leaves the device unusable, and the model's expected values show it too.
#[test]
fn a_spoilt_kernel_without_a_fallback_is_found() {
    for kernel in ["rms_norm", "matmul", "conv1d", "scan_sequential"] {
        pollster::block_on(async {
            let gpu = gpu(Some(kernel)).await;
            let report = checks::run(&gpu, &mut |_, _| {}).await.unwrap();
            assert!(!report.passed() && !report.usable(), "{kernel}: {report:?}");
            if kernel != "scan_sequential" {
                assert!(golden::check(&Backend::Gpu(gpu)).await.unwrap().is_some(), "{kernel}");
            }
        });
    }
}
