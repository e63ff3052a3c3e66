//! The kernels of training: sizes around their tiles, blocks and chunks, several sequences, long sums.

use crate::harness::{devices, pass};
use mamba_wgpu::gpu::selftest::backward::{conv, embedding, linear, loss, norm, scan, softplus};
use mamba_wgpu::gpu::selftest::data::{CheckError, Random};
use mamba_wgpu::gpu::{Gpu, GpuOptions};

#[test]
fn matmul_gradients_equal_their_twins() {
    let mut random = Random(20);
    for (device, gpu) in devices() {
        // The last three are cut into parts: the sum over n, over tokens, over both.
        let sizes = [(1, 1, 1), (3, 5, 7), (16, 64, 17), (65, 63, 64), (64, 66, 129), (0, 5, 4)];
        for sizes in sizes.into_iter().chain([(20, 48, 530), (1030, 9, 20), (520, 67, 600)]) {
            pass(device, linear(gpu, sizes, &mut random));
        }
    }
}

#[test]
fn norm_gradients_equal_their_twins() {
    let mut random = Random(21);
    for (device, gpu) in devices() {
        for (rows, d) in [(1, 1), (3, 255), (33, 256), (64, 257), (300, 9), (0, 8)] {
            for add in [false, true] {
                pass(device, norm(gpu, (rows, d), add, &mut random));
            }
        }
    }
}

#[test]
fn losses_equal_their_twin() {
    let mut random = Random(22);
    for (device, gpu) in devices() {
        for sizes in [(1, 1), (2, 255), (7, 256), (3, 257), (9, 1000), (0, 5)] {
            pass(device, loss(gpu, sizes, &mut random));
        }
    }
}

#[test]
fn embedding_gradients_equal_their_twin() {
    let mut random = Random(23);
    for (device, gpu) in devices() {
        for (sizes, used) in [((1, 1, 1), 1), ((7, 3, 63), 7), ((7, 65, 64), 2), ((9, 4, 65), 1), ((40, 130, 500), 3)] {
            pass(device, embedding(gpu, sizes, used, &mut random));
        }
        pass(device, embedding(gpu, (1000, 5, 700), 1000, &mut random));
        pass(device, embedding(gpu, (5, 5, 0), 5, &mut random));
    }
}

#[test]
fn conv_gradients_equal_their_twin() {
    let mut random = Random(24);
    for (device, gpu) in devices() {
        for d_conv in 1..=5 {
            for (batch, l, d_inner) in [(1, 1, 1), (2, 3, 5), (3, 32, 64), (1, 33, 65), (2, 70, 7)] {
                pass(device, conv(gpu, batch, (l, d_inner, d_conv), d_conv % 2 == 0, &mut random));
            }
        }
    }
}

#[test]
fn scan_gradients_equal_their_twin() {
    let mut random = Random(25);
    for (device, gpu) in devices() {
        for (d_state, sizes) in [
            (1, &[(2, 16, 3), (1, 17, 300)][..]),
            (5, &[(1, 1, 1), (3, 35, 10)]),
            (16, &[(1, 1, 1), (2, 16, 3), (1, 17, 65), (3, 35, 10)]),
            (17, &[(2, 33, 5)]),
            (64, &[(2, 19, 11)]),
        ] {
            for &(batch, l, d_inner) in sizes {
                for lti in [false, true] {
                    pass(device, scan(gpu, batch, (l, d_inner, d_state), lti, &mut random));
                }
            }
        }
        // More chunks than the carry has runs, more channels than a workgroup.
        pass(device, scan(gpu, 2, (300, 130, 16), false, &mut random));
        pass(device, softplus(gpu, &mut random));
    }
}

/// A kernel that computes wrongly by one part in a hundred is found: the comparisons can fail.
#[test]
fn a_spoilt_kernel_fails() {
    let spoilt = |kernel: &str| {
        let options = GpuOptions { fault: Some(format!("backward/{kernel}")), ..Default::default() };
        pollster::block_on(Gpu::new(&options)).expect("an adapter")
    };
    let mut random = Random(26);
    let random = &mut random;
    let failed = [
        pollster::block_on(linear(&spoilt("matmul_grad"), (5, 6, 7), random)),
        pollster::block_on(norm(&spoilt("rms_norm_backward"), (5, 6), true, random)),
        pollster::block_on(norm(&spoilt("column_sums"), (5, 6), true, random)),
        pollster::block_on(loss(&spoilt("cross_entropy"), (5, 6), random)),
        pollster::block_on(conv(&spoilt("conv1d_backward"), 2, (5, 6, 4), true, random)),
        pollster::block_on(scan(&spoilt("scan_backward_reduce"), 2, (20, 6, 4), false, random)),
        pollster::block_on(scan(&spoilt("scan_backward_apply"), 2, (20, 6, 4), true, random)),
        pollster::block_on(scan(&spoilt("pointwise"), 1, (5, 6, 4), false, random)),
    ];
    for (i, result) in failed.iter().enumerate() {
        assert!(matches!(result, Err(CheckError::Differs { .. })), "kernel {i} was spoilt: {result:?}");
    }
}
