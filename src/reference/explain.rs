//! Twins of `shaders/channel_stats.wgsl`, `shaders/token_stats.wgsl` and `shaders/hidden_attention.wgsl`.

use std::ops::Range;

use super::scan::product;
use super::{par, Real, ScanElement, ScanShape, SsdShape};

/// Units that [`hidden_attention`] takes side by side.
const LANES: usize = 16;

/// Where the inputs of what is explained lie. A unit is what has one delta, and one alpha, a token: a channel of Mamba-1, a
/// head of Mamba-2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExplainShape {
    /// Positions.
    pub l: usize,
    pub units: usize,
    /// Channels of a unit: 1, or head_dim.
    pub width: usize,
    /// States a channel.
    pub d_state: usize,
    /// Groups of neighbouring units that share B and C; `units` is a multiple of it.
    pub groups: usize,
    /// A is one number a unit (Mamba-2) instead of one a state.
    pub heads: bool,
    /// Elements from one row of u to the next.
    pub u_stride: usize,
    /// Column of u where its channels begin.
    pub u_offset: usize,
    /// Elements from one row of B and C to the next.
    pub bc_stride: usize,
    /// Column where B (groups, d_state) begins.
    pub b_offset: usize,
    /// Column where C (groups, d_state) begins.
    pub c_offset: usize,
}

impl From<&ScanShape> for ExplainShape {
    fn from(s: &ScanShape) -> Self {
        Self {
            l: s.l,
            units: s.d_inner,
            width: 1,
            d_state: s.d_state,
            groups: 1,
            heads: false,
            u_stride: s.d_inner,
            u_offset: 0,
            bc_stride: s.x_dbl_stride,
            b_offset: s.b_offset,
            c_offset: s.c_offset,
        }
    }
}

impl From<&SsdShape> for ExplainShape {
    fn from(s: &SsdShape) -> Self {
        Self {
            l: s.l,
            units: s.heads,
            width: s.head_dim,
            d_state: s.d_state,
            groups: s.groups,
            heads: true,
            u_stride: s.xbc_stride,
            u_offset: s.x_offset,
            bc_stride: s.xbc_stride,
            b_offset: s.b_offset,
            c_offset: s.c_offset,
        }
    }
}

impl ExplainShape {
    /// units * width.
    pub fn channels(&self) -> usize {
        self.units * self.width
    }

    /// Units that share B and C.
    pub(crate) fn group_units(&self) -> usize {
        (self.units / self.groups.max(1)).max(1)
    }

    /// Numbers of A a unit.
    fn rates(&self) -> usize {
        if self.heads {
            1
        } else {
            self.d_state
        }
    }

    /// Runs of some units, of at most `most` and each within a group, with the group.
    pub(crate) fn runs(&self, units: Range<usize>, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (group, most) = (self.group_units(), most.max(1));
        let mut at = units.start;
        std::iter::from_fn(move || {
            let g = at / group;
            let run = at..units.end.min((g + 1) * group).min(at + most);
            at = run.end;
            (!run.is_empty()).then_some((g, run))
        })
    }
}

/// What of a layer is explained.
#[derive(Clone, Copy, Debug)]
pub struct ExplainInput<'a, T> {
    /// (L, u_stride), rows with the channels' inputs: u, or x of xBC.
    pub u: &'a [T],
    /// (L, units), after softplus and limits.
    pub delta: &'a [T],
    /// (units, d_state) or, with `heads`, (units), -exp(A_log).
    pub a: &'a [T],
    /// (L, bc_stride), rows with B and C.
    pub bc: &'a [T],
}

/// forget = mean_n exp(delta A_n) of every token and unit, and energy = sum_n h_n^2 of every token and channel, from the zero
/// state.
///
/// `forget` (L, units), `energy` (L, units * width).
pub fn channel_stats<T: Real>(forget: &mut [T], energy: &mut [T], input: &ExplainInput<T>, shape: &ExplainShape) {
    let &ExplainShape { l, units, width, d_state, .. } = shape;
    let (channels, rates) = (shape.channels(), shape.rates());
    debug_assert_eq!((forget.len(), energy.len()), (l * units, l * channels));
    let (mut h, mut decays) = (vec![T::zero(); channels * d_state], vec![T::zero(); rates]);
    for t in 0..l {
        for unit in 0..units {
            let delta = input.delta[t * units + unit];
            let a = &input.a[unit * rates..][..rates];
            decays.iter_mut().zip(a).for_each(|(decay, &a)| *decay = (delta * a).exp_lane());
            let left = decays.iter().fold(T::zero(), |sum, &decay| sum + decay);
            forget[t * units + unit] = left / T::from_f64(rates as f64);
            let row = t * shape.bc_stride + shape.b_offset + unit / shape.group_units() * d_state;
            let b = &input.bc[row..][..d_state];
            for channel in unit * width..(unit + 1) * width {
                let u = input.u[t * shape.u_stride + shape.u_offset + channel];
                let mut sum = T::zero();
                let states = h[channel * d_state..][..d_state].iter_mut();
                for ((h, &a), &b) in states.zip(decays.iter().cycle()).zip(b) {
                    *h = ScanElement { a, b: delta * u * b }.apply(*h);
                    sum += *h * *h;
                }
                energy[t * channels + channel] = sum;
            }
        }
    }
}

