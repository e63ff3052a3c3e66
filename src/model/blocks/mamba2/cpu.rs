//! A Mamba-2 layer by the twins.

use super::{Shape, Weights};
use crate::model::blocks::host::{linear, HostTensor, LayerState, Mode, Stream};
use crate::model::explanation::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::reference::{
    conv1d, conv1d_state, conv1d_update, gated_rms_norm, rms_norm, scale_add, ssd_chunked, ssd_delta, ssd_sequential,
    ssd_state_update, Epilogue, ExplainInput, GatedNorm, Linear, SsdInput,
};
use crate::settings::Scan;

/// Positions of a chunk of the chunked form.
const CHUNK: usize = 64;

/// The activations of up to so many positions.
#[derive(Default)]
pub(crate) struct Workspace {
    rows: usize,
    zxbcdt: Vec<f32>, // (rows, row)
    xbc: Vec<f32>,    // (rows, channels)
    delta: Vec<f32>,  // (rows, n_heads)
    y: Vec<f32>,      // (rows, d_ssm)
    gated: Vec<f32>,  // (rows, d_inner)
}

impl Workspace {
    fn grow(&mut self, rows: usize, s: &Shape) {
        if rows <= self.rows {
            return;
        }
        self.rows = rows;
        self.zxbcdt.resize(rows * s.row(), 0.0);
        self.xbc.resize(rows * s.channels(), 0.0);
        self.delta.resize(rows * s.n_heads, 0.0);
        self.y.resize(rows * s.d_ssm(), 0.0);
        self.gated.resize(rows * s.d_inner(), 0.0);
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
    let (l, mode, d_model) = (stream.l, stream.mode, s.d_model);
    work.grow(l, s);
    let zxbcdt = &mut work.zxbcdt[..l * s.row()];
    let xbc = &mut work.xbc[..l * s.channels()];
    let y = &mut work.y[..l * s.d_ssm()];
    let gated = &mut work.gated[..l * s.d_inner()];

    rms_norm(stream.hidden, stream.residual, None, Some(w.norm.values()), stream.norm_eps, d_model);
    let in_proj = (&w.in_proj, w.in_proj_bias.as_ref());
    linear(mode, zxbcdt, stream.hidden, in_proj, &Linear::dense(l, d_model, s.row()), Epilogue::None);
    if let Some(columns) = s.columns() {
        scale_add(zxbcdt, Some(&columns), None, s.row());
    }
    let zxbcdt = &*zxbcdt;

    let shape = s.conv(l);
    let (conv, bias) = (w.conv1d.values(), w.conv1d_bias.as_ref().map(HostTensor::values));
    let (ssd, dt_bias) = (s.ssd(l), w.dt_bias.values());
    let (a, d) = (w.a_log.values(), w.d.values());
    if mode == Mode::Decode {
        let rows = zxbcdt.chunks(s.row()).zip(xbc.chunks_mut(s.channels())).zip(y.chunks_mut(s.d_ssm()));
        for (((zxbcdt, xbc), y), state) in rows.zip(states) {
            conv1d_update(xbc, state.conv, zxbcdt, conv, bias, &s.conv(1));
            ssd_state_update(y, state.ssm, (zxbcdt, dt_bias), &SsdInput { xbc, a, d }, false, &s.ssd(1));
        }
    } else if let [state] = states {
        conv1d(xbc, zxbcdt, state.conv, conv, bias, &shape);
        conv1d_state(state.conv, zxbcdt, &shape);
        let input = SsdInput { xbc, a, d };
        match stream.scan {
            Scan::Sequential => {
                let delta = &mut work.delta[..l * s.n_heads];
                ssd_delta(delta, zxbcdt, dt_bias, &ssd);
                ssd_sequential(y, state.ssm, delta, &input, &ssd);
            }
            Scan::Blelloch | Scan::Fused => ssd_chunked(y, state.ssm, (zxbcdt, dt_bias), &input, &ssd, CHUNK),
        }
    }

    if let Some(passed) = s.passed(l) {
        gated_rms_norm(gated, zxbcdt, zxbcdt, None, GatedNorm::GateOnly, &passed);
    }
    let gate_weight = s.gate_weight();
    let weight = w.mixer_norm.as_ref().map(HostTensor::values).or(gate_weight.as_deref());
    gated_rms_norm(gated, y, zxbcdt, weight, s.norm, &s.gated(l));
    let out_proj = (&w.out_proj, w.out_proj_bias.as_ref());
    linear(mode, stream.residual, gated, out_proj, &Linear::dense(l, s.d_inner(), d_model), Epilogue::Add);
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
    // The chunked rung does not keep it so.
    let mut delta = vec![0.0; l * s.n_heads];
    ssd_delta(&mut delta, &work.zxbcdt, w.dt_bias.values(), &s.ssd(l));
    let input = ExplainInput { u: &work.xbc, delta: &delta, a: w.a_log.values(), bc: &work.xbc };
    let tensors = LayerTensors { input, gate: None, d: w.d.values(), y: &work.y };
    LayerExplanation::by_twins(i, &tensors, options, &s.explained(l))
}
