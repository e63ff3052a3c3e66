//! matmul and matvec against their twin.

use super::data::{activations, close, f64s, read_activations, rounding, run, tensor, CheckError, Random};
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::Gpu;
use crate::kernels::{self, WeightMatrix};
use crate::reference::{self, Epilogue};

/// One linear layer's sizes and variant.
#[derive(Debug, Clone, Copy)]
pub struct LinearCase {
    pub l: usize,
    pub k: usize,
    pub n: usize,
    pub format: WeightFormat,
    pub bias: bool,
    pub softplus: bool,
    /// x and y.
    pub numbers: (NumberFormat, NumberFormat),
}

/// `matvec` (l = 1) or `matmul` on random values; rows of x and y are longer than the layer, and what lies between
/// them must stay as it was.
pub async fn linear(gpu: &Gpu, matvec: bool, case: LinearCase, random: &mut Random) -> Result<(), CheckError> {
    let LinearCase { l, k, n, format, bias, softplus, numbers: (nx, ny) } = case;
    // Multiples of four where k is one, so that cooperative matrices are used where they can be.
    let (x_stride, y_stride) = (k + if k.is_multiple_of(4) { 4 } else { 3 }, n + 2);
    let (tx, x) = activations(gpu, &random.vec(l * x_stride, -1.0, 1.0), nx)?;
    let w = random.weights(format, (n, k), -1.0, 1.0);
    let b = bias.then(|| random.vec(n, -30.0, 30.0));
    let before = vec![7.0f32; l * y_stride];
    let mut want = f64s(&before);
    let shape = reference::Linear { l, k, n, x_stride, y_stride };
    let epilogue = if softplus { Epilogue::Softplus } else { Epilogue::None };
    let b64 = b.as_deref().map(f64s);
    reference::matmul(&mut want, &f64s(&x), &f64s(&w), b64.as_deref(), &shape, epilogue);

    let matrix = WeightMatrix::new(gpu, "w", (n, k), format, &w)?;
    let (ty, _) = activations(gpu, &before, ny)?;
    let tb = b.map(|b| tensor(gpu, &b)).transpose()?;
    let shape = kernels::Linear { l, x_stride, y_stride, softplus };
    let kernel = if matvec { kernels::matvec } else { kernels::matmul };
    run(gpu, |plan| kernel(plan, &tx, &matrix, tb.as_ref(), &ty, shape)).await?;
    let what = format!("{} {case:?}", if matvec { "matvec" } else { "matmul" });
    // Rounding adds up like a random walk over k products of size up to one; a bias of 30 has an ulp of 2e-6.
    // A product of which one side is in f16 may round the other to it (cooperative matrices), each factor by 2^-11 at most.
    let rough = [nx, ny].contains(&NumberFormat::F16) && !(nx == NumberFormat::F16 && format == WeightFormat::F16);
    let factors = if rough { 6e-4 * (k as f64).sqrt() } else { 0.0 };
    let atol = 2e-6 * (k as f64).sqrt() + 4e-6 + factors;
    close(&what, &read_activations(gpu, &ty).await?, &want, atol, 2e-6 + rounding(ny))
}

/// matmul by cooperative matrices at sizes around its tile (128) and slice (32): every format and pair of numbers it takes.
pub async fn cooperative(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    let (f16, f32) = (NumberFormat::F16, NumberFormat::F32);
    for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
        for (l, n, k) in [(1, 1, 4), (17, 80, 48), (128, 128, 64), (128, 300, 100), (130, 131, 100), (257, 260, 516)] {
            for numbers in [(f16, f16), (f16, f32), (f32, f16)] {
                let softplus = format == WeightFormat::F16 && numbers.1 == f16;
                let case = LinearCase { l, k, n, format, bias: n > 100, softplus, numbers };
                linear(gpu, false, case, random).await?;
            }
        }
    }
    Ok(())
}

