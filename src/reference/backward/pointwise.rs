//! Twin of `shaders/backward/negative_exp.wgsl`, and the slopes of the pointwise functions.

use crate::reference::{decay_rate, Real};

/// A = [`decay_rate`] of A_log.
pub fn negative_exp<T: Real>(a: &mut [T], a_log: &[T]) {
    debug_assert_eq!(a.len(), a_log.len());
    for (a, &log) in a.iter_mut().zip(a_log) {
        *a = decay_rate(log);
    }
}

/// d softplus(x) / dx = sigmoid(x), from the softplus y itself: 1 - exp(-y).
pub fn softplus_slope<T: Real>(y: T) -> T {
    -(-y).exp_m1()
}

/// silu(x) and d silu(x) / dx = s (1 + x (1 - s)), s = sigmoid(x).
pub fn silu_and_slope<T: Real>(x: T) -> (T, T) {
    let s = (T::one() + (-x).exp()).recip();
    (x * s, s * (T::one() + x * (T::one() - s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{silu, softplus};

    #[test]
    fn slopes_are_those_of_the_functions() {
        // At 20 itself softplus jumps by 2e-9, to x.
        for i in (-200..200).chain([250]) {
            let (x, step) = (f64::from(i) * 0.1, 1e-5);
            let slope = |f: fn(f64) -> f64| (f(x + step) - f(x - step)) / (2.0 * step);
            let (y, d) = silu_and_slope(x);
            assert!((y - silu(x)).abs() < 1e-14 && (d - slope(silu)).abs() < 1e-9, "{x}");
            assert!((softplus_slope(softplus(x)) - slope(softplus)).abs() < 1e-9, "{x}");
        }
        // A slope that is small is still known to its last digits.
        assert!((softplus_slope(softplus(-30.0f32)) / (-30.0f32).exp() - 1.0).abs() < 1e-6);
        assert!(softplus_slope(f32::NAN).is_nan() && silu_and_slope(f32::NAN).1.is_nan());
    }
}
