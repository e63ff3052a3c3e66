//! Dot products, the inner loop of every linear layer: in plain Rust, and with AVX2's instructions for `f32`.

use super::Real;

/// Partial sums of a dot product: a vector register of `f32`.
const LANES: usize = 8;

/// The dot product of each of `xs` with each of `ws`, all of one length.
pub(super) fn portable<T: Real, const L: usize, const N: usize>(xs: [&[T]; L], ws: [&[T]; N]) -> [[T; N]; L] {
    let mut out = [[T::zero(); N]; L];
    for (x, out) in xs.iter().zip(&mut out) {
        for (w, out) in ws.iter().zip(out) {
            debug_assert_eq!(x.len(), w.len());
            let mut sums = [T::zero(); LANES];
            let (mut x, mut w) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
            for (x, w) in (&mut x).zip(&mut w) {
                for lane in 0..LANES {
                    sums[lane] += x[lane] * w[lane];
                }
            }
            *out = add_lanes(sums);
            for (&x, &w) in x.remainder().iter().zip(w.remainder()) {
                *out += x * w;
            }
        }
    }
    out
}

fn add_lanes<T: Real>(s: [T; LANES]) -> T {
    ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]))
}

/// Whether this processor has AVX2 and fused multiply-add; looked up once by the standard library.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn has_avx2_fma() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// [`portable`] with one fused multiply-add for eight lanes; L x N registers of sums hide its latency.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2<const L: usize, const N: usize>(xs: [&[f32]; L], ws: [&[f32]; N]) -> [[f32; N]; L] {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    let k = xs.iter().chain(&ws).map(|row| row.len()).min().unwrap_or(0);
    let whole = k - k % LANES;
    let mut sums = [[_mm256_setzero_ps(); N]; L];
    let mut i = 0;
    while i < whole {
        let mut w = [_mm256_setzero_ps(); N];
        for n in 0..N {
            // SAFETY: i + 8 <= whole <= the length of each row.
            w[n] = unsafe { _mm256_loadu_ps(ws[n].as_ptr().add(i)) };
        }
        for l in 0..L {
            // SAFETY: as above.
            let x = unsafe { _mm256_loadu_ps(xs[l].as_ptr().add(i)) };
            for n in 0..N {
                sums[l][n] = _mm256_fmadd_ps(x, w[n], sums[l][n]);
            }
        }
        i += LANES;
    }
    let mut out = [[0.0; N]; L];
    for l in 0..L {
        for n in 0..N {
            let mut lanes = [0.0; LANES];
            // SAFETY: eight elements.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums[l][n]) };
            let mut sum = add_lanes(lanes);
            for i in whole..k {
                sum = xs[l][i].mul_add(ws[n][i], sum);
            }
            out[l][n] = sum;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::uniform;

    #[test]
    fn both_forms_agree_with_f64_at_every_length() {
        for k in 0..70 {
            let row = |salt: u64| -> Vec<f32> { (0..k).map(|i| uniform(salt, i) - 0.5).collect() };
            let (x, w) = ([row(1), row(2)], [row(3), row(4), row(5)]);
            let (x, w) = ([&x[0][..], &x[1]], [&w[0][..], &w[1], &w[2]]);
            for got in [portable(x, w), f32::dots(x, w)] {
                for (x, got) in x.iter().zip(got) {
                    for (w, got) in w.iter().zip(got) {
                        let terms = x.iter().zip(*w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                        let expected: f64 = terms.sum();
                        assert!((f64::from(got) - expected).abs() < 1e-6, "{k}: {got} {expected}");
                    }
                }
            }
        }
    }
}
