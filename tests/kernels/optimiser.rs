//! The gradient's norm, clipping and AdamW: sizes around their workgroups.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::Random;
use mamba_wgpu::checks::optimiser;

#[test]
fn adamw_equals_its_twin() {
    let mut random = Random(40);
    for (device, gpu) in devices() {
        for (elements, decayed) in
            [(4, 0), (4, 4), (1024, 512), (1028, 1028), (16_384, 4), (16_388, 16_384), (40_000, 64)]
        {
            for max_norm in [0.0, 1.0, 1e9] {
                pass(device, optimiser::adamw(gpu, elements, decayed, max_norm, &mut random));
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut random = Random(41);
    for (device, gpu) in devices() {
        for elements in [4, 1024, 20_000] {
            pass(device, optimiser::frozen(gpu, elements, &mut random));
        }
    }
}
