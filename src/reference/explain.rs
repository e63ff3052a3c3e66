//! Twins of `shaders/channel_stats.wgsl`, `shaders/token_stats.wgsl` and `shaders/hidden_attention.wgsl`.

use std::ops::Range;

use super::{discretise::discretise_one, par, Real, ScanShape};

/// Channels that [`hidden_attention`] takes side by side.
const LANES: usize = 16;

/// What of a layer is explained.
#[derive(Clone, Copy, Debug)]
pub struct ExplainInput<'a, T> {
    /// (L, d_inner)
    pub u: &'a [T],
    /// (L, d_inner), after softplus.
    pub delta: &'a [T],
    /// (d_inner, d_state), -exp(A_log).
    pub a: &'a [T],
    /// (L, x_dbl_stride), rows with B and C.
    pub x_dbl: &'a [T],
}

/// forget = mean_n exp(delta A_n) and energy = sum_n h_n^2 of every token and channel, from the zero state.
///
/// `forget`, `energy` (L, d_inner).
pub fn channel_stats<T: Real>(forget: &mut [T], energy: &mut [T], input: &ExplainInput<T>, shape: &ScanShape) {
    let &ScanShape { l, d_inner, d_state, x_dbl_stride, b_offset, .. } = shape;
    debug_assert_eq!((forget.len(), energy.len()), (l * d_inner, l * d_inner));
    let mut h = vec![T::zero(); d_inner * d_state];
    for t in 0..l {
        let b = &input.x_dbl[t * x_dbl_stride + b_offset..][..d_state];
        for d in 0..d_inner {
            let at = t * d_inner + d;
            let (mut left, mut sum) = (T::zero(), T::zero());
            for (n, h) in h[d * d_state..][..d_state].iter_mut().enumerate() {
                let element = discretise_one(input.delta[at], input.a[d * d_state + n], b[n], input.u[at]);
                *h = element.apply(*h);
                left += element.a;
                sum += *h * *h;
            }
            forget[at] = left / T::from_f64(d_state as f64);
            energy[at] = sum;
        }
    }
}

/// Each token's mean delta, mean forget and norm of the state (the root of its energies' sum).
///
/// `stats` (L, 3), `delta`, `forget`, `energy` (L, d_inner).
pub fn token_stats<T: Real>(stats: &mut [T], delta: &[T], forget: &[T], energy: &[T], d_inner: usize) {
    debug_assert_eq!(stats.len() * d_inner, 3 * delta.len());
    let sum = |values: &[T], t: usize| values[t * d_inner..][..d_inner].iter().fold(T::zero(), |sum, &x| sum + x);
    let channels = T::from_f64(d_inner as f64);
    for (t, stats) in stats.chunks_exact_mut(3).enumerate() {
        stats[0] = sum(delta, t) / channels;
        stats[1] = sum(forget, t) / channels;
        stats[2] = sum(energy, t).sqrt();
    }
}

/// alpha(i, j) = sum_n C_i,n (prod_{k = j+1 .. i} exp(delta_k A_n)) delta_j B_j,n, as the mean over some channels of alpha and of
/// |alpha|. What lies above the diagonal stays as it is.
///
/// `attention` (L, L, 2).
pub fn hidden_attention<T: Real>(
    attention: &mut [T],
    input: &ExplainInput<T>,
    channels: Range<usize>,
    shape: &ScanShape,
) {
    let l = shape.l;
    debug_assert_eq!(attention.len(), 2 * l * l);
    // Few rows are worth the decays that they all need; the last pieces are the longest.
    let rows = par::piece(l, 1, l * l * channels.len() * shape.d_state).max(8);
    par::chunks_mut(attention, rows * 2 * l, |piece, attention| {
        let first = piece * rows;
        let end = first + attention.len() / (2 * l);
        for i in first..end {
            attention[(i - first) * 2 * l..][..2 * (i + 1)].fill(T::zero());
        }
        let mut decays = vec![[T::one(); LANES]; end * shape.d_state];
        for block in channels.clone().step_by(LANES) {
            let width = LANES.min(channels.end - block);
            for (at, decay) in decays.iter_mut().enumerate() {
                let (j, n) = (at / shape.d_state, at % shape.d_state);
                for (d, decay) in (block..block + width).zip(decay) {
                    let x = input.delta[j * shape.d_inner + d] * input.a[d * shape.d_state + n];
                    *decay = x.exp_lane();
                }
            }
            for i in first..end {
                let row = &mut attention[(i - first) * 2 * l..][..2 * (i + 1)];
                attend(row, i, input, block, width, &decays, shape);
            }
        }
        let scale = T::from_f64(channels.len() as f64).recip();
        for i in first..end {
            attention[(i - first) * 2 * l..][..2 * (i + 1)].iter_mut().for_each(|x| *x *= scale);
        }
    });
}

