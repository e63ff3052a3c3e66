//! A feed-forward layer by the twins.

use super::{Shape, Weights};
use crate::model::blocks::host::{linear, HostTensor, Stream};
use crate::reference::{activate, rms_norm, Epilogue, Linear};

/// The activations of up to so many positions.
#[derive(Default)]
pub(crate) struct Workspace {
    gate: Vec<f32>, // (rows, d_ff)
    up: Vec<f32>,   // (rows, d_up)
    y: Vec<f32>,    // (rows, d_ff)
}

/// residual += down_proj(activation(rms_norm(residual))).
pub(crate) fn forward(w: &Weights<HostTensor>, s: &Shape, work: &mut Workspace, stream: &mut Stream<'_>) {
    let (l, mode, d_model) = (stream.l, stream.mode, s.d_model);
    let Workspace { gate, up, y } = work;
    gate.resize(gate.len().max(l * s.d_ff), 0.0);
    up.resize(up.len().max(l * s.d_up()), 0.0);
    y.resize(y.len().max(l * s.d_ff), 0.0);
    let (gate, up, y) = (&mut gate[..l * s.d_ff], &mut up[..l * s.d_up()], &mut y[..l * s.d_ff]);

    rms_norm(stream.hidden, stream.residual, None, Some(w.norm.values()), stream.norm_eps, d_model);
    let up_proj = (&w.up_proj, w.up_proj_bias.as_ref());
    linear(mode, up, stream.hidden, up_proj, &Linear::dense(l, d_model, s.d_up()), Epilogue::None);
    if let Some(gate_proj) = &w.gate_proj {
        let gate_proj = (gate_proj, w.gate_proj_bias.as_ref());
        linear(mode, gate, stream.hidden, gate_proj, &Linear::dense(l, d_model, s.d_ff), Epilogue::None);
    }
    let gate = s.gated.then_some(if s.fused { &*up } else { &*gate });
    activate(y, up, gate, s.activation, &s.activate(l));
    let down_proj = (&w.down_proj, w.down_proj_bias.as_ref());
    linear(mode, stream.residual, y, down_proj, &Linear::dense(l, s.d_ff, d_model), Epilogue::Add);
}
