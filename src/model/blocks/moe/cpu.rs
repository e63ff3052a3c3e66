//! A mixture of experts by the twins.

use super::{joined, Shape, Weights};
use crate::model::blocks::host::{linear, HostTensor, Stream};
use crate::reference::{activate, experts_sum, matmul, matvec, rms_norm, route, route_order, Epilogue, Linear};
use crate::reference::{Router, Weights as Rows};

/// The activations of up to so many positions.
#[derive(Default)]
pub(crate) struct Workspace {
    logits: Vec<f32>,  // (rows, experts)
    experts: Vec<u32>, // (rows, chosen)
    weights: Vec<f32>, // (rows, chosen)
    order: Vec<u32>,   // (rows chosen)
    offsets: Vec<u32>, // (experts + 1)
    latent: Vec<f32>,  // (rows, d_latent)
    x: Vec<f32>,       // (an expert's rows, d_in)
    up: Vec<f32>,      // (an expert's rows, d_up), or the shared one's
    y: Vec<f32>,       // (an expert's rows, d_ff), or the shared one's
    out: Vec<f32>,     // (an expert's rows, d_in)
    pairs: Vec<f32>,   // (rows, chosen, d_in)
    mixed: Vec<f32>,   // (rows, d_latent)
}

/// The first n of what has room for as many.
fn room<T: Copy + Default>(of: &mut Vec<T>, n: usize) -> &mut [T] {
    if of.len() < n {
        of.resize(n, T::default());
    }
    &mut of[..n]
}

/// residual += the experts' outputs for rms_norm(residual).
pub(crate) fn forward(w: &Weights<HostTensor>, s: &Shape, work: &mut Workspace, stream: &mut Stream<'_>) {
    let (l, mode, d_model, router) = (stream.l, stream.mode, s.d_model, s.scaled_router());
    let Router { experts: e, chosen, .. } = router;
    rms_norm(stream.hidden, stream.residual, None, Some(w.norm.values()), stream.norm_eps, d_model);
    let hidden = &stream.hidden[..l * d_model];

    let (logits, experts) = (room(&mut work.logits, l * e), room(&mut work.experts, router.pairs(l)));
    linear(mode, logits, hidden, (&w.router, None), &Linear::dense(l, d_model, e), Epilogue::None);
    let weights = room(&mut work.weights, router.pairs(l));
    route(experts, weights, logits, w.correction.as_ref().map(HostTensor::values), &router);
    let (order, offsets) = (room(&mut work.order, router.pairs(l)), room(&mut work.offsets, e + 1));
    route_order(order, offsets, experts);

    let d_in = s.d_in();
    let x = match &w.latent_down {
        Some(down) => {
            let latent = room(&mut work.latent, l * d_in);
            linear(mode, latent, hidden, (down, None), &Linear::dense(l, d_model, d_in), Epilogue::None);
            &*latent
        }
        None => hidden,
    };
    let pairs = room(&mut work.pairs, router.pairs(l) * d_in);
    let (Some(up_proj), Some(down_proj)) = (joined(&w.up), joined(&w.down)) else {
        debug_assert!(false, "a layer without experts");
        return;
    };
    for (i, of) in offsets.windows(2).enumerate().filter(|(_, of)| of[0] < of[1]) {
        let mine = &order[of[0] as usize..of[1] as usize];
        let n = mine.len();
        let rows = room(&mut work.x, n * d_in);
        for (row, pair) in rows.chunks_mut(d_in).zip(mine) {
            row.copy_from_slice(&x[*pair as usize / chosen * d_in..][..d_in]);
        }
        let (up, y) = (room(&mut work.up, n * s.d_up()), room(&mut work.y, n * s.d_ff));
        product(up, rows, Rows::from(up_proj).part(i * s.d_up()..(i + 1) * s.d_up(), d_in), (n, d_in, s.d_up()));
        activate(y, up, s.gated.then_some(&*up), s.activation, &s.activate(n));
        let out = room(&mut work.out, n * d_in);
        product(out, y, Rows::from(down_proj).part(i * d_in..(i + 1) * d_in, s.d_ff), (n, s.d_ff, d_in));
        for (row, pair) in out.chunks(d_in).zip(mine) {
            pairs[*pair as usize * d_in..][..d_in].copy_from_slice(row);
        }
    }
    match &w.latent_up {
        Some(latent_up) => {
            let mixed = room(&mut work.mixed, l * d_in);
            experts_sum(mixed, pairs, weights, (chosen, d_in), false);
            let shape = Linear::dense(l, d_in, d_model);
            linear(mode, stream.residual, mixed, (latent_up, None), &shape, Epilogue::Add);
        }
        None => experts_sum(&mut stream.residual[..l * d_model], pairs, weights, (chosen, d_in), true),
    }
    if let (Some(up_proj), Some(down_proj)) = (&w.shared_up, &w.shared_down) {
        let d_up = s.sides() * s.d_shared;
        let (up, y) = (room(&mut work.up, l * d_up), room(&mut work.y, l * s.d_shared));
        linear(mode, up, hidden, (up_proj, None), &Linear::dense(l, d_model, d_up), Epilogue::None);
        activate(y, up, s.gated.then_some(&*up), s.activation, &s.activate_shared(l));
        let shape = Linear::dense(l, s.d_shared, d_model);
        linear(mode, stream.residual, y, (down_proj, None), &shape, Epilogue::Add);
    }
}

/// y (l, n) = x (l, k) w^T.
fn product(y: &mut [f32], x: &[f32], w: Rows<'_, f32>, (l, k, n): (usize, usize, usize)) {
    let by = if l == 1 { matvec } else { matmul };
    by(y, x, w, None, &Linear::dense(l, k, n), Epilogue::None);
}
