//! A mixture of experts' kernels: routers of every kind and size, and the experts' products around the borders of tiles, with experts that
//! have no token, and all of them in several parts.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::Random;
use mamba_wgpu::checks::experts::{matmul, matvec, route, sum, ExpertsCase};
use mamba_wgpu::gpu::shader::{NumberFormat, WeightFormat};
use mamba_wgpu::kernels::{Gating, Router};

#[test]
fn a_router_is_the_twins() {
    let mut random = Random(61);
    for (device, gpu) in devices() {
        for (experts, chosen) in [(1, 1), (2, 1), (3, 3), (16, 2), (62, 6), (72, 10), (130, 8), (512, 22), (1024, 1024)]
        {
            for gating in [Gating::Chosen, Gating::All] {
                pass(device, route(gpu, Router { experts, chosen, gating, scale: 0.3 }, 3, &mut random));
            }
        }
        for (experts, groups, kept, chosen) in
            [(2, 1, 1, 2), (8, 4, 2, 3), (128, 1, 1, 6), (256, 8, 4, 8), (512, 256, 5, 9)]
        {
            for normed in [false, true] {
                let gating = Gating::Sigmoid { groups, kept, normed };
                pass(device, route(gpu, Router { experts, chosen, gating, scale: 2.5 }, 3, &mut random));
            }
        }
    }
}

#[test]
fn the_products_are_the_twins() {
    let mut random = Random(62);
    for (device, gpu) in devices() {
        let sizes =
            [(1, 4, 2, 4, 2), (17, 9, 3, 20, 66), (64, 2, 2, 33, 130), (130, 6, 1, 68, 64), (300, 40, 8, 12, 34)];
        for (i, (l, experts, chosen, k, rows)) in sizes.into_iter().enumerate() {
            for format in [WeightFormat::ALL[i % 4], WeightFormat::ALL[(i + 3) % 4]] {
                let case = ExpertsCase { l, experts, chosen, k, rows, format, x: NumberFormat::F32 };
                pass(device, matmul(gpu, case, &mut random));
                pass(device, matvec(gpu, ExpertsCase { l: [1, 2, 8][i % 3], ..case }, &mut random));
                if gpu.shader_f16() {
                    pass(device, matmul(gpu, ExpertsCase { x: NumberFormat::F16, ..case }, &mut random));
                }
            }
        }
        for case in [(1, 1, 1), (3, 2, 64), (9, 10, 300)] {
            pass(device, sum(gpu, case, &mut random));
        }
    }
}
