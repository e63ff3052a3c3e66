//! Twin of `shaders/selective_state_update.wgsl`: one token of the selective scan, the recurrent step of decoding.

use super::{par, scan::advance, Real, ScanInput, ScanShape};

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
