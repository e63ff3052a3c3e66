//! Twins of `shaders/conv1d.wgsl`, `shaders/conv1d_state.wgsl` and `shaders/conv1d_update.wgsl`: the causal depthwise
//! convolution over time with its bias and SiLU, and the state that carries it over a cut in the sequence.
//!
//! u[t, d] = silu(bias[d] + sum_j weight[d, j] x[t - (d_conv - 1) + j, d]), x before the start from `conv_state`, whose last
//! row is time -1. x is some columns of `xz`: Mamba's first half, or what stands behind z in Mamba-2.

use super::{discretise::silu, par, Real};

/// The shape of a convolution's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Positions.
    pub l: usize,
    /// Channels.
    pub d_inner: usize,
    /// Taps: inputs that one output sees, itself included.
    pub d_conv: usize,
    /// Elements from one row of `xz` to the next.
    pub x_stride: usize,
    /// Column of `xz` where x begins.
    pub x_offset: usize,
}

/// u = silu(causal convolution of x).
///
/// `u` (L, d_inner), `xz` (L, x_stride) of which d_inner columns from x_offset on are x, `conv_state` (d_conv, d_inner) the inputs
/// before, oldest first, `weight` (d_inner, d_conv), `bias` (d_inner).
pub fn conv1d<T: Real>(u: &mut [T], xz: &[T], conv_state: &[T], weight: &[T], bias: Option<&[T]>, shape: &ConvShape) {
    let &ConvShape { l, d_inner, d_conv, x_stride, x_offset } = shape;
    debug_assert_eq!(u.len(), l * d_inner);
    debug_assert!(l == 0 || xz.len() >= (l - 1) * x_stride + x_offset + d_inner);
    debug_assert_eq!(conv_state.len(), d_conv * d_inner);
    debug_assert_eq!(weight.len(), d_inner * d_conv);
    let rows = par::piece(l, 1, l * d_inner * (d_conv + 4));
    par::chunks_mut(u, rows * d_inner, |i, u| {
        for (t, u) in u.chunks_exact_mut(d_inner).enumerate() {
            let t = i * rows + t;
            start(u, bias);
            for j in 0..d_conv {
                // The input d_conv - 1 - j positions before t; rows of the state are counted from its end.
                let x = match (t + j + 1).checked_sub(d_conv) {
                    Some(t) => &xz[t * x_stride + x_offset..][..d_inner],
                    None => &conv_state[(t + j + 1) * d_inner..][..d_inner],
                };
                tap(u, x, weight, j, d_conv);
            }
            finish(u);
        }
    });
}

/// conv_state = the last d_conv inputs, older ones first, after the L inputs in `xz`.
///
/// `conv_state` (d_conv, d_inner), `xz` (L, x_stride) of which d_inner columns from x_offset on are x.
pub fn conv1d_state<T: Real>(conv_state: &mut [T], xz: &[T], shape: &ConvShape) {
    let &ConvShape { l, d_inner, d_conv, x_stride, x_offset } = shape;
    debug_assert_eq!(conv_state.len(), d_conv * d_inner);
    let kept = d_conv.saturating_sub(l);
    conv_state.copy_within((d_conv - kept) * d_inner.., 0);
    for (row, state) in conv_state.chunks_exact_mut(d_inner).enumerate().skip(kept) {
        let t = l + row - d_conv;
        state.copy_from_slice(&xz[t * x_stride + x_offset..][..d_inner]);
    }
}

/// One token: [`conv1d_state`], then its output. `u` (d_inner), `xz` one row; `shape.l` is 1.
pub fn conv1d_update<T: Real>(
    u: &mut [T],
    conv_state: &mut [T],
    xz: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    shape: &ConvShape,
) {
    let &ConvShape { l, d_inner, d_conv, .. } = shape;
    debug_assert_eq!(l, 1);
    debug_assert_eq!(u.len(), d_inner);
    debug_assert_eq!(weight.len(), d_inner * d_conv);
    conv1d_state(conv_state, xz, shape);
    start(u, bias);
    for (j, x) in conv_state.chunks_exact(d_inner).enumerate() {
        tap(u, x, weight, j, d_conv);
    }
    finish(u);
}

/// The sum starts from the bias.
fn start<T: Real>(u: &mut [T], bias: Option<&[T]>) {
    match bias {
        Some(bias) => u.copy_from_slice(bias),
        None => u.fill(T::zero()),
    }
}

/// Adds the j-th tap of every channel.
fn tap<T: Real>(u: &mut [T], x: &[T], weight: &[T], j: usize, d_conv: usize) {
    for ((u, &x), weight) in u.iter_mut().zip(x).zip(weight.chunks_exact(d_conv)) {
        *u += weight[j] * x;
    }
}

