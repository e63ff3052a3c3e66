//! Twins of `shaders/backward/rms_norm_train.wgsl` and `shaders/backward/rms_norm_backward.wgsl`.

use crate::reference::{rms_norm, Real};

/// sum = residual + hidden (or residual alone); y = RMSNorm(sum) * weight. All (rows, d) but weight (d).
pub fn rms_norm_train<T: Real>(y: &mut [T], sum: &mut [T], residual: &[T], hidden: Option<&[T]>, weight: &[T], eps: T) {
    sum.copy_from_slice(residual);
    rms_norm(y, sum, hidden, Some(weight), eps, weight.len());
}

/// Of y = x r weight, r = 1 / sqrt(mean(x^2) + eps), with g = grad_y weight:
///
/// ```text
/// grad_x += r g - x r^3 mean(g x)        grad_weight += sum over rows of grad_y x r
/// ```
///
/// `grad_x` (rows, d) holds the gradient of x from elsewhere (the residual stream), `grad_weight` (d).
pub fn rms_norm_backward<T: Real>(
    grad_x: &mut [T],
    grad_weight: &mut [T],
    x: &[T],
    weight: &[T],
    grad_y: &[T],
    eps: T,
) {
    let d = weight.len();
    let mean = |sum: T| sum / T::from_f64(d as f64);
    for ((x, grad_y), grad_x) in x.chunks_exact(d).zip(grad_y.chunks_exact(d)).zip(grad_x.chunks_exact_mut(d)) {
        let (mut squares, mut products) = (T::zero(), T::zero());
        for i in 0..d {
            squares += x[i] * x[i];
            products += grad_y[i] * weight[i] * x[i];
        }
        let r = (mean(squares) + eps).sqrt().recip();
        let back = r * r * r * mean(products);
        for i in 0..d {
            grad_x[i] += r * grad_y[i] * weight[i] - x[i] * back;
            grad_weight[i] += grad_y[i] * x[i] * r;
        }
    }
}
