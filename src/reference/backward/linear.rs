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
