//! The kernels of training: sizes around their tiles, blocks and chunks, several sequences, long sums.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::backward::{conv, embedding, largest, linear, loss, norm, scan, softplus, split};
use mamba_wgpu::checks::data::{run, tensor, CheckError, Random};
use mamba_wgpu::gpu::{Gpu, GpuOptions, PlanBuilder, Tensor};
use mamba_wgpu::kernels::backward::{column_sums, gradient_of, matmul_grad_w, scan_train};
use mamba_wgpu::kernels::backward::{Columns, LinearGrad, ScanTape, Scratch, ScratchShape, TrainScan};
use mamba_wgpu::kernels::{ScanBuffers, ScanShape};

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

/// By halves, where the adapter has cooperative matrices; it is then what plans consist of.
#[test]
fn matmul_gradients_by_halves_equal_their_twins() {
    let mut random = Random(29);
    for (device, gpu) in devices().iter().filter(|(_, gpu)| gpu.cooperative()) {
        pass(device, split(gpu, &mut random));
        let shape = ScratchShape { rows: 64, batch: 1, d_model: 64, d_inner: 64, d_state: 1, d_conv: 1, dt_rank: 1 };
        let (scratch, x) = (Scratch::new(gpu, shape).unwrap(), Tensor::zeros(gpu, "x", 64 * 64).unwrap());
        let w = gradient_of(gpu, "w", (64, 64)).unwrap();
        let mut plan = PlanBuilder::new(gpu);
        matmul_grad_w(&mut plan, &scratch, &x, &x, &w, LinearGrad { l: 64, x_stride: 64, y_stride: 64 }).unwrap();
        let plan = plan.finish().unwrap();
        assert!(plan.labels().iter().any(|label| label.contains("matmul_grad_split")), "{:?}", plan.labels());
    }
}

#[test]
fn largest_values_equal_their_twin() {
    let mut random = Random(30);
    for (device, gpu) in devices() {
        for sizes in [(1, 4, 8), (3, 12, 20), (70, 252, 256), (300, 4096, 4104), (0, 4, 8)] {
            pass(device, largest(gpu, sizes, &mut random));
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

/// As many states as registers are set aside for; the checked device's compiler (lavapipe's) takes minutes over them.
#[test]
fn many_states() {
    let (device, gpu) = &devices()[0];
    for d_state in [130, 256] {
        pass(device, scan(gpu, 1, (5, 3, d_state), false, &mut Random(27)));
    }
}

/// Sums are made in one order, however the workgroups run: two runs give the same bits.
#[test]
fn gradients_are_the_same_bits_every_time() {
    let (_, gpu) = &devices()[0];
    let (l, n, k) = (1030, 70, 20);
    let mut random = Random(28);
    let (x, grad_y) = (random.vec(l * k, -1.0, 1.0), random.vec(l * n, -1.0, 1.0));
    let shape = ScratchShape { rows: l, batch: 1, d_model: n, d_inner: n, d_state: 1, d_conv: 1, dt_rank: 1 };
    let scratch = Scratch::new(gpu, shape).unwrap();
    let (x, grad_y) = (tensor(gpu, &x).unwrap(), tensor(gpu, &grad_y).unwrap());
    let once = || {
        let (w, bias) = (gradient_of(gpu, "w", (n, k)).unwrap(), Tensor::zeros(gpu, "bias", n).unwrap());
        pollster::block_on(async {
            run(gpu, |plan| {
                matmul_grad_w(plan, &scratch, &x, &grad_y, &w, LinearGrad { l, x_stride: k, y_stride: n })?;
                column_sums(plan, &scratch, &grad_y, &bias, Columns { rows: l, cols: n, stride: n })
            })
            .await
            .unwrap();
            let (mut values, bias) = (w.parts()[0].tensor.read::<f32>(gpu).await.unwrap(), bias.read::<f32>(gpu).await);
            values.extend(bias.unwrap());
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let first = once();
    assert!(first.iter().all(|&bits| bits != 0), "a gradient that was never written");
    for _ in 0..3 {
        assert_eq!(once(), first);
    }
}

/// Scratch for less than what is asked is an error that says so, and so is a tape.
#[test]
fn too_little_scratch_is_an_error() {
    let (_, gpu) = &devices()[0];
    let shape = ScratchShape { rows: 1, batch: 1, d_model: 1, d_inner: 1, d_state: 1, d_conv: 1, dt_rank: 1 };
    let scratch = Scratch::new(gpu, shape).unwrap();
    let t = Tensor::zeros(gpu, "t", 64).unwrap();
    let columns = Columns { rows: 1 << 20, cols: 1 << 12, stride: 1 << 12 };
    let e = column_sums(&mut PlanBuilder::new(gpu), &scratch, &t, &t, columns).unwrap_err();
    assert!(e.to_string().contains("scratch"), "{e}");
    let scan = |l| TrainScan { batch: 1, shape: ScanShape::of_layer(l, 4, 4, 1), lti: false };
    let tape = ScanTape::new(gpu, scan(16)).unwrap();
    let b = ScanBuffers { u: &t, delta: &t, a: &t, x_dbl: &t, d: &t, xz: &t, ssm_state: &t, y: &t };
    let e = scan_train(&mut PlanBuilder::new(gpu), &tape, &b, scan(17)).unwrap_err();
    assert!(e.to_string().contains("tape"), "{e}");
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
    let gpu = spoilt("matmul_grad_split");
    if gpu.cooperative() {
        let result = pollster::block_on(split(&gpu, random));
        assert!(matches!(result, Err(CheckError::Differs { .. })), "{result:?}");
    }
}
