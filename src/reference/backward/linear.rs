//! Twins of `shaders/backward/matmul_grad.wgsl` (and `matmul_grad_split.wgsl`), `shaders/backward/largest.wgsl` and
//! `shaders/backward/column_sums.wgsl`.

use crate::reference::{Linear, Real};

/// Of y = x W^T: grad_x (l, k) = grad_y (l, n) W (n, k), added to what is there with `add`. Strides as in [`Linear`]; what lies
/// between the rows of grad_x stays.
pub fn matmul_grad_x<T: Real>(grad_x: &mut [T], grad_y: &[T], w: &[T], shape: &Linear, add: bool) {
    let &Linear { l, k, n, x_stride, y_stride } = shape;
    debug_assert_eq!(w.len(), n * k);
    for t in 0..l {
        let row = &mut grad_x[t * x_stride..][..k];
        if !add {
            row.fill(T::zero());
        }
        let grad_y = &grad_y[t * y_stride..][..n];
        for (&g, w) in grad_y.iter().zip(w.chunks_exact(k.max(1))) {
            row.iter_mut().zip(w).for_each(|(x, &w)| *x += g * w);
        }
    }
}

/// Of the same: grad_w (n, k) += grad_y^T x.
pub fn matmul_grad_w<T: Real>(grad_w: &mut [T], x: &[T], grad_y: &[T], shape: &Linear) {
    let &Linear { l, k, n, x_stride, y_stride } = shape;
    debug_assert_eq!(grad_w.len(), n * k);
    for t in 0..l {
        let (x, grad_y) = (&x[t * x_stride..][..k], &grad_y[t * y_stride..][..n]);
        for (&g, row) in grad_y.iter().zip(grad_w.chunks_exact_mut(k.max(1))) {
            row.iter_mut().zip(x).for_each(|(w, &x)| *w += g * x);
        }
    }
}

/// out (cols) += the sum over the rows of x (rows, stride), whose first columns they are.
pub fn column_sums<T: Real>(out: &mut [T], x: &[T], rows: usize, stride: usize) {
    for t in 0..rows {
        let x = &x[t * stride..];
        out.iter_mut().zip(x).for_each(|(out, &x)| *out += x);
    }
}

/// The largest |x| of the first `cols` columns of x (rows, stride); 0 of nothing.
pub fn largest<T: Real>(x: &[T], rows: usize, cols: usize, stride: usize) -> T {
    let values = (0..rows).flat_map(|t| &x[t * stride..][..cols]);
    values.fold(T::zero(), |most, x| most.max(x.abs()))
}

#[cfg(test)]
mod tests {
    use half::f16;

    /// shared/halves.wgsl: the nearest f16 and what is left times 1024, as f64.
    fn halves(x: f32) -> (f64, f64) {
        let high = f32::from_bits(x.to_bits().wrapping_add(0x1000) & 0xffff_e000);
        (f16::from_f32(high).to_f64(), f16::from_f32((x - high) * 1024.0).to_f64())
    }

    /// matmul_grad_split.wgsl: the scale for a largest value, and what undoes it.
    fn scales(largest: f32) -> (f32, f32) {
        let exponent = (largest.to_bits() >> 23).clamp(41, 254);
        (f32::from_bits((268 - exponent) << 23), f32::from_bits((exponent - 14) << 23))
    }

    /// A sum as that kernel makes it, but for the rounding of its sums.
    fn by_halves((grad_y, largest): (&[f32], f32), (x, largest_x): (&[f32], f32)) -> f64 {
        let ((scale, unscale), (scale_x, unscale_x)) = (scales(largest), scales(largest_x));
        let products = grad_y.iter().zip(x).map(|(&g, &x)| {
            let ((g_hi, g_lo), (x_hi, x_lo)) = (halves(g * scale), halves(x * scale_x));
            g_hi * x_hi + (g_hi * x_lo + g_lo * x_hi) / 1024.0
        });
        products.sum::<f64>() * f64::from(unscale) * f64::from(unscale_x)
    }

    fn values(n: usize, size: f32, step: f64) -> Vec<f32> {
        (1..=n).map(|i| size * (2.0 * (i as f64 * step).fract() - 1.0) as f32).collect()
    }

    #[test]
    fn the_scale_brings_any_largest_value_where_f16_has_all_its_bits() {
        for largest in [1e-25f32, 1e-10, 0.9999, 1.0, 3.0, 65504.0, 1e38] {
            let (scale, unscale) = scales(largest);
            assert!((16384.0..32768.0).contains(&(largest * scale)), "{largest}");
            assert_eq!(largest * scale * unscale, largest);
        }
        // Smaller still they are scaled as far as f32 goes back, and nothing of nothing is nothing.
        let (scale, unscale) = scales(0.0);
        assert_eq!((scale, unscale, scales(1e-40).0), (2f32.powi(100), 2f32.powi(-100), scale));
        // What is not finite stays so.
        for bad in [f32::INFINITY, f32::NAN] {
            assert!(!by_halves((&[bad, 1.0], bad), (&[1.0, 1.0], 1.0)).is_finite());
        }
    }

    #[test]
    fn sums_by_halves_are_as_good_as_those_in_f32_whatever_their_size() {
        for (size, x_size) in [(1e-25f32, 1e20f32), (1e-10, 1.0), (1.0, 1e7), (1e4, 1e-7), (1e30, 1.0)] {
            let x = values(3000, x_size, 0.618_033_988_749_895);
            for (row, bound) in [(1.0f32, 1e-6), (1e-3, 1e-6), (1e-6, 1e-6), (1e-8, 2e-4)] {
                // A row so much smaller than the tensor's largest value.
                let grad_y = values(3000, size * row, 0.754_877_666_246_693);
                let want: f64 = grad_y.iter().zip(&x).map(|(&g, &x)| f64::from(g) * f64::from(x)).sum();
                let got = by_halves((&grad_y, size), (&x, x_size));
                let scale = f64::from(size * row) * f64::from(x_size) * 3000f64.sqrt() / 3.0;
                assert!((got - want).abs() <= bound * scale, "{size} {row}: {got} instead of {want}");
            }
        }
        // The test can fail: without the scale nothing of 1e-10 is left, and 1e5 is no f16.
        assert_eq!(by_halves((&[1e-10], 2f32.powi(14)), (&[1.0], 1.0)), 0.0);
        assert!(!by_halves((&[1.0], 1.0), (&[1e5], 2f32.powi(14))).is_finite());
    }
}