/// Adds some channels' alpha and |alpha| of one i to its row, from j = i down.
fn attend<T: Real>(
    row: &mut [T], // (i + 1, 2)
    i: usize,
    input: &ExplainInput<T>,
    block: usize,
    width: usize,
    decays: &[[T; LANES]], // (L, d_state)
    shape: &ScanShape,
) {
    let &ScanShape { d_inner, d_state, x_dbl_stride, b_offset, c_offset, .. } = shape;
    let c = &input.x_dbl[i * x_dbl_stride + c_offset..][..d_state];
    // C_i and the decay so far.
    let mut r: Vec<[T; LANES]> = c.iter().map(|&c| [c; LANES]).collect();
    for (j, pair) in row.chunks_exact_mut(2).enumerate().rev() {
        let b = &input.x_dbl[j * x_dbl_stride + b_offset..][..d_state];
        let mut alpha = [T::zero(); LANES];
        for ((r, &b), decay) in r.iter_mut().zip(b).zip(&decays[j * d_state..][..d_state]) {
            for lane in 0..LANES {
                alpha[lane] += r[lane] * b;
                r[lane] *= decay[lane];
            }
        }
        for (alpha, &delta) in alpha[..width].iter().zip(&input.delta[j * d_inner + block..]) {
            let alpha = *alpha * delta;
            pair[0] += alpha;
            pair[1] += alpha.abs();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tokens, two channels, one state, worked out by hand.
    #[test]
    fn by_hand() {
        // x_dbl rows are B | C.
        let shape = ScanShape {
            l: 2,
            d_inner: 2,
            d_state: 1,
            x_dbl_stride: 2,
            b_offset: 0,
            c_offset: 1,
            xz_stride: 4,
            z_offset: 2,
        };
        let (x_dbl, a, u) = ([2.0, 3.0, -1.0, 0.5f64], [-1.0, -2.0], [1.0, 2.0, 4.0, -1.0]);
        let delta = [0.5, 0.25, 1.0, 0.5];
        let input = ExplainInput { u: &u, delta: &delta, a: &a, x_dbl: &x_dbl };
        let mut attention = [9.0; 8];
        hidden_attention(&mut attention, &input, 1..2, &shape);
        // (0, 0) = 3 * .25 * 2, (1, 0) = .5 * exp(.5 * -2) * .25 * 2, (1, 1) = .5 * .5 * -1; (0, 1) untouched.
        let e = (-1.0f64).exp();
        assert_eq!(attention, [1.5, 1.5, 9.0, 9.0, 0.25 * e, 0.25 * e, -0.25, 0.25]);
        hidden_attention(&mut attention, &input, 0..2, &shape);
        // Channel 0: 3 * .5 * 2 = 3, .5 * e * .5 * 2 = .5 e, .5 * 1 * -1 = -.5.
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-15, "{got} {want}");
        [2.25, 2.25].iter().zip(&attention[..2]).for_each(|(w, g)| close(*g, *w));
        [0.375 * e, 0.375 * e, -0.375, 0.375].iter().zip(&attention[4..]).for_each(|(w, g)| close(*g, *w));

        let (mut forget, mut energy, mut stats) = ([0.0; 4], [0.0; 4], [0.0; 6]);
        channel_stats(&mut forget, &mut energy, &input, &shape);
        token_stats(&mut stats, &delta, &forget, &energy, 2);
        // h: channel 0 .5 * 2 * 1 = 1, channel 1 .25 * 2 * 2 = 1; then e - 1 * 4 and e + .5.
        close(energy[0], 1.0);
        close(energy[2], (e - 4.0).powi(2));
        close(energy[3], (e + 0.5).powi(2));
        close(stats[0], 0.375);
        close(stats[1], (-0.5f64).exp());
        close(stats[2], 2.0f64.sqrt());
        close(stats[4], e);
        close(stats[5], (energy[2] + energy[3]).sqrt());
    }

    #[test]
    fn nothing_of_no_tokens() {
        let shape = ScanShape::of_layer(0, 3, 2, 1);
        let input = ExplainInput::<f32> { u: &[], delta: &[], a: &[0.0; 6], x_dbl: &[] };
        hidden_attention(&mut [], &input, 0..3, &shape);
        channel_stats(&mut [], &mut [], &input, &shape);
    }
}
