//! Mamba-2's decode step: in_proj with its norm and convolution, then the state's update in the row that it leaves.

use super::data::{close, f64s, poisoned, run, tensor, CheckError, Random};
use super::ssd::{SsdCase, SsdSizes};
use crate::gpu::shader::WeightFormat;
use crate::gpu::Gpu;
use crate::kernels::{self, SsdBuffers, SsdInProj, WeightMatrix};
use crate::reference::{self, ConvShape, Epilogue, Linear, SsdInput};

/// Taps of the convolution.
const D_CONV: usize = 4;
const EPS: f32 = 1e-5;

/// Three tokens, outputs and both states. `gap` columns, as of a gated MLP beside the mixer, stand in front of z.
pub async fn ssd_step(
    gpu: &Gpu,
    sizes: SsdSizes,
    (gap, d_model): (usize, usize),
    (format, bias): (WeightFormat, bool),
    random: &mut Random,
) -> Result<(), CheckError> {
    let case = SsdCase::random(1, sizes, (1e-3, 1.0), random);
    let mut s = case.shape;
    (s.zxbcdt_stride, s.z_offset, s.dt_offset) = (s.zxbcdt_stride + gap, gap, s.dt_offset + gap);
    let (rows, channels, first) = (s.zxbcdt_stride, s.channels(), gap + s.d_inner());
    let row = s.in_row(first);
    let conv = random.vec(channels * D_CONV, -1.0, 1.0);
    let conv_bias = bias.then(|| random.vec(channels, -1.0, 1.0));
    let in_bias = bias.then(|| random.vec(rows, -1.0, 1.0));
    let in_proj = random.weights(format, (rows, d_model), -0.3, 0.3);
    let norm = random.vec(d_model, 0.5, 2.0);
    let conv_state = random.vec(D_CONV * channels, -1.0, 1.0);

    let t = |v: &[f32]| tensor(gpu, v);
    let matrix = WeightMatrix::new(gpu, "in_proj", (rows, d_model), format, &in_proj)?;
    let (residual, tn, cs) = (poisoned(gpu, d_model)?, t(&norm)?, t(&conv_state)?);
    let taps = t(&kernels::pack_taps(&conv, conv_bias.as_deref(), channels))?;
    let tb = in_bias.as_deref().map(t).transpose()?;
    let (zxbcdt, y, ssm_state) = (poisoned(gpu, rows)?, poisoned(gpu, s.d_inner())?, t(&case.ssm_state)?);
    let (dt_bias, a, d) = (t(&case.dt_bias)?, t(&case.a)?, t(&case.d)?);
    let first_part = SsdInProj {
        residual: &residual,
        norm: &tn,
        eps: EPS,
        in_proj: &matrix,
        bias: tb.as_ref(),
        taps: &taps,
        conv_state: &cs,
        zxbcdt: &zxbcdt,
    };
    let second_part =
        SsdBuffers { zxbcdt: &zxbcdt, xbc: &zxbcdt, dt_bias: &dt_bias, a: &a, d: &d, ssm_state: &ssm_state, y: &y };

    let (conv, conv_bias) = (f64s(&conv), conv_bias.as_deref().map(f64s));
    let (in_proj, in_bias, norm) = (f64s(&in_proj), in_bias.as_deref().map(f64s), f64s(&norm));
    let (dt_bias, a, d) = (f64s(&case.dt_bias), f64s(&case.a), f64s(&case.d));
    let (mut conv_state, mut state) = (f64s(&conv_state), f64s(&case.ssm_state));
    for token in 0..3 {
        let what = |part: &str| format!("{part}, {sizes:?} gap {gap} {format:?} bias {bias}, token {token}");
        let values = random.vec(d_model, -2.0, 2.0);
        residual.write(gpu, 0, &values);
        let (mut normed, mut want, mut u) = (vec![0.0; d_model], vec![0.0; rows], vec![0.0; channels]);
        let eps = f64::from(EPS);
        reference::rms_norm(&mut normed, &mut f64s(&values), None, Some(&norm), eps, d_model);
        let dense = Linear::dense(1, d_model, rows);
        reference::matvec(&mut want, &normed, &in_proj, in_bias.as_deref(), &dense, Epilogue::None);
        let shape = ConvShape { l: 1, d_inner: channels, d_conv: D_CONV, x_stride: rows, x_offset: first };
        reference::conv1d_update(&mut u, &mut conv_state, &want, &conv, conv_bias.as_deref(), &shape);
        want[first..first + channels].copy_from_slice(&u);
        run(gpu, |plan| kernels::ssd_in_proj(plan, &first_part, (first, D_CONV), &s)).await?;
        let got: Vec<f32> = zxbcdt.read(gpu).await?;
        let atol = 4e-6 * (d_model as f64).sqrt() + 4e-6;
        close(&what("matvec NORM CONV"), &got, &want, atol, 4e-6)?;
        close(&what("matvec NORM CONV, conv_state"), &cs.read(gpu).await?, &conv_state, atol, 4e-6)?;

        // From what the device has, so that its rounding does not count twice.
        let (got, mut want) = (f64s(&got), vec![0.0; s.d_inner()]);
        let input = SsdInput { xbc: &got, a: &a, d: &d };
        reference::ssd_state_update(&mut want, &mut state, (&got, &dt_bias), &input, false, &row);
        run(gpu, |plan| kernels::ssd_state_update(plan, &second_part, false, &row)).await?;
        let scale = state.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        close(&what("ssd_state_update"), &y.read(gpu).await?, &want, 2e-5 * scale, 2e-5)?;
        close(&what("ssd_state_update: state"), &ssm_state.read(gpu).await?, &state, 2e-5 * scale, 2e-5)?;
    }
    Ok(())
}
