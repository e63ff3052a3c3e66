//! Twins of `shaders/conv1d.wgsl` over several sequences, and of `shaders/backward/conv1d_backward.wgsl`.

use super::silu_and_slope;
use crate::reference::{conv1d, conv1d_state, ConvShape, Real};

/// What the convolution reads.
#[derive(Clone, Copy, Debug)]
pub struct ConvInputs<'a, T> {
    /// (rows, x_stride), x in the d_inner columns from x_offset on
    pub xz: &'a [T],
    /// (d_inner, d_conv)
    pub weight: &'a [T],
    /// (d_inner)
    pub bias: Option<&'a [T]>,
}

/// Sequences of a (rows, width) array, one after the other; none where there are no tokens.
fn sequences(l: usize, width: usize) -> usize {
    (l * width).max(1)
}

/// [`conv1d`] over `batch` sequences of `shape.l` tokens, conv_state (batch, d_conv, d_inner).
pub fn conv1d_batch<T: Real>(u: &mut [T], input: &ConvInputs<T>, conv_state: &[T], shape: &ConvShape) {
    let &ConvShape { l, d_inner, d_conv, x_stride, .. } = shape;
    let parts = u.chunks_mut(sequences(l, d_inner)).zip(input.xz.chunks(sequences(l, x_stride)));
    for ((u, xz), state) in parts.zip(conv_state.chunks(sequences(d_conv, d_inner))) {
        conv1d(u, xz, state, input.weight, input.bias, shape);
    }
}

/// [`conv1d_state`] of each sequence.
pub fn conv1d_state_batch<T: Real>(conv_state: &mut [T], xz: &[T], shape: &ConvShape) {
    let &ConvShape { l, d_inner, d_conv, x_stride, .. } = shape;
    let states = conv_state.chunks_mut(sequences(d_conv, d_inner));
    for (state, xz) in states.zip(xz.chunks(sequences(l, x_stride))) {
        conv1d_state(state, xz, shape);
    }
}

/// The gradients of a convolution.
#[derive(Debug)]
pub struct ConvGrads<'a, T> {
    /// (rows, x_stride): the d_inner columns from x_offset on are set
    pub xz: &'a mut [T],
    /// (d_inner, d_conv), added to
    pub weight: &'a mut [T],
    /// (d_inner), added to
    pub bias: Option<&'a mut [T]>,
}

/// Through the SiLU (of the sums, computed again) and the convolution. Sequences start from zero states. With
/// g the gradient of the sums:
///
/// ```text
/// g[t] = grad_u[t] silu'(sum[t])
/// grad_x[t] = sum_j weight[j] g[t + (d_conv - 1) - j]      grad_weight[j] += sum_t g[t] x[t - (d_conv - 1) + j]
/// ```
pub fn conv1d_backward<T: Real>(grads: &mut ConvGrads<T>, grad_u: &[T], input: &ConvInputs<T>, shape: &ConvShape) {
    let &ConvShape { l, d_inner, d_conv, x_stride, x_offset } = shape;
    for first in (0..grad_u.len() / d_inner.max(1)).step_by(l.max(1)) {
        for d in 0..d_inner {
            let weight = &input.weight[d * d_conv..][..d_conv];
            let taps = |t: usize| (0..d_conv).filter_map(move |j| Some((j, (t + j + 1).checked_sub(d_conv)?)));
            for t in 0..l {
                grads.xz[(first + t) * x_stride + x_offset + d] = T::zero();
            }
            for t in 0..l {
                let x = |t: usize| input.xz[(first + t) * x_stride + x_offset + d];
                let bias = input.bias.map_or(T::zero(), |b| b[d]);
                let sum = taps(t).fold(bias, |sum, (j, at)| sum + weight[j] * x(at));
                let g = grad_u[(first + t) * d_inner + d] * silu_and_slope(sum).1;
                for (j, at) in taps(t) {
                    grads.xz[(first + at) * x_stride + x_offset + d] += weight[j] * g;
                    grads.weight[d * d_conv + j] += g * x(at);
                }
                if let Some(bias) = &mut grads.bias {
                    bias[d] += g;
                }
            }
        }
    }
}
