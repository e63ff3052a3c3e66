//! The kernels of training against their twins.

use super::data::{close, equal, f64s, poisoned, run, tensor, CheckError, Random};
use crate::gpu::shader::WeightFormat;
use crate::gpu::{Gpu, GpuError, Tensor};
use crate::kernels::backward::{self as kernels, Columns, Factor, LinearGrad, Scratch, ScratchShape};
use crate::kernels::{conv1d_batch, conv1d_state_batch, Conv1d, ConvShape, RmsNorm, ScanBuffers, WeightMatrix};
use crate::reference::backward::{self as reference, ConvGrads, ConvInputs, CrossEntropy, TrainScan, IGNORE};
use crate::reference::{Linear, ScanInput, ScanShape};

/// Relative to the largest value of an array, and to each: sums of some hundred products in f32.
const TOLERANCE: f64 = 1e-5;

fn near(what: &str, got: &[f32], want: &[f64]) -> Result<(), CheckError> {
    let scale = want.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    close(what, got, want, TOLERANCE * scale, TOLERANCE)
}

async fn holds(gpu: &Gpu, what: &str, got: &Tensor, want: &[f64]) -> Result<(), CheckError> {
    near(what, &got.read(gpu).await?, want)
}

/// Scratch that is enough for the sizes of these checks, full of NaN: what a kernel reads of it, it has written.
fn scratch(gpu: &Gpu, shape: ScratchShape) -> Result<Scratch, GpuError> {
    let scratch = Scratch::new(gpu, shape)?;
    scratch.fill(gpu, f32::NAN);
    Ok(scratch)
}

fn sizes(rows: usize, batch: usize, d: usize, d_state: usize, d_conv: usize) -> ScratchShape {
    ScratchShape { rows, batch, d_model: d, d_inner: d, d_state, d_conv, dt_rank: 3 }
}

/// A matrix on the device without the padding of its rows.
async fn matrix(gpu: &Gpu, w: &WeightMatrix) -> Result<Vec<f32>, GpuError> {
    let mut values = Vec::new();
    for part in w.parts() {
        let padded = part.tensor.read::<f32>(gpu).await?;
        values.extend(padded.chunks(4 * w.k4()).take(part.rows).flat_map(|row| row[..w.k()].to_vec()));
    }
    Ok(values)
}

/// What rows of `stride` have behind their first `cols`: it must stay.
fn between(x: &[f32], stride: usize, cols: usize) -> Vec<u32> {
    x.chunks(stride).flat_map(|row| row.iter().skip(cols).map(|x| x.to_bits()).collect::<Vec<_>>()).collect()
}

/// Rows of `stride`, of which the first `cols` count: each is near, by its own largest value or `floor`.
fn rows_near(
    what: &str,
    (got, want): (&[f32], &[f64]),
    (cols, stride): (usize, usize),
    floor: f64,
) -> Result<(), CheckError> {
    for (i, (got, want)) in got.chunks(stride.max(1)).zip(want.chunks(stride.max(1))).enumerate() {
        let scale = want.iter().take(cols).fold(floor, |m, x| m.max(x.abs()));
        close(&format!("{what}, row {i}"), &got[..cols], &want[..cols], TOLERANCE * scale, TOLERANCE)?;
    }
    Ok(())
}