/// matmul of f32 by halves (matmul_split) at sizes around its tile (128; what is left of outputs goes by matmul) and slice (32), in
/// every format, with factors from subnormal halves to large ones; rows past the last token are scratch.
pub async fn split(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    for format in WeightFormat::ALL {
        for (l, n, k) in [(65, 128, 4), (128, 256, 64), (130, 300, 100), (257, 384, 516)] {
            for size in [1e-3, 1.0, 300.0] {
                let (x_stride, y_stride) = (k + 4, n + 2);
                let x = random.vec(l * x_stride, -size, size);
                let w = random.weights(format, (n, k), -1.0, 1.0);
                let mut want = vec![0.0; l * y_stride];
                let shape = reference::Linear { l, k, n, x_stride, y_stride };
                reference::matmul(&mut want, &f64s(&x), &f64s(&w), None, &shape, Epilogue::None);

                let matrix = WeightMatrix::new(gpu, "w", (n, k), format, &w)?;
                let tall = l.next_multiple_of(kernels::COOP_TILE);
                let (tx, ty) = (tensor(gpu, &x)?, tensor(gpu, &vec![0.0; tall * y_stride])?);
                let shape = kernels::Linear { l, x_stride, y_stride, softplus: false };
                run(gpu, |plan| kernels::matmul(plan, &tx, &matrix, None, &ty, shape)).await?;
                let mut got = ty.read::<f32>(gpu).await?;
                got.truncate(l * y_stride);
                let what = format!("matmul_split {format:?} {l} x {k} by {n}, x up to {size}");
                // As any f32 sum of k products of up to `size`, the sums rounded towards zero; and halves below 2^-14 are
                // off by up to 2^-25.
                let atol = (2e-6 * size + 3e-8) * (k as f64).sqrt();
                close(&what, &got, &want, atol, 4e-6)?;
            }
        }
    }
    Ok(())
}

/// matmul of f32 for few tokens (matmul_few) at sizes around its tiles (16 and 32 tokens by 16 and 32 outputs) and rounds along k, split and not, in every
/// format, with factors from subnormal halves to what f16 does not hold.
pub async fn few(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    for format in WeightFormat::ALL {
        for (i, (l, n, k)) in
            [(2, 33, 4), (16, 32, 128), (17, 80, 300), (40, 64, 516), (64, 97, 132)].into_iter().enumerate()
        {
            for size in [1e-3, 1.0, 300.0, 1e6] {
                let softplus = format.quant().is_none() && i % 2 == 0;
                let (x_stride, y_stride) = (k + 4, n + 2);
                let x = random.vec(l * x_stride, -size, size);
                let w = random.weights(format, (n, k), -1.0, 1.0);
                let b = (i > 0).then(|| random.vec(n, -30.0, 30.0));
                let before = vec![7.0f32; l * y_stride];
                let mut want = f64s(&before);
                let shape = reference::Linear { l, k, n, x_stride, y_stride };
                let epilogue = if softplus { Epilogue::Softplus } else { Epilogue::None };
                let b64 = b.as_deref().map(f64s);
                reference::matmul(&mut want, &f64s(&x), &f64s(&w), b64.as_deref(), &shape, epilogue);

                let matrix = WeightMatrix::new(gpu, "w", (n, k), format, &w)?;
                let (tx, ty) = (tensor(gpu, &x)?, tensor(gpu, &before)?);
                let tb = b.map(|b| tensor(gpu, &b)).transpose()?;
                let shape = kernels::Linear { l, x_stride, y_stride, softplus };
                run(gpu, |plan| kernels::matmul(plan, &tx, &matrix, tb.as_ref(), &ty, shape)).await?;
                let what = format!("matmul_few {format:?} {l} x {k} by {n}, x up to {size}");
                // As of split: any f32 sum of k products of up to `size`, and halves below 2^-14 are off by up to 2^-25.
                let atol = (2e-6 * size + 3e-8) * (k as f64).sqrt() + 4e-6;
                close(&what, &ty.read::<f32>(gpu).await?, &want, atol, 4e-6)?;
            }
        }
    }
    Ok(())
}
