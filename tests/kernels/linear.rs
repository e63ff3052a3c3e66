//! matmul and matvec: sizes around the tile (64), the slice (16) and the quad; both weight formats; bias, softplus;
//! weights split by rows.

use crate::harness::{devices, pass};
use mamba_wgpu::gpu::selftest::data::{poisoned, run, tensor, Random};
use mamba_wgpu::gpu::selftest::linear::{linear, LinearCase};
use mamba_wgpu::gpu::shader::WeightFormat;
use mamba_wgpu::gpu::{GpuError, Tensor};
use mamba_wgpu::kernels::{self, WeightMatrix};
use pollster::block_on;

#[test]
fn matmul_and_matvec_equal_their_twin() {
    let mut random = Random(1);
    for (device, gpu) in devices() {
        for format in [WeightFormat::F32, WeightFormat::F16] {
            for (bias, softplus) in [(false, false), (true, false), (true, true), (false, true)] {
                for (k, n) in [(1, 1), (3, 5), (4, 4), (15, 63), (16, 64), (17, 65), (65, 130), (257, 31)] {
                    for l in [0, 1, 2, 63, 64, 65, 130] {
                        let case = LinearCase { l, k, n, format, bias, softplus };
                        pass(device, linear(gpu, false, case, &mut random));
                    }
                    pass(device, linear(gpu, true, LinearCase { l: 1, k, n, format, bias, softplus }, &mut random));
                }
                let long = LinearCase { l: 1, k: 1030, n: 3, format, bias, softplus };
                pass(device, linear(gpu, true, long, &mut random));
            }
        }
    }
}

/// A matrix over the limit a binding (128 MiB by default) is split by rows, as a head and as an embedding.
#[test]
fn matrices_over_the_binding_limit_are_split_by_rows() {
    let (_, gpu) = &devices()[1];
    let (n, k) = (33_000, 1024);
    assert!(n * k * 4 > 128 << 20 && gpu.max_binding() <= 128 << 20);
    let row = |j: usize| (0..k).map(move |i| ((i + j) % 7) as f32 - 3.0);
    let rows = |rows: std::ops::Range<usize>| Ok(rows.flat_map(row).collect());
    let matrix = WeightMatrix::upload::<GpuError>(gpu, "w", (n, k), WeightFormat::F32, rows).unwrap();
    assert_eq!(matrix.parts().len(), 2);
    let boundary = matrix.parts()[1].row_start;

    for l in [1, 3] {
        let x: Vec<f32> = (0..l * k).map(|i| (i % 5) as f32).collect();
        let (tx, ty) = (tensor(gpu, &x).unwrap(), poisoned(gpu, l * n).unwrap());
        let shape = kernels::Linear { l, x_stride: k, y_stride: n, softplus: false };
        block_on(run(gpu, |plan| kernels::linear(plan, &tx, &matrix, None, &ty, shape))).unwrap();
        let y = block_on(ty.read::<f32>(gpu)).unwrap();
        assert!(y.iter().all(|y| y.is_finite()), "every output is written");
        for t in 0..l {
            for j in [0, 1, boundary - 1, boundary, boundary + 1, n - 1] {
                let want: f32 = row(j).zip(&x[t * k..]).map(|(w, x)| w * x).sum();
                assert_eq!(y[t * n + j], want, "token {t} row {j}");
            }
        }
    }
    let tokens = [0, boundary as u32 - 1, boundary as u32, n as u32 - 1];
    let (ids, residual) = (Tensor::new(gpu, "tokens", &tokens).unwrap(), poisoned(gpu, 4 * k).unwrap());
    block_on(run(gpu, |plan| kernels::embedding(plan, &matrix, &ids, &residual, 4))).unwrap();
    let got = block_on(residual.read::<f32>(gpu)).unwrap();
    for (i, &t) in tokens.iter().enumerate() {
        assert!(got[i * k..(i + 1) * k].iter().copied().eq(row(t as usize)), "token {t}");
    }
}