/// matmul_grad_x, and matmul_grad with grad_x added to, of a linear layer whose grad_y is of the size `size` and x of `x_size`.
async fn products(
    gpu: &Gpu,
    what: &str,
    shape: Linear,
    (grad_y, size, x_size): (&[f32], f64, f64),
    random: &mut Random,
) -> Result<(), CheckError> {
    let Linear { l, k, n, x_stride, y_stride } = shape;
    let (x, w) = (random.vec(l * x_stride, -x_size, x_size), random.vec(n * k, -1.0, 1.0));
    // As small as a row of the result may be.
    let (least, least_w) = (1e-6 * size, 1e-6 * size * x_size);
    let (before, grad_w) = (random.vec(l * x_stride, -least, least), random.vec(n * k, -least_w, least_w));
    let scratch = scratch(gpu, sizes(l, 1, n.max(k), 1, 1))?;
    let (tx, tg) = (tensor(gpu, &x)?, tensor(gpu, grad_y)?);
    let tw = WeightMatrix::new(gpu, "w", (n, k), WeightFormat::F32, &w)?;
    let out_w = WeightMatrix::new(gpu, "grad_w", (n, k), WeightFormat::F32, &grad_w)?;
    let grads = LinearGrad { l, x_stride, y_stride };
    for add in [false, true] {
        let mut want = f64s(&before);
        reference::matmul_grad_x(&mut want, &f64s(grad_y), &f64s(&w), &shape, add);
        let out = tensor(gpu, &before)?;
        run(gpu, |plan| {
            let tensors = kernels::MatmulGrads { x: &tx, w: &tw, grad_y: &tg, grad_x: &out, grad_w: &out_w };
            match add {
                false => kernels::matmul_grad_x(plan, &scratch, &tg, &tw, &out, grads, false),
                true => kernels::matmul_grad(plan, &scratch, &tensors, grads, true),
            }
        })
        .await?;
        let got = out.read::<f32>(gpu).await?;
        rows_near(&format!("{what}: x, add {add}"), (&got, &want), (k, x_stride), least)?;
        equal(&format!("{what}: behind x"), &between(&got, x_stride, k), &between(&before, x_stride, k))?;
    }
    let mut want_w = f64s(&grad_w);
    reference::matmul_grad_w(&mut want_w, &f64s(&x), &f64s(grad_y), &shape);
    rows_near(&format!("{what}: w"), (&matrix(gpu, &out_w).await?, &want_w), (k, k), least_w)?;
    let padded = out_w.parts()[0].tensor.read::<f32>(gpu).await?;
    let behind = between(&padded, 4 * out_w.k4(), k);
    equal(&format!("{what}: behind w"), &behind, &vec![0; behind.len()])
}

/// matmul_grad, matmul_grad_x and column_sums of one linear layer, by multiply-adds: its rows are no whole quads.
pub async fn linear(gpu: &Gpu, (l, k, n): (usize, usize, usize), random: &mut Random) -> Result<(), CheckError> {
    let what = format!("matmul_grad l {l} k {k} n {n}");
    // Never both multiples of four.
    let y_stride = n + if n.is_multiple_of(2) { 3 } else { 2 };
    let shape = Linear { l, k, n, x_stride: k + 3, y_stride };
    let (grad_y, grad_bias) = (random.vec(l * y_stride, -1.0, 1.0), random.vec(n, -1.0, 1.0));
    products(gpu, &what, shape, (&grad_y, 1.0, 1.0), random).await?;
    let mut want_bias = f64s(&grad_bias);
    reference::column_sums(&mut want_bias, &f64s(&grad_y), l, y_stride);
    let scratch = scratch(gpu, sizes(l, 1, n.max(k), 1, 1))?;
    let (tg, out_bias) = (tensor(gpu, &grad_y)?, tensor(gpu, &grad_bias)?);
    let columns = Columns { rows: l, cols: n, stride: y_stride };
    run(gpu, |plan| kernels::column_sums(plan, &scratch, &tg, &out_bias, columns)).await?;
    holds(gpu, &format!("{what}: bias"), &out_bias, &want_bias).await
}

/// matmul_grad by halves, where the adapter has cooperative matrices, at sizes around its tile (128), slice (32) and piece (16), with
/// sums in parts; grad_y and x far below what f16 holds, in its middle, and above; all of one size, and with every third row and
/// column a thousandth of the others: those must be as good by their own size.
pub async fn split(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    for (l, k, n) in [(33, 36, 32), (128, 128, 128), (130, 132, 100), (64, 260, 516), (1030, 48, 80), (150, 32, 1100)] {
        for (size, x_size, mixed) in [(1e-10, 1e7, true), (1.0, 1.0, false), (1.0, 1e-6, true), (1e4, 1.0, true)] {
            let (x_stride, y_stride) = (k + 4, n + 8);
            let what = format!("matmul_grad_split l {l} k {k} n {n}, up to {size}, x {x_size}, mixed {mixed}");
            let mut grad_y = random.vec(l * y_stride, -size, size);
            for (i, g) in grad_y.iter_mut().enumerate().filter(|_| mixed) {
                let small = [i / y_stride, i % y_stride].into_iter().filter(|i| i % 3 == 1).count();
                *g *= 1e-3f32.powi(small as i32);
            }
            let shape = Linear { l, k, n, x_stride, y_stride };
            products(gpu, &what, shape, (&grad_y, size, x_size), random).await?;
        }
    }
    Ok(())
}

