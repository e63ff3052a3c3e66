//! matmul and matvec: sizes around the tile (64), the slice (16), the block (32) and the quad; all weight formats; bias, softplus;
//! weights split by rows.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::{poisoned, run, tensor, Random};
use mamba_wgpu::checks::linear::{cooperative, few, linear, split, LinearCase};
use mamba_wgpu::gpu::shader::{NumberFormat, WeightFormat};
use mamba_wgpu::gpu::{Gpu, GpuError, Tensor};
use mamba_wgpu::kernels::{self, WeightMatrix};
use mamba_wgpu::reference::Quant;
use pollster::block_on;

const PLAIN: (NumberFormat, NumberFormat) = (NumberFormat::F32, NumberFormat::F32);

/// x and y in f16, where the adapter has it: by the same kernel, and by cooperative matrices where it has those.
#[test]
fn matmul_of_f16_activations_equals_its_twin() {
    let mut random = Random(21);
    for (device, gpu) in devices().iter().filter(|(_, gpu)| gpu.shader_f16()) {
        let f16 = NumberFormat::F16;
        for numbers in [(f16, f16), (f16, NumberFormat::F32), (NumberFormat::F32, f16)] {
            for (l, k, n) in [(1, 1, 1), (65, 130, 67), (64, 16, 64), (3, 257, 5)] {
                let (format, softplus) = (WeightFormat::F16, k > 100);
                let case = LinearCase { l, k, n, format, bias: true, softplus, numbers };
                pass(device, linear(gpu, false, case, &mut random));
            }
        }
        if gpu.cooperative() {
            pass(device, few(gpu, &mut random));
            pass(device, cooperative(gpu, &mut random));
            pass(device, split(gpu, &mut random));
        }
    }
}

#[test]
fn matmul_and_matvec_equal_their_twin() {
    let mut random = Random(1);
    for (device, gpu) in devices() {
        for format in WeightFormat::ALL {
            for (bias, softplus) in [(false, false), (true, false), (true, true), (false, true)] {
                // softplus is dt_proj's, which is never quantised.
                if softplus && format.quant().is_some() {
                    continue;
                }
                // Each epilogue at one size, each size with one epilogue.
                let sizes = [(17, 65), (1, 1), (3, 5), (4, 4), (15, 63), (16, 64), (32, 3), (130, 130)];
                for &(k, n) in sizes.iter().take(if bias && !softplus { sizes.len() } else { 1 }) {
                    for l in [0, 1, 2, 64, 65] {
                        let case = LinearCase { l, k, n, format, bias, softplus, numbers: PLAIN };
                        pass(device, linear(gpu, false, case, &mut random));
                    }
                    pass(
                        device,
                        linear(
                            gpu,
                            true,
                            LinearCase { l: 1, k, n, format, bias, softplus, numbers: PLAIN },
                            &mut random,
                        ),
                    );
                }
                let long = LinearCase { l: 1, k: 1030, n: 3, format, bias, softplus, numbers: PLAIN };
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
    embedded(gpu, &matrix, &tokens, row);
}

/// The rows of some tokens are what they should be, to the last bit.
fn embedded<I: Iterator<Item = f32>>(gpu: &Gpu, matrix: &WeightMatrix, tokens: &[u32], row: impl Fn(usize) -> I) {
    let (l, k) = (tokens.len(), matrix.k());
    let (ids, residual) = (Tensor::new(gpu, "tokens", tokens).unwrap(), poisoned(gpu, l * k).unwrap());
    block_on(run(gpu, |plan| kernels::embedding(plan, matrix, &ids, &residual, l))).unwrap();
    let got = block_on(residual.read::<f32>(gpu)).unwrap();
    for (i, &t) in tokens.iter().enumerate() {
        assert!(got[i * k..(i + 1) * k].iter().copied().eq(row(t as usize)), "token {t}");
    }
}

/// The same for quantised ones, whose scales are split with them. Rows of an odd number of blocks, so that scales of two
/// rows share a word.
#[test]
fn quantised_matrices_are_split_by_rows() {
    let (_, gpu) = &devices()[1];
    for (quant, n, k) in [(Quant::Q8, 44_001, 3104), (Quant::Q4, 88_001, 3104)] {
        // Integers -7 to 7 and powers of two for scales, that differ from row to row: all sums are exact.
        let scale = |j: usize| ((j % 5) as f32 - 2.0).exp2();
        let row = |j: usize| (0..k).map(move |i| ((i + j) % 15) as f32 - 7.0).map(move |x| x * scale(j));
        let (mut packed, mut scales) = (Vec::new(), Vec::new());
        for j in 0..5 * 15 {
            let bf16 = half::bf16::from_f32(scale(j)).to_le_bytes();
            scales.extend(bf16.repeat(k / 32));
            let q: Vec<i32> = row(j).map(|x| (x / scale(j)) as i32).collect();
            match quant {
                Quant::Q8 => packed.extend(q.iter().map(|&q| q as i8 as u8)),
                Quant::Q4 => {
                    packed.extend(q.chunks_exact(8).flat_map(|q| {
                        (0..4).map(|b| (q[b] + 8) as u8 | ((q[4 + b] + 8) as u8) << 4).collect::<Vec<_>>()
                    }))
                }
            }
        }
        // Rows repeat after 75 of them.
        let (p, s) = (quant.row_bytes(k), Quant::row_scale_bytes(k));
        let (packed, scales) = (packed.repeat(n / 75 + 2), scales.repeat(n / 75 + 2));
        let rows = |rows: std::ops::Range<usize>| {
            Ok((&packed[rows.start * p..rows.end * p], &scales[rows.start * s..rows.end * s]))
        };
        let matrix = WeightMatrix::upload_quantised::<GpuError, _>(gpu, "w", (n, k), quant, rows).unwrap();
        assert_eq!(matrix.parts().len(), 2, "{quant:?}");
        let boundary = matrix.parts()[1].row_start;
        let x: Vec<f32> = (0..k).map(|i| (i % 5) as f32).collect();
        let (tx, ty) = (tensor(gpu, &x).unwrap(), poisoned(gpu, n).unwrap());
        let shape = kernels::Linear { l: 1, x_stride: k, y_stride: n, softplus: false };
        block_on(run(gpu, |plan| kernels::matvec(plan, &tx, &matrix, None, &ty, shape))).unwrap();
        let y = block_on(ty.read::<f32>(gpu)).unwrap();
        let ends = [0, 1, boundary - 1, boundary, boundary + 1, n - 1];
        for j in ends {
            assert_eq!(y[j], row(j).zip(&x).map(|(w, x)| w * x).sum::<f32>(), "{quant:?} row {j}");
        }
        embedded(gpu, &matrix, &ends.map(|j| j as u32), row);
    }
}
