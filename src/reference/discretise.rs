//! Twins of `shaders/discretise.wgsl` and of the maths in `shaders/shared/`: softplus, SiLU, and the discretised pairs that
//! the Blelloch rung of the scan reads.

use super::{Real, ScanElement, ScanShape};

/// ln(1 + e^x) without overflow and without losing small values; x itself above 20, as PyTorch's softplus.
///
/// Below, it is max(x, 0) + ln(1 + e^-|x|); WGSL has no `log1p`, so the shader sums a series for small e^-|x|.
pub fn softplus<T: Real>(x: T) -> T {
    if x > T::from_f32(20.0) {
        return x;
    }
    // A comparison instead of max: NaN has to stay NaN.
    let positive = if x < T::zero() { T::zero() } else { x };
    positive + (-x.abs()).exp().ln_1p()
}

/// x / (1 + e^-x).
#[inline(always)]
pub fn silu<T: Real>(x: T) -> T {
    x / (T::one() + (-x).exp_lane())
}

/// The largest magnitude of A, 2^100: any delta above 1e-28 lets nothing of the state through, as -infinity would, and
/// a delta of 0 leaves all of it, where -infinity would give NaN; times a sum of deltas (and log2 e) it is finite
/// still.
const FASTEST: f32 = 1_267_650_600_228_229_401_496_703_205_376.0;

/// A of A_log: -exp(A_log), which f32 cannot hold for an A_log of 89 or more. -2^100 stands for those from 69.3 on;
/// every backend makes A here (and `shaders/backward/pointwise.wgsl` in training), so that all agree.
pub fn decay_rate<T: Real>(a_log: T) -> T {
    let (a, fastest) = (a_log.exp(), T::from_f32(FASTEST));
    // A comparison instead of min: NaN has to stay NaN.
    if a > fastest {
        -fastest
    } else {
        -a
    }
}

/// One step of one state: (exp(delta A), delta B u). A exact (zero-order hold), B by Euler's rule, as Mamba's code and every
/// published checkpoint have it (the paper's eq. 4 has the zero-order hold for both).
#[inline(always)]
pub(super) fn discretise_one<T: Real>(delta: T, a: T, b: T, u: T) -> ScanElement<T> {
    ScanElement { a: (delta * a).exp_lane(), b: delta * u * b }
}

/// dA = exp(delta A), dBu = delta B u for every position, channel and state.
///
/// `da`, `dbu` (L, d_inner, d_state), `delta`, `u` (L, d_inner), `a` (d_inner, d_state) = -exp(A_log), `x_dbl`
/// (L, x_dbl_stride) with B in columns `b_offset` on.
pub fn discretise<T: Real>(da: &mut [T], dbu: &mut [T], delta: &[T], a: &[T], x_dbl: &[T], u: &[T], shape: &ScanShape) {
    let &ScanShape { l, d_inner, d_state, x_dbl_stride, b_offset, .. } = shape;
    debug_assert_eq!(da.len(), l * d_inner * d_state);
    debug_assert_eq!(dbu.len(), da.len());
    debug_assert_eq!((delta.len(), u.len()), (l * d_inner, l * d_inner));
    debug_assert_eq!(a.len(), d_inner * d_state);
    for t in 0..l {
        let b = &x_dbl[t * x_dbl_stride + b_offset..][..d_state];
        for d in 0..d_inner {
            let (delta, u) = (delta[t * d_inner + d], u[t * d_inner + d]);
            let out = (t * d_inner + d) * d_state;
            for n in 0..d_state {
                let element = discretise_one(delta, a[d * d_state + n], b[n], u);
                da[out + n] = element.a;
                dbu[out + n] = element.b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softplus_keeps_both_ends() {
        assert_eq!(softplus(0.0f64), 2.0f64.ln());
        assert_eq!(softplus(25.0f32), 25.0);
        assert_eq!(softplus(1e30f32), 1e30);
        assert_eq!(softplus(f32::INFINITY), f32::INFINITY);
        assert_eq!(softplus(f32::NEG_INFINITY), 0.0);
        assert!(softplus(f32::NAN).is_nan());
        // ln(1 + e^-30) computed as written is 0 in f32; it is e^-30.
        let small = softplus(-30.0f32);
        assert!((small / (-30.0f32).exp() - 1.0).abs() < 1e-6, "{small}");
        let mut x = -80.0f32;
        while x < 30.0 {
            let expected = f64::from(x).exp().ln_1p();
            assert!((f64::from(softplus(x)) / expected - 1.0).abs() < 3e-7, "{x}");
            x += 0.013;
        }
    }

    #[test]
    fn decay_rates_are_finite_and_decay_as_infinity_would() {
        assert_eq!(decay_rate(0.0f32), -1.0);
        assert_eq!(decay_rate(2.0f64), -(2.0f64.exp()));
        assert_eq!(decay_rate(-200.0f32), 0.0);
        for a_log in [70.0f32, 88.0, 89.0, 90.0, 200.0, f32::MAX] {
            let a = decay_rate(a_log);
            assert_eq!(a, -(2.0f32.powi(100)));
            for (delta, left) in [(0.0, 1.0), (1e-27, 0.0), (1.0, 0.0), (1e8, 0.0), (f32::MAX, 0.0)] {
                assert_eq!(discretise_one(delta, a, 0.5, 0.0), ScanElement { a: left, b: 0.0 }, "{delta}");
            }
        }
        assert_eq!(decay_rate(200.0f64), -(2.0f64.powi(100)));
        assert!(decay_rate(f32::NAN).is_nan());
    }

    #[test]
    fn silu_by_hand() {
        assert_eq!(silu(0.0f32), 0.0);
        assert!((silu(1.0f64) - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert!((silu(1.0f32) - 0.731_058_6).abs() < 1e-7);
        assert_eq!(silu(-200.0f32), 0.0);
        assert_eq!(silu(200.0f32), 200.0);
        assert!(silu(f32::NAN).is_nan());
    }

    #[test]
    fn discretise_by_hand() {
        // L 2, d_inner 1, d_state 2, x_dbl rows [dt | B | C] of width 5.
        let shape = ScanShape {
            l: 2,
            d_inner: 1,
            d_state: 2,
            x_dbl_stride: 5,
            b_offset: 1,
            c_offset: 3,
            xz_stride: 2,
            z_offset: 1,
        };
        let x_dbl = [9.0, 1.0, 2.0, 9.0, 9.0, 9.0, -3.0, 0.5, 9.0, 9.0f64];
        let (mut da, mut dbu) = ([0.0; 4], [0.0; 4]);
        discretise(&mut da, &mut dbu, &[0.5, 2.0], &[-1.0, -2.0], &x_dbl, &[10.0, 1.0], &shape);
        assert_eq!(da, [(-0.5f64).exp(), (-1.0f64).exp(), (-2.0f64).exp(), (-4.0f64).exp()]);
        assert_eq!(dbu, [5.0, 10.0, -6.0, 1.0]);
    }
}