/// The partial maxima of rows with gaps and without.
pub async fn largest(
    gpu: &Gpu,
    (rows, cols, stride): (usize, usize, usize),
    random: &mut Random,
) -> Result<(), CheckError> {
    for (stride, factor) in [(stride, Factor::GradY), (cols, Factor::X)] {
        let mut x = random.vec(rows * stride, -1.0, 1.0);
        // The largest in the last place that counts; behind it what must not.
        if let Some(last) = x.len().checked_sub(stride) {
            x[last + cols - 1] = -3.0;
            x[last + cols..].fill(7.0);
        }
        let (scratch, tx) = (scratch(gpu, sizes(1, 1, 1, 1, 1))?, tensor(gpu, &x)?);
        run(gpu, |plan| kernels::largest(plan, &scratch, factor, &tx, Columns { rows, cols, stride })).await?;
        let parts = scratch.partial_maxima(factor).read::<f32>(gpu).await?;
        equal("partial maxima that are none", &[parts.iter().filter(|x| x.is_nan()).count()], &[0])?;
        let got = parts.iter().copied().fold(0.0, f32::max);
        equal(
            &format!("largest rows {rows} cols {cols} stride {stride}"),
            &[got],
            &[reference::largest(&x, rows, cols, stride)],
        )?;
    }
    Ok(())
}

/// rms_norm_train and rms_norm_backward.
pub async fn norm(gpu: &Gpu, (rows, d): (usize, usize), add: bool, random: &mut Random) -> Result<(), CheckError> {
    let what = format!("rms_norm_backward rows {rows} d {d} add {add}");
    let (residual, hidden) = (random.vec(rows * d, -2.0, 2.0), random.vec(rows * d, -2.0, 2.0));
    let (weight, grad_y) = (random.vec(d, 0.5, 2.0), random.vec(rows * d, -1.0, 1.0));
    let (grad_x, grad_weight) = (random.vec(rows * d, -1.0, 1.0), random.vec(d, -1.0, 1.0));
    let shape = RmsNorm { rows, row0: 0, d, eps: 1e-2 };
    let (mut y, mut sum) = (vec![0.0; rows * d], vec![0.0; rows * d]);
    let (h64, w64, eps) = (f64s(&hidden), f64s(&weight), f64::from(shape.eps));
    reference::rms_norm_train(&mut y, &mut sum, &f64s(&residual), add.then_some(&h64), &w64, eps);
    let (mut want_x, mut want_weight) = (f64s(&grad_x), f64s(&grad_weight));
    reference::rms_norm_backward(&mut want_x, &mut want_weight, &sum, &w64, &f64s(&grad_y), eps);

    let scratch = scratch(gpu, sizes(rows, 1, d, 1, 1))?;
    let t = |x: &[f32]| tensor(gpu, x);
    let (tr, th, tw, tg) = (t(&residual)?, t(&hidden)?, t(&weight)?, t(&grad_y)?);
    let (ty, ts, tx, tgw) = (poisoned(gpu, rows * d)?, poisoned(gpu, rows * d)?, t(&grad_x)?, t(&grad_weight)?);
    let grads = kernels::RmsNormGrads { x: &ts, weight: &tw, grad_y: &tg, grad_x: &tx, grad_weight: &tgw };
    run(gpu, |plan| {
        kernels::rms_norm_train(plan, &tr, add.then_some(&th), &ts, &tw, &ty, shape)?;
        kernels::rms_norm_backward(plan, &scratch, &grads, shape)
    })
    .await?;
    equal(&format!("{what}: residual"), &tr.read::<f32>(gpu).await?, &residual)?;
    holds(gpu, &format!("{what}: sum"), &ts, &sum).await?;
    holds(gpu, &format!("{what}: y"), &ty, &y).await?;
    holds(gpu, &format!("{what}: x"), &tx, &want_x).await?;
    holds(gpu, &format!("{what}: weight"), &tgw, &want_weight).await
}

