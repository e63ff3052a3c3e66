//! embedding, rms_norm, x_dbl_norm, conv1d and its state, fill: sizes around their workgroups.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::Random;
use mamba_wgpu::checks::pointwise;
use mamba_wgpu::gpu::shader::{NumberFormat, WeightFormat};
use mamba_wgpu::gpu::{Gpu, PlanBuilder, Tensor};
use mamba_wgpu::kernels::{self, RmsNorm};
use mamba_wgpu::reference::{Fill, FillKind};

/// The formats that a device's activations can be in.
fn numbers(gpu: &Gpu) -> Vec<NumberFormat> {
    let f16 = gpu.shader_f16().then_some(NumberFormat::F16);
    [NumberFormat::F32].into_iter().chain(f16).collect()
}

#[test]
fn embedding_equals_its_twin() {
    let mut random = Random(2);
    for (device, gpu) in devices() {
        for format in WeightFormat::ALL {
            for sizes in [(1, 1, 1), (7, 3, 5), (101, 27, 64), (50, 256, 257), (9, 4, 0)] {
                pass(device, pointwise::embedding(gpu, format, sizes, &mut random));
            }
        }
    }
}

#[test]
fn rms_norm_equals_its_twin() {
    let mut random = Random(3);
    for (device, gpu) in devices() {
        for d in [1, 27, 255, 256, 257, 1000] {
            for (rows, row0) in [(0, 0), (1, 0), (1, 4), (5, 0), (3, 2)] {
                for add in [false, true] {
                    let shape = RmsNorm { rows, row0, d, eps: 1e-5 };
                    for act in numbers(gpu) {
                        pass(device, pointwise::rms_norm(gpu, shape, add, act, &mut random));
                    }
                }
            }
        }
    }
}

#[test]
fn x_dbl_norm_equals_its_twin() {
    let mut random = Random(4);
    for (device, gpu) in devices() {
        for sizes in [(0, 1, 1), (1, 1, 1), (3, 5, 7), (9, 64, 16), (2, 65, 130)] {
            pass(device, pointwise::x_dbl_norm(gpu, sizes, &mut random));
        }
    }
}

#[test]
fn conv1d_equals_its_twin() {
    let mut random = Random(5);
    for (device, gpu) in devices() {
        for d_conv in 1..=5 {
            for (d_inner, l) in [(1, 1), (54, 0), (54, 2), (64, 3), (65, 4), (63, 5), (300, 33)] {
                for bias in [false, true] {
                    for act in numbers(gpu) {
                        pass(device, pointwise::conv1d(gpu, (l, d_inner, d_conv), 0, (bias, act), &mut random));
                    }
                }
            }
        }
    }
}

#[test]
fn fill_equals_its_twin() {
    let kinds = [FillKind::F32, FillKind::F16, FillKind::Q8, FillKind::Q4, FillKind::Scales];
    for (device, gpu) in devices() {
        for (i, kind) in kinds.into_iter().enumerate() {
            for (rows, row_words, missing) in [(0, 1, 0), (1, 1, 0), (3, 4, 3), (7, 85, 1), (300, 257, 9)] {
                let row_values = (row_words * kind.per_word()).saturating_sub(missing);
                let (low, span) = if kind == FillKind::Scales { (0.0078125, 0.0) } else { (-0.3, 0.7) };
                let case = Fill { kind, row_words, row_values, seed: 11 * i as u32, low, span };
                pass(device, pointwise::fill(gpu, &case, rows));
            }
        }
    }
}

/// Matrices made on the device are what their format says: a product with them is finite and not zero, in every format.
#[test]
fn filled_matrices_are_matrices() {
    for (device, gpu) in devices() {
        for format in WeightFormat::ALL {
            for (n, k) in [(7, 13), (70, 96)] {
                let y = pollster::block_on(async {
                    let mut plan = PlanBuilder::new(gpu);
                    let w = kernels::fill_matrix(&mut plan, "w", (n, k), format, 0.1, 3)?;
                    let x = Tensor::new(gpu, "x", &vec![1.0f32; k])?;
                    let y = Tensor::zeros(gpu, "y", n)?;
                    let shape = kernels::Linear { l: 1, x_stride: k, y_stride: n, softplus: false };
                    kernels::matmul(&mut plan, &x, &w, None, &y, shape)?;
                    plan.finish()?.run(gpu).await?;
                    y.read::<f32>(gpu).await
                })
                .unwrap();
                // Sums of k values in +-0.1, the scales up to a quarter more.
                let most = 0.13 * k as f32;
                assert!(y.iter().all(|y| y.abs() < most), "{device}, {format:?}: {y:?}");
                let spread = y.iter().filter(|y| y.abs() > 0.01).count();
                assert!(spread > n / 2, "{device}, {format:?}: {y:?}");
            }
        }
    }
}
