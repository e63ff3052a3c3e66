//! Twins of `shaders/rms_norm.wgsl` and `shaders/x_dbl_norm.wgsl`.
//!
//! RMSNorm (Zhang & Sennrich, "Root Mean Square Layer Normalization", eq. 4): y = x / sqrt(mean(x^2) + eps) * weight.

use super::{linear::dot, Real};

/// 1 / sqrt(mean(x^2) + eps).
pub(super) fn inverse_rms<T: Real>(x: &[T], eps: T) -> T {
    let mean = dot(x, x) / T::from_f64(x.len() as f64);
    (mean + eps).sqrt().recip()
}

/// residual += hidden; y = RMSNorm(residual) * weight.
///
/// `y` (L, d), `residual` (L, d), `hidden` (L, d) or nothing to add, `weight` (d) or all ones.
pub fn rms_norm<T: Real>(
    y: &mut [T],
    residual: &mut [T],
    hidden: Option<&[T]>,
    weight: Option<&[T]>,
    eps: T,
    d: usize,
) {
    debug_assert_eq!(y.len(), residual.len());
    debug_assert_eq!(y.len() % d, 0);
    if let Some(hidden) = hidden {
        debug_assert_eq!(hidden.len(), residual.len());
        for (r, &h) in residual.iter_mut().zip(hidden) {
            *r += h;
        }
    }
    for (y, x) in y.chunks_exact_mut(d).zip(residual.chunks_exact(d)) {
        let scale = inverse_rms(x, eps);
        match weight {
            Some(weight) => {
                for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * scale * w;
                }
            }
            None => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * scale;
                }
            }
        }
    }
}

/// Falcon-Mamba: RMSNorm without weights on each of dt, B and C, in place, before `dt_proj`.
///
/// `x_dbl` (L, dt_rank + 2 d_state) = [dt | B | C].
pub fn x_dbl_norm<T: Real>(x_dbl: &mut [T], dt_rank: usize, d_state: usize, eps: T) {
    let width = dt_rank + 2 * d_state;
    debug_assert_eq!(x_dbl.len() % width, 0);
    for row in x_dbl.chunks_exact_mut(width) {
        let (dt, bc) = row.split_at_mut(dt_rank);
        let (b, c) = bc.split_at_mut(d_state);
        for segment in [dt, b, c] {
            let scale = inverse_rms(segment, eps);
            for x in segment {
                *x *= scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_norm_by_hand() {
        // mean(3^2, 4^2) = 12.5; with eps 3.5 the root is 4.
        let mut residual = [1.0f64, 5.0];
        let mut y = [0.0; 2];
        rms_norm(&mut y, &mut residual, Some(&[2.0, -1.0]), Some(&[2.0, 0.5]), 3.5, 2);
        assert_eq!(residual, [3.0, 4.0]);
        assert_eq!(y, [1.5, 0.5]);
        rms_norm(&mut y, &mut residual, None, None, 3.5, 2);
        assert_eq!(residual, [3.0, 4.0]);
        assert_eq!(y, [0.75, 1.0]);
    }

    #[test]
    fn a_zero_row_gives_zeros_and_nan_stays_in_its_row() {
        let mut residual = [0.0f32, 0.0, f32::NAN, 1.0];
        let mut y = [9.0; 4];
        rms_norm(&mut y, &mut residual, None, None, 1e-5, 2);
        assert_eq!(y[..2], [0.0, 0.0]);
        assert!(y[2].is_nan() && y[3].is_nan());
    }

    #[test]
    fn x_dbl_norm_by_hand() {
        // Each segment by its own root mean square: dt 3; B 5/sqrt 2; C 1.
        let mut x_dbl = [-3.0f64, 3.0, 4.0, 1.0, -1.0];
        x_dbl_norm(&mut x_dbl, 1, 2, 0.0);
        let root = 12.5f64.sqrt();
        let expected = [-1.0, 3.0 / root, 4.0 / root, 1.0, -1.0];
        for (got, expected) in x_dbl.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-15, "{x_dbl:?}");
        }
    }
}
