//! embedding, rms_norm, x_dbl_norm, conv1d, conv1d_state and fill against their twins.

use super::data::{activations, close, equal, f64s, poisoned, poisoned_activations, read_activations, rounding};
use super::data::{run, tensor, CheckError, Random};
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{self, Conv1d, ConvShape, RmsNorm, WeightMatrix};
use crate::reference;

pub async fn embedding(
    gpu: &Gpu,
    format: WeightFormat,
    (vocab_size, d_model, l): (usize, usize, usize),
    random: &mut Random,
) -> Result<(), CheckError> {
    let table = random.weights(format, (vocab_size, d_model), -2.0, 2.0);
    let tokens = random.tokens(l, vocab_size);
    let mut want = vec![0.0; l * d_model];
    reference::embedding(&mut want, &f64s(&table), &tokens, d_model);
    let matrix = WeightMatrix::new(gpu, "table", (vocab_size, d_model), format, &table)?;
    let (ids, out) = (Tensor::new(gpu, "tokens", &tokens)?, poisoned(gpu, l * d_model)?);
    run(gpu, |plan| kernels::embedding(plan, &matrix, &ids, &out, l)).await?;
    let what = format!("embedding vocab_size {vocab_size} d_model {d_model} l {l} {format:?}");
    close(&what, &out.read(gpu).await?, &want, 0.0, 0.0)
}

pub async fn rms_norm(
    gpu: &Gpu,
    shape: RmsNorm,
    add: bool,
    act: NumberFormat,
    random: &mut Random,
) -> Result<(), CheckError> {
    let RmsNorm { rows, row0, d, eps } = shape;
    let l = rows + row0;
    let (residual, hidden) = (random.vec(l * d, -3.0, 3.0), random.vec(l * d, -3.0, 3.0));
    let weight = random.vec(d, 0.5, 2.0);
    let (mut r64, h64) = (f64s(&residual[row0 * d..]), f64s(&hidden[row0 * d..]));
    let mut want = vec![0.0; rows * d];
    reference::rms_norm(&mut want, &mut r64, add.then_some(&h64[..]), Some(&f64s(&weight)), f64::from(eps), d);
    let (tr, th) = (tensor(gpu, &residual)?, tensor(gpu, &hidden)?);
    let (tw, ty) = (tensor(gpu, &weight)?, poisoned_activations(gpu, rows * d, act)?);
    run(gpu, |plan| kernels::rms_norm(plan, &tr, add.then_some(&th), &tw, &ty, shape)).await?;
    let what = format!("rms_norm {shape:?} add {add} {act:?}");
    close(&what, &read_activations(gpu, &ty).await?, &want, 1e-6, 2e-6 + rounding(act))?;
    let after = tr.read::<f32>(gpu).await?;
    close(&what, &after[row0 * d..], &r64, 1e-6, 1e-6)?;
    equal(&what, &after[..row0 * d], &residual[..row0 * d])
}

pub async fn x_dbl_norm(
    gpu: &Gpu,
    (l, dt_rank, d_state): (usize, usize, usize),
    random: &mut Random,
) -> Result<(), CheckError> {
    let x = random.vec(l * (dt_rank + 2 * d_state), -3.0, 3.0);
    let mut want = f64s(&x);
    reference::x_dbl_norm(&mut want, dt_rank, d_state, 1e-6);
    let t = tensor(gpu, &x)?;
    run(gpu, |plan| kernels::x_dbl_norm(plan, &t, l, dt_rank, d_state, 1e-6)).await?;
    close(&format!("x_dbl_norm l {l} dt_rank {dt_rank} d_state {d_state}"), &t.read(gpu).await?, &want, 1e-6, 2e-6)
}

/// conv1d over a chunk, with its state after it. x is in the columns from `x_offset` on.
pub async fn conv1d(
    gpu: &Gpu,
    (l, d_inner, d_conv): (usize, usize, usize),
    x_offset: usize,
    (bias, act): (bool, NumberFormat),
    random: &mut Random,
) -> Result<(), CheckError> {
    let x_stride = 2 * d_inner + x_offset;
    let (txz, xz) = activations(gpu, &random.vec(l * x_stride, -2.0, 2.0), act)?;
    let state = random.vec(d_conv * d_inner, -2.0, 2.0);
    let weight = random.vec(d_inner * d_conv, -1.0, 1.0);
    let b = bias.then(|| random.vec(d_inner, -1.0, 1.0));
    let shape = ConvShape { l, d_inner, d_conv, x_stride, x_offset };
    let (x64, w64, b64) = (f64s(&xz), f64s(&weight), b.as_deref().map(f64s));
    let (mut want, mut want_state) = (vec![0.0; l * d_inner], f64s(&state));
    reference::conv1d(&mut want, &x64, &want_state, &w64, b64.as_deref(), &shape);
    reference::conv1d_state(&mut want_state, &x64, &shape);

    let what = format!("conv1d l {l} d_inner {d_inner} d_conv {d_conv} x at {x_offset} bias {bias} {act:?}");
    let (ts, tw) = (tensor(gpu, &state)?, tensor(gpu, &weight)?);
    let (tb, tu) = (b.map(|b| tensor(gpu, &b)).transpose()?, poisoned_activations(gpu, l * d_inner, act)?);
    let conv = Conv1d { xz: &txz, conv_state: &ts, weight: &tw, bias: tb.as_ref(), u: &tu };
    run(gpu, |plan| {
        kernels::conv1d(plan, &conv, shape)?;
        kernels::conv1d_state(plan, &conv, shape)
    })
    .await?;
    close(&what, &read_activations(gpu, &tu).await?, &want, 2e-6, 2e-6 + rounding(act))?;
    close(&format!("{what}, state"), &ts.read(gpu).await?, &want_state, 0.0, 0.0)
}

/// A tensor's words, and rows of a matrix in every format; what lies behind them is left alone.
pub async fn fill(gpu: &Gpu, case: &reference::Fill, rows: usize) -> Result<(), CheckError> {
    use reference::FillKind;
    let words = rows * case.row_words;
    let mut want = vec![0u32; words];
    reference::fill(&mut want, case);
    let out = Tensor::new(gpu, "check", &vec![u32::MAX; words + 8])?;
    run(gpu, |plan| kernels::fill(plan, &out, words, case)).await?;
    let got = out.read::<u32>(gpu).await?;
    let what = format!("{case:?}, {rows} rows");
    equal(&what, &got[words..], &[u32::MAX; 8])?;
    let got = &got[..words];
    let halves = |words: &[u32]| -> Vec<f32> {
        words.iter().flat_map(|w| [*w as u16, (w >> 16) as u16]).map(|h| half::f16::from_bits(h).to_f32()).collect()
    };
    let floats = |words: &[u32]| -> Vec<f32> { words.iter().map(|w| f32::from_bits(*w)).collect() };
    // A device may multiply and add in one step.
    let atol = 1e-6 * f64::from(case.low.abs() + case.span.abs());
    match case.kind {
        FillKind::F32 => close(&what, &floats(got), &f64s(&floats(&want)), atol, 0.0),
        FillKind::F16 => close(&what, &halves(got), &f64s(&halves(&want)), atol, 1e-3),
        _ => equal(&what, got, &want),
    }
}
