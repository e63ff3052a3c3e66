//! A layer of attention by the twins.

use super::{Shape, Weights};
use crate::model::blocks::host::{linear, HostTensor, LayerState, Mode, Stream};
use crate::reference::{attention, rms_norm, rope, store_keys_values, Epilogue, Linear, PAGE};

/// The activations of up to so many positions.
#[derive(Default)]
pub(crate) struct Workspace {
    q: Vec<f32>,      // (rows, heads, head_dim)
    k: Vec<f32>,      // (rows, kv_heads, head_dim)
    v: Vec<f32>,      // (rows, kv_heads, head_dim)
    normed: Vec<f32>, // (rows, heads, head_dim): before their norms
    y: Vec<f32>,      // (rows, heads, head_dim)
}

/// The first `n` elements, more of them if need be.
fn first(values: &mut Vec<f32>, n: usize) -> &mut [f32] {
    values.resize(values.len().max(n), 0.0);
    &mut values[..n]
}

/// residual += o_proj(attention(rms_norm(residual))); each text's pages get its tokens.
pub(crate) fn forward(
    w: &Weights<HostTensor>,
    s: &Shape,
    work: &mut Workspace,
    stream: &mut Stream<'_>,
    states: &mut [LayerState<'_>],
) {
    let (l, mode, d_model) = (stream.l, stream.mode, s.d_model);
    // Without a norm of its own what the block before it has read is there still.
    if let Some(norm) = &w.norm {
        rms_norm(stream.hidden, stream.residual, None, Some(norm.values()), stream.norm_eps, d_model);
    }
    let (q, k, v) =
        (first(&mut work.q, l * s.d_q()), first(&mut work.k, l * s.d_kv()), first(&mut work.v, l * s.d_kv()));
    for (out, matrix, bias) in [
        (&mut *q, &w.q_proj, &w.q_proj_bias),
        (&mut *k, &w.k_proj, &w.k_proj_bias),
        (&mut *v, &w.v_proj, &w.v_proj_bias),
    ] {
        let shape = Linear::dense(l, d_model, out.len() / l.max(1));
        linear(mode, out, stream.hidden, (matrix, bias.as_ref()), &shape, Epilogue::None);
    }
    for (rows, weight) in [(&mut *q, &w.q_norm), (&mut *k, &w.k_norm)] {
        if let Some(weight) = weight {
            let before = first(&mut work.normed, rows.len());
            before.copy_from_slice(rows);
            rms_norm(rows, before, None, Some(weight.values()), s.norm_eps, s.head_dim);
        }
    }

    // What attention gives is linear in the values, and so is o_proj in that.
    if s.value_scale() != 1.0 {
        v.iter_mut().for_each(|v| *v *= s.value_scale());
    }
    let y = first(&mut work.y, l * s.d_q());
    let shape = s.attention();
    let frequencies = s.rope.map(|rope| (rope.frequencies(), rope.factor()));
    // In a step a row is a text's only token.
    let each = if mode == Mode::Decode { 1 } else { l };
    let rows = q.chunks_mut(each * s.d_q()).zip(k.chunks_mut(each * s.d_kv())).zip(v.chunks(each * s.d_kv()));
    for (((q, k), v), (y, state)) in rows.zip(y.chunks_mut(each * s.d_q()).zip(states)) {
        let position = state.position;
        if let Some((frequencies, factor)) = &frequencies {
            rope(q, (s.heads, s.head_dim), position, frequencies, *factor);
            rope(k, (s.kv_heads, s.head_dim), position, frequencies, *factor);
        }
        let Some(pages) = state.pages.as_deref_mut() else { continue }; // never: a layer of attention has them
        pages.make_room(position + each, s.d_kv());
        let (mut keys, mut values) = pages.writable(position);
        store_keys_values(&mut keys, &mut values, k, v, position % PAGE, &shape);
        attention(y, q, &pages.keys(), &pages.values(), position, &shape);
    }
    let o_proj = (&w.o_proj, w.o_proj_bias.as_ref());
    linear(mode, stream.residual, y, o_proj, &Linear::dense(l, s.d_q(), d_model), Epilogue::Add);
}