/// Each token's mean delta, mean forget and norm of the state (the root of its energies' sum).
///
/// `stats` (L, 3), `delta`, `forget` (L, units), `energy` (L, units * width).
pub fn token_stats<T: Real>(stats: &mut [T], delta: &[T], forget: &[T], energy: &[T], shape: &ExplainShape) {
    let &ExplainShape { units, width, .. } = shape;
    debug_assert_eq!((stats.len() * units, energy.len()), (3 * delta.len(), delta.len() * width));
    let sum = |values: &[T], t: usize, n: usize| values[t * n..][..n].iter().fold(T::zero(), |sum, &x| sum + x);
    let count = T::from_f64(units as f64);
    for (t, stats) in stats.chunks_exact_mut(3).enumerate() {
        stats[0] = sum(delta, t, units) / count;
        stats[1] = sum(forget, t, units) / count;
        stats[2] = sum(energy, t, units * width).sqrt();
    }
}

/// alpha(i, j) = sum_n C_i,n (prod_{k = j+1 .. i} exp(delta_k A_n)) delta_j B_j,n, as the mean over some units of alpha and of
/// |alpha|. What lies above the diagonal stays as it is.
///
/// `attention` (L, L, 2).
pub fn hidden_attention<T: Real>(
    attention: &mut [T],
    input: &ExplainInput<T>,
    units: Range<usize>,
    shape: &ExplainShape,
) {
    let (l, rates) = (shape.l, shape.rates());
    debug_assert_eq!(attention.len(), 2 * l * l);
    // Few rows are worth the decays that they all need; the last pieces are the longest.
    let rows = par::piece(l, 1, l * l * units.len() * shape.d_state).max(8);
    par::chunks_mut(attention, rows * 2 * l, |piece, attention| {
        let first = piece * rows;
        let end = first + attention.len() / (2 * l);
        for i in first..end {
            attention[(i - first) * 2 * l..][..2 * (i + 1)].fill(T::zero());
        }
        let mut decays = vec![[T::one(); LANES]; end * rates];
        for (group, run) in shape.runs(units.clone(), LANES) {
            for (at, decay) in decays.iter_mut().enumerate() {
                let (j, n) = (at / rates, at % rates);
                for (unit, decay) in run.clone().zip(decay) {
                    let x = input.delta[j * shape.units + unit] * input.a[unit * rates + n];
                    *decay = x.exp_lane();
                }
            }
            for i in first..end {
                let row = &mut attention[(i - first) * 2 * l..][..2 * (i + 1)];
                attend(row, i, input, (group, &run), &decays, shape);
            }
        }
        let scale = T::from_f64(units.len() as f64).recip();
        for i in first..end {
            attention[(i - first) * 2 * l..][..2 * (i + 1)].iter_mut().for_each(|x| *x *= scale);
        }
    });
}