/// cross_entropy, every third target ignored, without smoothed labels and with.
pub async fn loss(gpu: &Gpu, (rows, vocab_size): (usize, usize), random: &mut Random) -> Result<(), CheckError> {
    for label_smoothing in [0.0, 0.25] {
        let shape = CrossEntropy { rows, vocab_size, label_smoothing };
        let what = format!("cross_entropy {shape:?}");
        let (logits, mut targets) = (random.vec(rows * vocab_size, -9.0, 9.0), random.tokens(rows, vocab_size));
        targets.iter_mut().skip(2).step_by(3).for_each(|t| *t = IGNORE);
        let (mut want, mut nll) = (f64s(&logits), vec![0.0; rows]);
        reference::cross_entropy(&mut want, &mut nll, &targets, 0.125, shape);
        let (tl, tn, ts) = (tensor(gpu, &logits)?, poisoned(gpu, rows)?, tensor(gpu, &[0.125])?);
        let tt = Tensor::new(gpu, "targets", &targets)?;
        run(gpu, |plan| kernels::cross_entropy(plan, &tl, &tt, &ts, &tn, shape)).await?;
        holds(gpu, &format!("{what}: nll"), &tn, &nll).await?;
        holds(gpu, &format!("{what}: logits"), &tl, &want).await?;
    }
    Ok(())
}

/// embedding_backward on tokens below `used`: few make runs over many blocks.
pub async fn embedding(
    gpu: &Gpu,
    (vocab_size, d_model, rows): (usize, usize, usize),
    used: usize,
    random: &mut Random,
) -> Result<(), CheckError> {
    let what = format!("embedding_backward vocab_size {vocab_size} d_model {d_model} rows {rows} used {used}");
    let (tokens, grad) = (random.tokens(rows, used), random.vec(rows * d_model, -1.0, 1.0));
    let before = random.vec(vocab_size * d_model, -1.0, 1.0);
    let mut want = f64s(&before);
    reference::embedding_backward(&mut want, &f64s(&grad), &tokens, d_model);
    let scratch = scratch(gpu, sizes(rows, 1, d_model, 1, 1))?;
    let order = Tensor::new(gpu, "order", &reference::token_order(&tokens))?;
    let (ids, grad) = (Tensor::new(gpu, "tokens", &tokens)?, tensor(gpu, &grad)?);
    let table = WeightMatrix::new(gpu, "grad", (vocab_size, d_model), WeightFormat::F32, &before)?;
    run(gpu, |plan| kernels::embedding_backward(plan, &scratch, &ids, &order, &grad, &table, rows)).await?;
    near(&what, &matrix(gpu, &table).await?, &want)
}

