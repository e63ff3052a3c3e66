//! A Mamba layer by the twins.

use super::{Shape, Weights};
use crate::model::blocks::host::{linear, HostTensor, LayerState, Mode, Stream};
use crate::model::explanation::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::reference::{
    conv1d, conv1d_state, conv1d_update, rms_norm, scan_blelloch, scan_fused, scan_sequential, selective_state_update,
    x_dbl_norm, Epilogue, ExplainInput, Linear, ScanInput, ScanShape,
};
use crate::settings::Scan;

/// Positions that the Blelloch scan takes as one block; fewer for a shorter chunk, which would be mostly identities.
const BLELLOCH_BLOCK: usize = 256;
/// Positions of a chunk of the fused scan.
const FUSED_CHUNK: usize = 256;

/// The activations of up to so many positions.
#[derive(Default)]
pub(crate) struct Workspace {
    rows: usize,
    xz: Vec<f32>,    // (rows, 2 d_inner)
    u: Vec<f32>,     // (rows, d_inner)
    x_dbl: Vec<f32>, // (rows, dt_rank + 2 d_state)
    delta: Vec<f32>, // (rows, d_inner)
    y: Vec<f32>,     // (rows, d_inner)
}

impl Workspace {
    fn grow(&mut self, rows: usize, s: &Shape) {
        if rows <= self.rows {
            return;
        }
        self.rows = rows;
        self.xz.resize(rows * 2 * s.d_inner, 0.0);
        self.u.resize(rows * s.d_inner, 0.0);
        self.x_dbl.resize(rows * s.x_dbl_width(), 0.0);
        self.delta.resize(rows * s.d_inner, 0.0);
        self.y.resize(rows * s.d_inner, 0.0);
    }
}

/// residual += mixer(rms_norm(residual)); the states advance, in a step one of each row.
pub(crate) fn forward(
    w: &Weights<HostTensor>,
    s: &Shape,
    work: &mut Workspace,
    stream: &mut Stream<'_>,
    states: &mut [LayerState<'_>],
) {
    let &Shape { d_model, d_inner, d_state, dt_rank, .. } = s;
    let (l, mode, width) = (stream.l, stream.mode, s.x_dbl_width());
    work.grow(l, s);
    let xz = &mut work.xz[..l * 2 * d_inner];
    let u = &mut work.u[..l * d_inner];
    let x_dbl = &mut work.x_dbl[..l * width];
    let delta = &mut work.delta[..l * d_inner];
    let y = &mut work.y[..l * d_inner];

    rms_norm(stream.hidden, stream.residual, None, Some(w.norm.values()), stream.norm_eps, d_model);
    let in_proj = (&w.in_proj, w.in_proj_bias.as_ref());
    linear(mode, xz, stream.hidden, in_proj, &Linear::dense(l, d_model, 2 * d_inner), Epilogue::None);

    let shape = s.conv(l);
    let (conv, bias) = (w.conv1d.values(), w.conv1d_bias.as_ref().map(HostTensor::values));
    match mode {
        Mode::Prefill => {
            let [state] = &mut *states else { return };
            conv1d(u, xz, state.conv, conv, bias, &shape);
            conv1d_state(state.conv, xz, &shape);
        }
        Mode::Decode => {
            for ((u, xz), state) in u.chunks_mut(d_inner).zip(xz.chunks(2 * d_inner)).zip(&mut *states) {
                conv1d_update(u, state.conv, xz, conv, bias, &s.conv(1));
            }
        }
    }

    linear(mode, x_dbl, u, (&w.x_proj, None), &Linear::dense(l, d_inner, width), Epilogue::None);
    if let Some(eps) = s.mixer_rms_eps {
        x_dbl_norm(x_dbl, dt_rank, d_state, eps);
    }
    let shape = Linear { l, k: dt_rank, n: d_inner, x_stride: width, y_stride: d_inner };
    linear(mode, delta, x_dbl, (&w.dt_proj, Some(&w.dt_proj_bias)), &shape, Epilogue::Softplus);

    let (a, d, shape) = (w.a_log.values(), w.d.values(), s.scan(l));
    if mode == Mode::Decode {
        for (row, (y, state)) in y.chunks_mut(d_inner).zip(&mut *states).enumerate() {
            let (u, delta) = (&u[row * d_inner..][..d_inner], &delta[row * d_inner..][..d_inner]);
            let (x_dbl, xz) = (&x_dbl[row * width..][..width], &xz[row * 2 * d_inner..][..2 * d_inner]);
            let input = ScanInput { u, delta, a, x_dbl, d, xz };
            selective_state_update(y, state.ssm, &input, &s.scan(1));
        }
    } else if let [state] = states {
        let input = ScanInput { u, delta, a, x_dbl, d, xz };
        match stream.scan {
            Scan::Sequential => scan_sequential(y, state.ssm, &input, &shape),
            Scan::Blelloch => {
                let block = l.next_power_of_two().clamp(2, BLELLOCH_BLOCK);
                scan_blelloch(y, state.ssm, &input, &shape, block);
            }
            Scan::Fused => scan_fused(y, state.ssm, &input, &shape, FUSED_CHUNK),
        }
    }

    let out_proj = (&w.out_proj, w.out_proj_bias.as_ref());
    linear(mode, stream.residual, y, out_proj, &Linear::dense(l, d_inner, d_model), Epilogue::Add);
}

/// What the layer has seen in the l positions that have just gone through.
pub(crate) fn explain(
    w: &Weights<HostTensor>,
    s: &Shape,
    work: &Workspace,
    i: usize,
    l: usize,
    options: &ExplainOptions,
) -> LayerExplanation {
    let rows = l * s.d_inner;
    let (u, delta) = (&work.u[..rows], &work.delta[..rows]);
    let input = ExplainInput { u, delta, a: w.a_log.values(), bc: &work.x_dbl };
    let ScanShape { xz_stride, z_offset, .. } = s.scan(l);
    let gate = Some((&work.xz[..], xz_stride, z_offset));
    LayerExplanation::by_twins(i, &LayerTensors { input, gate, d: w.d.values(), y: &work.y }, options, &s.explained(l))
}
