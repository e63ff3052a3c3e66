//! The decode step's fused kernels against the twins of their parts.

use super::data::{close, f64s, poisoned, run, tensor, CheckError, Random};
use crate::gpu::shader::WeightFormat;
use crate::gpu::Gpu;
use crate::kernels::{self, Activate, StepBuffers, StepShape, WeightMatrix};
use crate::reference::{self, ActivateShape, Activation, ConvShape, Epilogue, Linear, StepWeights};

/// matvec with the norm of its input, added to its output or not: (n, k), k a multiple of 4.
pub async fn matvec_norm(
    gpu: &Gpu,
    (n, k): (usize, usize),
    format: WeightFormat,
    (bias, add): (bool, bool),
    random: &mut Random,
) -> Result<(), CheckError> {
    let (residual, norm, w) =
        (random.vec(k, -3.0, 3.0), random.vec(k, 0.5, 2.0), random.weights(format, (n, k), -0.3, 0.3));
    let b = bias.then(|| random.vec(n, -1.0, 1.0));
    let before = add.then(|| random.vec(n, -3.0, 3.0));
    let (mut normed, mut want) = (vec![0.0; k], before.as_deref().map_or(vec![0.0; n], f64s));
    reference::rms_norm(&mut normed, &mut f64s(&residual), None, Some(&f64s(&norm)), 1e-5, k);
    let b64 = b.as_deref().map(f64s);
    let epilogue = if add { Epilogue::Add } else { Epilogue::None };
    reference::matvec(&mut want, &normed, &f64s(&w), b64.as_deref(), &Linear::dense(1, k, n), epilogue);

    let matrix = WeightMatrix::new(gpu, "w", (n, k), format, &w)?;
    let (tr, tn) = (tensor(gpu, &residual)?, tensor(gpu, &norm)?);
    let ty = before.map_or_else(|| poisoned(gpu, n), |before| tensor(gpu, &before))?;
    let tb = b.map(|b| tensor(gpu, &b)).transpose()?;
    let kernel = if add { kernels::matvec_norm_add } else { kernels::matvec_norm };
    run(gpu, |plan| kernel(plan, &tr, (&tn, 1e-5), &matrix, tb.as_ref(), &ty)).await?;
    let what = format!("matvec NORM n {n} k {k} {format:?} bias {bias} add {add}");
    close(&what, &ty.read(gpu).await?, &want, 2e-6 * (k as f64).sqrt(), 4e-6)
}

/// matvec with an MLP's activation of its output, of n outputs: with gates of 2 n rows. (n, k), k a multiple of 4.
pub async fn matvec_norm_activate(
    gpu: &Gpu,
    (n, k): (usize, usize),
    format: WeightFormat,
    (f, gated, bias): (Activation, bool, bool),
    random: &mut Random,
) -> Result<(), CheckError> {
    let rows = if gated { 2 * n } else { n };
    let (residual, norm, w) =
        (random.vec(k, -3.0, 3.0), random.vec(k, 0.5, 2.0), random.weights(format, (rows, k), -0.3, 0.3));
    let b = bias.then(|| random.vec(rows, -1.0, 1.0));
    let (mut normed, mut up, mut want) = (vec![0.0; k], vec![0.0; rows], vec![0.0; n]);
    reference::rms_norm(&mut normed, &mut f64s(&residual), None, Some(&f64s(&norm)), 1e-5, k);
    let b64 = b.as_deref().map(f64s);
    reference::matvec(&mut up, &normed, &f64s(&w), b64.as_deref(), &Linear::dense(1, k, rows), Epilogue::None);
    let (gate_scale, scale) = (0.75, 0.5);
    let (x, gate) = ((rows, rows - n), (rows, 0));
    let shape = ActivateShape { l: 1, width: n, x, gate, gate_scale, scale };
    reference::activate(&mut want, &up, gated.then_some(&up), f, &shape);

    let matrix = WeightMatrix::new(gpu, "w", (rows, k), format, &w)?;
    let (tr, tn, ty) = (tensor(gpu, &residual)?, tensor(gpu, &norm)?, poisoned(gpu, n)?);
    let tb = b.map(|b| tensor(gpu, &b)).transpose()?;
    let act = Activate { f, gated, gate_scale, scale };
    let (norm, w) = ((&tn, 1e-5), (&matrix, tb.as_ref()));
    run(gpu, |plan| kernels::matvec_norm_activate(plan, &tr, norm, w, &ty, act)).await?;
    let what = format!("matvec NORM {f:?} n {n} k {k} {format:?} gated {gated} bias {bias}");
    // Of a product of two such sums, or a square.
    let largest = up.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    close(&what, &ty.read(gpu).await?, &want, largest * 4e-6 * (k as f64).sqrt(), 1e-5)
}

