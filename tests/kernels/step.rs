//! The decode step's fused kernels: sizes around their groups, all weight formats, biases, Falcon-Mamba's norm.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::Random;
use mamba_wgpu::checks::step::{matvec_add, matvec_norm, matvec_norm_activate, mixer};
use mamba_wgpu::gpu::shader::WeightFormat;
use mamba_wgpu::kernels::{Activation, StepShape};

#[test]
fn matvec_norm_and_add_equal_their_twins() {
    let mut random = Random(14);
    for (device, gpu) in devices() {
        for format in WeightFormat::ALL {
            for bias in [false, true] {
                for size in [(1, 4), (7, 8), (8, 252), (33, 256), (31, 260), (5, 1028), (300, 64), (2, 4100), (700, 68)]
                {
                    pass(device, matvec_norm(gpu, size, format, (bias, false), &mut random));
                    pass(device, matvec_norm(gpu, size, format, (bias, true), &mut random));
                    pass(device, matvec_add(gpu, size, format, (bias, false), &mut random));
                    pass(device, matvec_add(gpu, size, format, (bias, true), &mut random));
                }
                pass(device, matvec_add(gpu, (9, 1027), format, (bias, false), &mut random));
            }
        }
    }
}

#[test]
fn matvec_with_an_activation_equals_its_twins() {
    let mut random = Random(16);
    for (device, gpu) in devices() {
        for format in WeightFormat::ALL {
            for f in Activation::ALL {
                for (gated, bias) in [(false, false), (true, false), (true, true)] {
                    for size in [(1, 4), (7, 8), (33, 256), (31, 260), (300, 64)] {
                        pass(device, matvec_norm_activate(gpu, size, format, (f, gated, bias), &mut random));
                    }
                }
            }
        }
    }
}

#[test]
fn step_mixer_equals_its_twin() {
    let mut random = Random(15);
    for (device, gpu) in devices() {
        for format in WeightFormat::ALL {
            for mixer_rms_eps in [None, Some(1e-6), Some(1e-2)] {
                for (d_inner, d_state, d_conv, dt_rank) in
                    [(1, 1, 1, 1), (4, 3, 2, 1), (54, 5, 3, 3), (64, 16, 4, 4), (68, 17, 4, 17), (132, 64, 5, 65)]
                {
                    let shape = StepShape { d_inner, d_state, d_conv, dt_rank, mixer_rms_eps };
                    pass(device, mixer(gpu, shape, format, (d_conv % 2 == 0, d_inner > 60), &mut random));
                }
            }
        }
    }
}