/// conv1d_batch, conv1d_state_batch and conv1d_backward; without a bias x stands behind other columns.
pub async fn conv(
    gpu: &Gpu,
    batch: usize,
    (l, d_inner, d_conv): (usize, usize, usize),
    bias: bool,
    random: &mut Random,
) -> Result<(), CheckError> {
    let what = format!("conv1d_backward batch {batch} l {l} d_inner {d_inner} d_conv {d_conv} bias {bias}");
    let (rows, x_stride) = (batch * l, 2 * d_inner);
    let shape = ConvShape { l, d_inner, d_conv, x_stride, x_offset: if bias { 0 } else { d_inner } };
    let (xz, weight) = (random.vec(rows * x_stride, -2.0, 2.0), random.vec(d_inner * d_conv, -1.0, 1.0));
    let (b, state) = (random.vec(d_inner, -1.0, 1.0), random.vec(batch * d_conv * d_inner, -1.0, 1.0));
    let (grad_u, grad_xz) = (random.vec(rows * d_inner, -1.0, 1.0), random.vec(rows * x_stride, -1.0, 1.0));
    let (grad_weight, grad_bias) = (random.vec(d_inner * d_conv, -1.0, 1.0), random.vec(d_inner, -1.0, 1.0));
    let (x64, w64, b64) = (f64s(&xz), f64s(&weight), f64s(&b));
    let input = ConvInputs { xz: &x64, weight: &w64, bias: bias.then_some(&b64) };
    let (mut want_u, mut want_state) = (vec![0.0; rows * d_inner], f64s(&state));
    reference::conv1d_batch(&mut want_u, &input, &want_state, &shape);
    reference::conv1d_state_batch(&mut want_state, &x64, &shape);
    let (mut want_xz, mut want_weight, mut want_bias) = (f64s(&grad_xz), f64s(&grad_weight), f64s(&grad_bias));
    let mut grads = ConvGrads { xz: &mut want_xz, weight: &mut want_weight, bias: bias.then_some(&mut want_bias) };
    reference::conv1d_backward(&mut grads, &f64s(&grad_u), &input, &shape);

    let scratch = scratch(gpu, sizes(rows, batch, d_inner, 1, d_conv))?;
    let t = |x: &[f32]| tensor(gpu, x);
    let (txz, tw, tb, ts) = (t(&xz)?, t(&weight)?, t(&b)?, t(&state)?);
    let (tgu, tgx, tgw, tgb) = (t(&grad_u)?, t(&grad_xz)?, t(&grad_weight)?, t(&grad_bias)?);
    let tu = poisoned(gpu, rows * d_inner)?;
    let conv = Conv1d { xz: &txz, conv_state: &ts, weight: &tw, bias: bias.then_some(&tb), u: &tu };
    let grads = kernels::Conv1dGrads {
        xz: &txz,
        weight: &tw,
        bias: bias.then_some(&tb),
        grad_u: &tgu,
        grad_xz: &tgx,
        grad_weight: &tgw,
        grad_bias: bias.then_some(&tgb),
    };
    run(gpu, |plan| {
        conv1d_batch(plan, &conv, batch, shape)?;
        conv1d_state_batch(plan, &conv, batch, shape)?;
        kernels::conv1d_backward(plan, &scratch, &grads, batch, shape)
    })
    .await?;
    holds(gpu, &format!("{what}: u"), &tu, &want_u).await?;
    holds(gpu, &format!("{what}: state"), &ts, &want_state).await?;
    holds(gpu, &format!("{what}: x"), &tgx, &want_xz).await?;
    holds(gpu, &format!("{what}: weight"), &tgw, &want_weight).await?;
    holds(gpu, &format!("{what}: bias"), &tgb, &want_bias).await
}