/// matvec that adds to its output: (n, k). `scaled`: with factors of the sums.
pub async fn matvec_add(
    gpu: &Gpu,
    (n, k): (usize, usize),
    format: WeightFormat,
    (bias, scaled): (bool, bool),
    random: &mut Random,
) -> Result<(), CheckError> {
    let (x, before, w) =
        (random.vec(k, -1.0, 1.0), random.vec(n, -3.0, 3.0), random.weights(format, (n, k), -0.3, 0.3));
    let b = bias.then(|| random.vec(n, -1.0, 1.0));
    let mut want = f64s(&before);
    let b64 = b.as_deref().map(f64s);
    let by = scaled.then(|| random.vec(n, 0.5, 2.0));
    let mut sums = vec![0.0; n];
    reference::matvec(&mut sums, &f64s(&x), &f64s(&w), b64.as_deref(), &Linear::dense(1, k, n), Epilogue::None);
    for (j, (want, sum)) in want.iter_mut().zip(sums).enumerate() {
        *want += by.as_ref().map_or(1.0, |by| f64::from(by[j])) * sum;
    }
    let b = match &by {
        Some(by) => Some(kernels::pack_scaled(b.as_deref(), by)),
        None => b,
    };
    let matrix = WeightMatrix::new(gpu, "w", (n, k), format, &w)?;
    let (tx, ty, tb) = (tensor(gpu, &x)?, tensor(gpu, &before)?, b.map(|b| tensor(gpu, &b)).transpose()?);
    run(gpu, |plan| kernels::matvec_add(plan, &tx, &matrix, tb.as_ref(), &ty)).await?;
    let what = format!("matvec ADD n {n} k {k} {format:?} bias {bias} scaled {scaled}");
    close(&what, &ty.read(gpu).await?, &want, 2e-6 * (k as f64).sqrt() + 1e-6, 2e-6)
}