/// Adds some units' alpha and |alpha| of one i to its row, from j = i down.
fn attend<T: Real>(
    row: &mut [T], // (i + 1, 2)
    i: usize,
    input: &ExplainInput<T>,
    (group, run): (usize, &Range<usize>),
    decays: &[[T; LANES]], // (L, rates)
    shape: &ExplainShape,
) {
    let &ExplainShape { units, d_state, bc_stride, b_offset, c_offset, heads, .. } = shape;
    let of = |t: usize, offset: usize| &input.bc[t * bc_stride + offset + group * d_state..][..d_state];
    let c = of(i, c_offset);
    // C_i and the decay so far; of heads, which decay alike in all states, the decay alone.
    let mut r: Vec<[T; LANES]> = if heads { vec![[T::one(); LANES]] } else { c.iter().map(|&c| [c; LANES]).collect() };
    for (j, pair) in row.chunks_exact_mut(2).enumerate().rev() {
        let b = of(j, b_offset);
        let product = if heads { [product(c, b)] } else { [T::zero()] };
        let b = if heads { &product } else { b };
        let mut alpha = [T::zero(); LANES];
        for ((r, &b), decay) in r.iter_mut().zip(b).zip(&decays[j * shape.rates()..]) {
            for lane in 0..LANES {
                alpha[lane] += r[lane] * b;
                r[lane] *= decay[lane];
            }
        }
        for (alpha, &delta) in alpha[..run.len()].iter().zip(&input.delta[j * units + run.start..]) {
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
        let shape = &ExplainShape::from(&ScanShape {
            l: 2,
            d_inner: 2,
            d_state: 1,
            x_dbl_stride: 2,
            b_offset: 0,
            c_offset: 1,
            xz_stride: 4,
            z_offset: 2,
        });
        let (x_dbl, a, u) = ([2.0, 3.0, -1.0, 0.5f64], [-1.0, -2.0], [1.0, 2.0, 4.0, -1.0]);
        let delta = [0.5, 0.25, 1.0, 0.5];
        let input = ExplainInput { u: &u, delta: &delta, a: &a, bc: &x_dbl };
        let mut attention = [9.0; 8];
        hidden_attention(&mut attention, &input, 1..2, shape);
        // (0, 0) = 3 * .25 * 2, (1, 0) = .5 * exp(.5 * -2) * .25 * 2, (1, 1) = .5 * .5 * -1; (0, 1) untouched.
        let e = (-1.0f64).exp();
        assert_eq!(attention, [1.5, 1.5, 9.0, 9.0, 0.25 * e, 0.25 * e, -0.25, 0.25]);
        hidden_attention(&mut attention, &input, 0..2, shape);
        // Channel 0: 3 * .5 * 2 = 3, .5 * e * .5 * 2 = .5 e, .5 * 1 * -1 = -.5.
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-15, "{got} {want}");
        [2.25, 2.25].iter().zip(&attention[..2]).for_each(|(w, g)| close(*g, *w));
        [0.375 * e, 0.375 * e, -0.375, 0.375].iter().zip(&attention[4..]).for_each(|(w, g)| close(*g, *w));

        let (mut forget, mut energy, mut stats) = ([0.0; 4], [0.0; 4], [0.0; 6]);
        channel_stats(&mut forget, &mut energy, &input, shape);
        token_stats(&mut stats, &delta, &forget, &energy, shape);
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
        let shape = ExplainShape::from(&ScanShape::of_layer(0, 3, 2, 1));
        let input = ExplainInput::<f32> { u: &[], delta: &[], a: &[0.0; 6], bc: &[] };
        hidden_attention(&mut [], &input, 0..3, &shape);
        channel_stats(&mut [], &mut [], &input, &shape);
    }

    /// Two tokens, two heads of two channels, a group each, two states, worked out by hand.
    #[test]
    fn heads_by_hand() {
        let shape = &ExplainShape::from(&SsdShape::of_layer(2, (2, 2), 2, 2));
        // Rows are x of both heads, B of both groups, C of both.
        let xbc = [
            [1.0, 2.0, 3.0, -1.0, 2.0, 0.5, 1.0, -1.0, 1.0, 2.0, 3.0, 1.0],
            [4.0, -2.0, 1.0, 0.5, 1.0, -1.0, 2.0, 1.0, 0.5, 1.0, -1.0, 2.0f64],
        ];
        let (delta, a) = ([0.5, 0.25, 1.0, 0.5], [-1.0, -2.0]);
        let input = ExplainInput { u: xbc.as_flattened(), delta: &delta, a: &a, bc: xbc.as_flattened() };
        let (e, mut attention) = ((-1.0f64).exp(), [9.0; 8]);
        hidden_attention(&mut attention, &input, 0..1, shape);
        // (0, 0) = (1 * 2 + 2 * .5) .5, (1, 0) = (.5 * 2 + 1 * .5) e .5, (1, 1) = (.5 * 1 - 1) 1.
        assert_eq!(attention, [1.5, 1.5, 9.0, 9.0, 0.75 * e, 0.75 * e, -0.5, 0.5]);
        hidden_attention(&mut attention, &input, 0..2, shape);
        // The second: (3 - 1) .25, (-1 - 2) e .25, (-2 + 2) .5.
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-15, "{got} {want}");
        [1.0, 1.0].iter().zip(&attention[..2]).for_each(|(w, g)| close(*g, *w));
        [0.0, 0.75 * e, -0.25, 0.25].iter().zip(&attention[4..]).for_each(|(w, g)| close(*g, *w));

        let (mut forget, mut energy, mut stats) = ([0.0; 4], [0.0; 8], [0.0; 6]);
        channel_stats(&mut forget, &mut energy, &input, shape);
        token_stats(&mut stats, &delta, &forget, &energy, shape);
        forget.iter().zip([(-0.5f64).exp(), (-0.5f64).exp(), e, e]).for_each(|(g, w)| close(*g, w));
        // h after the first token: x (1, 2) and (3, -1), times delta and B: (1, .25), (2, .5); (.75, -.75), (-.25, .25).
        [1.0625, 4.25, 1.125, 0.125].iter().zip(&energy).for_each(|(w, g)| close(*g, *w));
        // Of the second head after the second: e h + .5 x (2, 1) with x (1, .5).
        close(energy[6], (0.75 * e + 1.0).powi(2) + (0.5 - 0.75 * e).powi(2));
        close(energy[7], (0.5 - 0.25 * e).powi(2) + (0.25 * e + 0.25).powi(2));
        close(stats[2], 6.5625f64.sqrt());
        close(stats[3], 0.75);
        close(stats[4], e);
    }

    #[test]
    fn runs_end_where_groups_do() {
        let shape = ExplainShape::from(&SsdShape::of_layer(1, (12, 1), 1, 3));
        let runs: Vec<_> = shape.runs(2..12, 3).collect();
        assert_eq!(runs, [(0, 2..4), (1, 4..7), (1, 7..8), (2, 8..11), (2, 11..12)]);
        assert_eq!(shape.runs(5..5, 3).count(), 0);
    }
}