/// scan_train and scan_backward: all outputs and gradients.
pub async fn scan(
    gpu: &Gpu,
    batch: usize,
    (l, d_inner, d_state): (usize, usize, usize),
    lti: bool,
    random: &mut Random,
) -> Result<(), CheckError> {
    let what = format!("scan_backward batch {batch} l {l} d_inner {d_inner} d_state {d_state} lti {lti}");
    let shape = ScanShape::of_layer(l, d_inner, d_state, 3);
    let scan = TrainScan { batch, shape, lti };
    let (rows, inner, states) = (scan.rows(), scan.rows() * d_inner, d_inner * d_state);
    let of_delta = if lti { d_inner } else { inner };
    let of_x_dbl = if lti { states } else { rows * shape.x_dbl_stride };
    let mut v = |n: usize, range: f64| random.vec(n, -range, range);
    let (u, x_dbl, d, xz) = (v(inner, 1.0), v(of_x_dbl, 1.0), v(d_inner, 1.0), v(rows * shape.xz_stride, 2.0));
    let (h, grad_y, grad_h) = (v(batch * states, 1.0), v(inner, 1.0), v(batch * states, 1.0));
    let (grad_xz, grad_x_dbl) = (v(rows * shape.xz_stride, 1.0), v(of_x_dbl, 1.0));
    let (grad_a, grad_d, grad_bias) = (v(states, 1.0), v(d_inner, 1.0), v(d_inner, 1.0));
    let delta = random.log_vec(of_delta, 1e-4, 5.0);
    let a_log: Vec<f32> = (0..states).map(|i| (1.0 + (i % d_state) as f32).ln() - random.unit() as f32).collect();
    let mut a = vec![0.0; states];
    reference::negative_exp(&mut a, &f64s(&a_log));

    let [u64, delta64, x_dbl64, d64, xz64] = [&u, &delta, &x_dbl, &d, &xz].map(|x| f64s(x));
    let input = ScanInput { u: &u64, delta: &delta64, a: &a, x_dbl: &x_dbl64, d: &d64, xz: &xz64 };
    let (mut y, mut last) = (vec![0.0; inner], f64s(&h));
    reference::scan_train(&mut y, &mut last, &input, &scan);
    let (mut wu, mut wdt) = (vec![0.0; inner], if lti { delta64.clone() } else { vec![0.0; inner] });
    let [mut wx, mut wz, mut wa, mut wd, mut wb, mut wh] =
        [&grad_x_dbl, &grad_xz, &grad_a, &grad_d, &grad_bias, &grad_h].map(|x| f64s(x));
    let mut grads = reference::ScanGrads {
        u: &mut wu,
        dt: &mut wdt,
        x_dbl: &mut wx,
        xz: &mut wz,
        a_log: &mut wa,
        d: &mut wd,
        dt_bias: &mut wb,
        state: &mut wh,
    };
    reference::scan_backward(&mut grads, &f64s(&grad_y), &f64s(&h), &input, &scan);

    let scratch = scratch(gpu, sizes(rows, batch, d_inner, d_state, 1))?;
    let tape = kernels::ScanTape::new(gpu, scan)?;
    let t = |x: &[f32]| tensor(gpu, x);
    let (tu, tdelta, tx, td, txz, th) = (t(&u)?, t(&delta)?, t(&x_dbl)?, t(&d)?, t(&xz)?, t(&h)?);
    let (ta_log, ta, ty, tgy) = (t(&a_log)?, poisoned(gpu, states)?, poisoned(gpu, inner)?, t(&grad_y)?);
    let (tgz, tgx, tga) = (t(&grad_xz)?, t(&grad_x_dbl)?, t(&grad_a)?);
    let (tgd, tgb, tgh) = (t(&grad_d)?, t(&grad_bias)?, t(&grad_h)?);
    let b = ScanBuffers { u: &tu, delta: &tdelta, a: &ta, x_dbl: &tx, d: &td, xz: &txz, ssm_state: &th, y: &ty };
    let grads = kernels::ScanGrads {
        u: &tu,
        delta: &tdelta,
        a: &ta,
        x_dbl: &tx,
        d: &td,
        xz: &txz,
        grad_y: &tgy,
        grad_xz: &tgz,
        grad_x_dbl: &tgx,
        grad_a_log: &tga,
        grad_d: &tgd,
        grad_dt_bias: &tgb,
        grad_state: &tgh,
    };
    run(gpu, |plan| {
        kernels::negative_exp(plan, &ta_log, &ta, states)?;
        kernels::scan_train(plan, &tape, &b, scan)?;
        kernels::scan_backward(plan, &scratch, &tape, &grads, scan)
    })
    .await?;
    let pairs: [(&str, &Tensor, &[f64]); 11] = [
        ("A", &ta, &a),
        ("y", &ty, &y),
        ("final state", &th, &last),
        ("grad u", &tgy, &wu),
        ("grad dt", &tdelta, &wdt),
        ("grad x_dbl", &tgx, &wx),
        ("grad xz", &tgz, &wz),
        ("grad A_log", &tga, &wa),
        ("grad D", &tgd, &wd),
        ("grad dt_bias", &tgb, &wb),
        ("grad state", &tgh, &wh),
    ];
    for (name, got, want) in pairs {
        holds(gpu, &format!("{what}: {name}"), got, want).await?;
    }
    Ok(())
}

/// softplus as a kernel of its own: delta of a layer without selectivity.
pub async fn softplus(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    let x = random.vec(300, -30.0, 30.0);
    let want: Vec<f64> = x.iter().map(|&x| crate::reference::softplus(f64::from(x))).collect();
    let (tx, ty) = (tensor(gpu, &x)?, poisoned(gpu, x.len())?);
    run(gpu, |plan| kernels::softplus(plan, &tx, &ty, x.len())).await?;
    close("softplus", &ty.read(gpu).await?, &want, 0.0, 1e-5)
}