/// A layer's step over a few tokens, to out_proj: norm, in_proj and convolution (d_inner and d_model multiples of 4), x_proj,
/// step_mixer; outputs and both states.
pub async fn mixer(
    gpu: &Gpu,
    shape: StepShape,
    format: WeightFormat,
    (conv_bias, in_proj_bias): (bool, bool),
    random: &mut Random,
) -> Result<(), CheckError> {
    let StepShape { d_inner, d_state, d_conv, dt_rank, mixer_rms_eps } = shape;
    let (d_model, width) = (d_inner.div_ceil(8) * 4, dt_rank + 2 * d_state);
    let (conv1d, d) = (random.vec(d_inner * d_conv, -1.0, 1.0), random.vec(d_inner, -1.0, 1.0));
    let conv1d_bias = conv_bias.then(|| random.vec(d_inner, -1.0, 1.0));
    let (dt_proj_bias, a) = (random.vec(d_inner, -5.0, 1.0), random.vec(d_inner * d_state, -8.0, -0.1));
    // dt_proj is never quantised.
    let dt_format = if format.quant().is_some() { WeightFormat::F16 } else { format };
    let mut matrix = |format, size| random.weights(format, size, -0.3, 0.3);
    let dt_proj = matrix(dt_format, (d_inner, dt_rank));
    let (in_proj, x_proj) = (matrix(format, (2 * d_inner, d_model)), matrix(format, (width, d_inner)));
    let (norm, bias) = (random.vec(d_model, 0.5, 2.0), in_proj_bias.then(|| random.vec(2 * d_inner, -1.0, 1.0)));
    let (mut conv_state, mut ssm_state) =
        (f64s(&random.vec(d_conv * d_inner, -1.0, 1.0)), f64s(&random.vec(d_inner * d_state, -1.0, 1.0)));

    let f32s = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let (cs, ss) = (tensor(gpu, &f32s(&conv_state))?, tensor(gpu, &f32s(&ssm_state))?);
    let channels = kernels::pack_channels(&conv1d, conv1d_bias.as_deref(), &dt_proj_bias, &d);
    let (channels, ta) = (tensor(gpu, &channels)?, tensor(gpu, &a)?);
    let (residual, tn) = (poisoned(gpu, d_model)?, tensor(gpu, &norm)?);
    let tb = bias.as_ref().map(|b| tensor(gpu, b)).transpose()?;
    let in_matrix = WeightMatrix::new(gpu, "in_proj", (2 * d_inner, d_model), format, &in_proj)?;
    let dt_matrix = WeightMatrix::new(gpu, "dt_proj", (d_inner, dt_rank), dt_format, &dt_proj)?;
    let x_matrix = WeightMatrix::new(gpu, "x_proj", (width, d_inner), format, &x_proj)?;
    let (uz, x_dbl, y) = (poisoned(gpu, 2 * d_inner)?, poisoned(gpu, width)?, poisoned(gpu, d_inner)?);
    let buffers = StepBuffers {
        uz: &uz,
        x_dbl: &x_dbl,
        channels: &channels,
        dt_proj: &dt_matrix,
        a: &ta,
        conv_state: &cs,
        ssm_state: &ss,
        y: &y,
    };
    let (conv1d, conv1d_bias, d) = (f64s(&conv1d), conv1d_bias.as_deref().map(f64s), f64s(&d));
    let (dt_proj, dt_proj_bias, x_proj, a) = (f64s(&dt_proj), f64s(&dt_proj_bias), f64s(&x_proj), f64s(&a));
    let (in_proj, norm, bias) = (f64s(&in_proj), f64s(&norm), bias.as_deref().map(f64s));
    let w = StepWeights {
        dt_proj: &dt_proj,
        dt_proj_bias: &dt_proj_bias,
        a: &a,
        d: &d,
        mixer_rms_eps: mixer_rms_eps.map(f64::from),
    };
    let what = format!("{shape:?} {format:?} biases {conv_bias} {in_proj_bias}");
    for token in 0..3 {
        let what = |kernel: &str| format!("{kernel} of {what}, token {token}");
        let values = random.vec(d_model, -2.0, 2.0);
        residual.write(gpu, 0, &values);
        let (mut normed, mut xz, mut u) = (vec![0.0; d_model], vec![0.0; 2 * d_inner], vec![0.0; d_inner]);
        reference::rms_norm(&mut normed, &mut f64s(&values), None, Some(&norm), 1e-5, d_model);
        let dense = Linear::dense(1, d_model, 2 * d_inner);
        reference::matvec(&mut xz, &normed, &in_proj, bias.as_deref(), &dense, Epilogue::None);
        let conv_shape = ConvShape { l: 1, d_inner, d_conv, x_stride: 2 * d_inner, x_offset: 0 };
        reference::conv1d_update(&mut u, &mut conv_state, &xz, &conv1d, conv1d_bias.as_deref(), &conv_shape);
        let mut want_uz: Vec<f64> = u.iter().chain(&xz[d_inner..]).copied().collect();
        let in_proj = (&in_matrix, tb.as_ref());
        run(gpu, |plan| kernels::matvec_norm_conv(plan, &residual, (&tn, 1e-5), in_proj, &buffers, shape)).await?;
        let atol = 4e-6 * (d_model as f64).sqrt() + 4e-6;
        close(&what("matvec NORM CONV"), &uz.read(gpu).await?, &want_uz, atol, 4e-6)?;
        close(&what("matvec NORM CONV, conv_state"), &cs.read(gpu).await?, &conv_state, atol, 4e-6)?;

        // From the same input on, here and below, so that its rounding does not count twice.
        uz.write(gpu, 0, &f32s(&want_uz));
        want_uz = f64s(&f32s(&want_uz));
        let mut want_dbl = vec![0.0; width];
        let dense = Linear::dense(1, d_inner, width);
        reference::matvec(&mut want_dbl, &want_uz[..d_inner], &x_proj, None, &dense, Epilogue::None);
        run(gpu, |plan| kernels::matvec_x_proj(plan, &buffers, &x_matrix)).await?;
        let atol = 2e-6 * (d_inner as f64).sqrt() + 2e-6;
        close(&what("matvec x_proj"), &x_dbl.read(gpu).await?, &want_dbl, atol, 4e-6)?;

        // step_mixer reads dt_proj alone, in a format that is checked for itself.
        if format.quant().is_some() {
            continue;
        }
        x_dbl.write(gpu, 0, &f32s(&want_dbl));
        want_dbl = f64s(&f32s(&want_dbl));
        let mut want = vec![0.0; d_inner];
        reference::step_mixer(&mut want, &mut ssm_state, (&want_uz, &want_dbl), &w);
        run(gpu, |plan| kernels::step_mixer(plan, &buffers, shape)).await?;
        let scale = 1.0 + ssm_state.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        close(&what("step_mixer"), &y.read(gpu).await?, &want, 2e-5 * scale, 2e-5)?;
        close(&what("step_mixer, ssm_state"), &ss.read(gpu).await?, &ssm_state, 2e-5 * scale, 2e-5)?;
    }
    Ok(())
}
