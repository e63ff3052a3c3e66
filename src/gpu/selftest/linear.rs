//! matmul and matvec against their twin.

use super::data::{close, f64s, run, tensor, CheckError, Random};
use crate::gpu::shader::WeightFormat;
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
}

/// `matvec` (l = 1) or `matmul` on random values; rows of x and y are longer than the layer, and what lies between
/// them must stay as it was.
pub async fn linear(gpu: &Gpu, matvec: bool, case: LinearCase, random: &mut Random) -> Result<(), CheckError> {
    let LinearCase { l, k, n, format, bias, softplus } = case;
    let (x_stride, y_stride) = (k + 3, n + 2);
    let x = random.vec(l * x_stride, -1.0, 1.0);
    let w = random.weights(format, (n, k), -1.0, 1.0);
    let b = bias.then(|| random.vec(n, -30.0, 30.0));
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
    let kernel = if matvec { kernels::matvec } else { kernels::matmul };
    run(gpu, |plan| kernel(plan, &tx, &matrix, tb.as_ref(), &ty, shape)).await?;
    let what = format!("{} {case:?}", if matvec { "matvec" } else { "matmul" });
    // Rounding adds up like a random walk over k products of size up to one; a bias of 30 has an ulp of 2e-6.
    close(&what, &ty.read(gpu).await?, &want, 2e-6 * (k as f64).sqrt() + 4e-6, 2e-6)
}
