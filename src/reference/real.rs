//! [`Real`] for `f32` and `f64`.

#[cfg(target_arch = "x86_64")]
use super::dots;
use super::Real;

impl Real for f64 {
    fn from_f32(x: f32) -> Self {
        f64::from(x)
    }
    fn from_f64(x: f64) -> Self {
        x
    }
    fn as_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn exp_lane(self) -> Self {
        self.exp()
    }
}

impl Real for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }

    // exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2)/2, exp(r) by the polynomial of Cephes' expf.c. ln 2 is
    // subtracted in two parts, of which the first has few enough bits that n times it is exact.
    #[inline(always)]
    #[allow(clippy::excessive_precision)] // the coefficients as Cephes prints them
    fn exp_lane(self) -> Self {
        /// Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        // Comparisons instead of clamp: NaN has to stay NaN. Above 88.72284 the result is infinite.
        let x = if self > 88.8 { 88.8 } else { self };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * 0.693_359_375) - n * -2.121_944_4e-4;
        let mut p = 1.987_569_15e-4;
        p = p * r + 1.398_199_950_7e-3;
        p = p * r + 8.333_451_907_3e-3;
        p = p * r + 4.166_579_589_4e-2;
        p = p * r + 1.666_666_545_9e-1;
        p = p * r + 5.000_000_120_1e-1;
        let exp_r = p * (r * r) + r + 1.0;
        // 2^n in two factors: 2^128 alone would be infinite though exp(r) may be below 1.
        let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let low = n >> 1;
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
        let y = exp_r * power(low) * power(n.wrapping_sub(low));
        if self < -87.336_54 {
            0.0
        } else {
            y
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn dots<const L: usize, const N: usize>(xs: [&[f32]; L], ws: [&[f32]; N]) -> [[f32; N]; L] {
        if dots::has_avx2_fma() {
            // SAFETY: the processor has the features that the function is compiled for.
            unsafe { dots::avx2(xs, ws) }
        } else {
            dots::portable(xs, ws)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_lane_is_within_two_ulp_of_exp() {
        let mut worst = 0.0f64;
        let mut x = -87.3f32;
        while x < 88.72 {
            let exact = f64::from(x).exp();
            let ulp = exact.log2().floor().exp2() * f64::from(f32::EPSILON);
            worst = worst.max((f64::from(x.exp_lane()) - exact).abs() / ulp);
            x += 1.37e-4;
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert!(worst > 0.1, "a comparison that finds no rounding error compares a function with itself");
    }

    #[test]
    fn exp_lane_at_the_edges() {
        assert_eq!(0.0f32.exp_lane(), 1.0);
        assert_eq!((-0.0f32).exp_lane(), 1.0);
        assert!(f32::NAN.exp_lane().is_nan());
        assert!(f64::NAN.exp_lane().is_nan());
        assert_eq!(f32::INFINITY.exp_lane(), f32::INFINITY);
        assert_eq!(89.0f32.exp_lane(), f32::INFINITY);
        assert_eq!(f32::NEG_INFINITY.exp_lane(), 0.0);
        assert_eq!((-1e30f32).exp_lane(), 0.0);
        assert_eq!((-88.0f32).exp_lane(), 0.0);
        for tiny in [1e-6f32, -1e-6, 1e-10, f32::MIN_POSITIVE] {
            assert_eq!(tiny.exp_lane(), tiny.exp());
        }
    }
}