fn finish<T: Real>(u: &mut [T]) {
    for u in u {
        *u = silu(*u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::uniform;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        // One channel, taps [1 10 100] from oldest to newest, x = 1 2 3, before it 7 8 9 (9 the most recent).
        let shape = ConvShape { l: 3, d_inner: 1, d_conv: 3, x_stride: 2, x_offset: 0 };
        let xz = [1.0, f64::NAN, 2.0, f64::NAN, 3.0, f64::NAN];
        let mut state = [7.0, 8.0, 9.0];
        let mut u = [0.0; 3];
        conv1d(&mut u, &xz, &state, &[1.0, 10.0, 100.0], Some(&[-200.0]), &shape);
        assert_eq!(u, [silu(-2.0), silu(19.0), silu(121.0)]);
        let (mut behind, at_one) = ([0.0; 3], ConvShape { x_offset: 1, ..shape });
        conv1d(&mut behind, &[9.0, 1.0, 9.0, 2.0, 9.0, 3.0], &state, &[1.0, 10.0, 100.0], Some(&[-200.0]), &at_one);
        assert_eq!(behind, u);
        conv1d_state(&mut state, &xz, &shape);
        assert_eq!(state, [1.0, 2.0, 3.0]);
        conv1d_state(&mut state, &xz, &ConvShape { l: 1, ..shape });
        assert_eq!(state, [2.0, 3.0, 1.0]);
        conv1d_state(&mut state, &[], &ConvShape { l: 0, ..shape });
        assert_eq!(state, [2.0, 3.0, 1.0]);
    }

    proptest! {
        #[test]
        fn any_split_and_the_update_give_the_same_bits(
            l in 0usize..20, cut in 0usize..20, d_inner in 1usize..9, d_conv in 1usize..6, bias in any::<bool>(),
        ) {
            let cut = cut.min(l);
            let numbers = |len: usize, salt| -> Vec<f32> { (0..len).map(|i| uniform(salt, i as u32) - 0.5).collect() };
            let (x_stride, x_offset) = (2 * d_inner, d_inner / 2);
            let (xz, weight) = (numbers(l * x_stride, 1), numbers(d_inner * d_conv, 2));
            let (before, bias_data) = (numbers(d_conv * d_inner, 3), numbers(d_inner, 4));
            let bias = bias.then_some(&bias_data[..]);
            let shape = |l| ConvShape { l, d_inner, d_conv, x_stride, x_offset };

            let mut whole = vec![f32::NAN; l * d_inner];
            let mut whole_state = before.clone();
            conv1d(&mut whole, &xz, &whole_state, &weight, bias, &shape(l));
            conv1d_state(&mut whole_state, &xz, &shape(l));

            let mut parts = vec![f32::NAN; l * d_inner];
            let mut parts_state = before.clone();
            let (first, second) = parts.split_at_mut(cut * d_inner);
            for (u, xz, l) in [(first, &xz[..cut * x_stride], cut), (second, &xz[cut * x_stride..], l - cut)] {
                conv1d(u, xz, &parts_state, &weight, bias, &shape(l));
                conv1d_state(&mut parts_state, xz, &shape(l));
            }
            prop_assert_eq!((&parts, &parts_state), (&whole, &whole_state));

            let mut steps = vec![f32::NAN; l * d_inner];
            let mut steps_state = before.clone();
            for (u, xz) in steps.chunks_exact_mut(d_inner).zip(xz.chunks_exact(x_stride)) {
                conv1d_update(u, &mut steps_state, xz, &weight, bias, &shape(1));
            }
            prop_assert_eq!((&steps, &steps_state), (&whole, &whole_state));
        }
    }

    #[test]
    fn f32_follows_f64_and_nan_reaches_d_conv_outputs() {
        let shape = ConvShape { l: 700, d_inner: 64, d_conv: 4, x_stride: 128, x_offset: 0 };
        let mut x: Vec<f32> = (0..700 * 128).map(|i| uniform(1, i) * 8.0 - 4.0).collect();
        let weight: Vec<f32> = (0..256).map(|i| uniform(2, i) - 0.5).collect();
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let mut expected = vec![0.0f64; 700 * 64];
        conv1d(&mut expected, &wide(&x), &[0.0; 256], &wide(&weight), None, &shape);
        x[5 * 128 + 3] = f32::NAN;
        let mut u = vec![0.0f32; 700 * 64];
        conv1d(&mut u, &x, &[0.0; 256], &weight, None, &shape);
        for (i, (got, expected)) in u.iter().zip(&expected).enumerate() {
            if i % 64 == 3 && (5..9).contains(&(i / 64)) {
                assert!(got.is_nan(), "{i}");
            } else {
                assert!((f64::from(*got) - expected).abs() < 2e-6, "{i}: {got} {expected}");
            }
        }
    }
}
