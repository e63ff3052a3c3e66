//! Twins of `shaders/selective_state_update.wgsl`, one token of the selective scan, and of `shaders/step_mixer.wgsl`, one
//! token through a layer's mixer between x_proj and out_proj.

use super::{matvec, par, scan::advance, x_dbl_norm, Real, ScanInput, ScanShape};
use super::{Epilogue, Linear};

/// h = exp(delta A) h + delta B u; y = (C h + D u) * silu(z), for one position; nothing is allocated.
///
/// `y` (d_inner), `ssm_state` (d_inner, d_state), `input` with one row each; `shape.l` is 1. The same bits as
/// [`super::scan_sequential`] gives.
pub fn selective_state_update<T: Real>(y: &mut [T], ssm_state: &mut [T], input: &ScanInput<T>, shape: &ScanShape) {
    let &ScanShape { l, d_inner, d_state, .. } = shape;
    debug_assert_eq!(l, 1);
    debug_assert_eq!((y.len(), ssm_state.len()), (d_inner, d_inner * d_state));
    if d_state == 0 {
        return advance(Some(&mut [y]), ssm_state, &mut [], 0..1, 0, input, shape);
    }
    let width = par::piece(d_inner, 8, 4 * d_inner * d_state);
    par::zip_chunks_mut(y, width, ssm_state, width * d_state, |i, y, h| {
        advance(Some(&mut [y]), h, &mut [], 0..1, i * width, input, shape);
    });
}

/// A layer's mixer weights for [`step_mixer`].
#[derive(Clone, Copy, Debug)]
pub struct StepWeights<'a, T> {
    /// (d_inner, dt_rank)
    pub dt_proj: &'a [T],
    /// (d_inner)
    pub dt_proj_bias: &'a [T],
    /// (d_inner, d_state), -exp(A_log)
    pub a: &'a [T],
    /// (d_inner)
    pub d: &'a [T],
    /// Falcon-Mamba: the norm of dt, B and C.
    pub mixer_rms_eps: Option<T>,
}

/// y (d_inner) from [u | z] (2 d_inner) and x_dbl (dt_rank + 2 d_state) of one token; moves ssm_state (d_inner, d_state) on.
/// The twins of its parts, one after the other.
pub fn step_mixer<T: Real>(y: &mut [T], ssm_state: &mut [T], (uz, x_dbl): (&[T], &[T]), w: &StepWeights<'_, T>) {
    let d_inner = w.d.len();
    let (d_state, dt_rank) = (w.a.len() / d_inner, w.dt_proj.len() / d_inner);
    let mut x_dbl = x_dbl.to_vec();
    if let Some(eps) = w.mixer_rms_eps {
        x_dbl_norm(&mut x_dbl, dt_rank, d_state, eps);
    }
    let mut delta = vec![T::zero(); d_inner];
    let dense = Linear::dense(1, dt_rank, d_inner);
    matvec(&mut delta, &x_dbl[..dt_rank], w.dt_proj, Some(w.dt_proj_bias), &dense, Epilogue::Softplus);
    let shape = ScanShape::of_layer(1, d_inner, d_state, dt_rank);
    let input = ScanInput { u: &uz[..d_inner], delta: &delta, a: w.a, x_dbl: &x_dbl, d: w.d, xz: uz };
    selective_state_update(y, ssm_state, &input, &shape);
}
