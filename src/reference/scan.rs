//! Twins of the three rungs of the selective scan, `shaders/scan_sequential.wgsl`, `shaders/scan_blelloch.wgsl` and
//! `shaders/scan_fused.wgsl`: the same function computed in three orders.
//!
//! Mamba (Gu & Dao, arXiv:2312.00752, algorithm 2 and section 3.3): for each channel d and state n
//!
//! ```text
//! h[t] = exp(delta[t, d] A[d, n]) h[t-1] + delta[t, d] B[t, n] u[t, d]
//! y[t, d] = (sum_n C[t, n] h[t, d, n] + D[d] u[t, d]) * silu(z[t, d])
//! ```
//!
//! A step h -> a h + b is the pair (a, b); pairs compose associatively ([`ScanElement::combine`]), which is what lets a
//! scan over time run in parallel (Blelloch, "Prefix sums and their applications", 1990).

use std::ops::Range;

use super::{
    discretise::{discretise_one, silu},
    par, Real,
};

/// The step h -> a h + b of one state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScanElement<T> {
    /// What the state before is multiplied by.
    pub a: T,
    /// What is added to it.
    pub b: T,
}

impl<T: Real> ScanElement<T> {
    /// The step that changes nothing.
    pub fn identity() -> Self {
        Self { a: T::one(), b: T::zero() }
    }

    /// `e0`, the earlier one, and then `e1`: (a1 a0, a1 b0 + b1).
    #[inline(always)]
    pub fn combine(e0: Self, e1: Self) -> Self {
        Self { a: e1.a * e0.a, b: e1.a * e0.b + e1.b }
    }

    /// The state after this step from `h`.
    #[inline(always)]
    pub fn apply(self, h: T) -> T {
        self.a * h + self.b
    }
}

/// Where the scan's inputs lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanShape {
    /// Positions.
    pub l: usize,
    /// Channels.
    pub d_inner: usize,
    /// States a channel.
    pub d_state: usize,
    /// Elements from one row of x_dbl to the next.
    pub x_dbl_stride: usize,
    /// Column of x_dbl where B begins.
    pub b_offset: usize,
    /// Column of x_dbl where C begins.
    pub c_offset: usize,
    /// Elements from one row of xz to the next.
    pub xz_stride: usize,
    /// Column of xz where z begins.
    pub z_offset: usize,
}

impl ScanShape {
    /// As a layer has it: x_dbl is [dt | B | C], xz is [x | z], without gaps.
    pub fn of_layer(l: usize, d_inner: usize, d_state: usize, dt_rank: usize) -> Self {
        Self {
            l,
            d_inner,
            d_state,
            x_dbl_stride: dt_rank + 2 * d_state,
            b_offset: dt_rank,
            c_offset: dt_rank + d_state,
            xz_stride: 2 * d_inner,
            z_offset: d_inner,
        }
    }
}

/// What the scan reads.
#[derive(Clone, Copy, Debug)]
pub struct ScanInput<'a, T> {
    /// (L, d_inner), the convolution's output.
    pub u: &'a [T],
    /// (L, d_inner), step sizes after softplus.
    pub delta: &'a [T],
    /// (d_inner, d_state), -exp(A_log).
    pub a: &'a [T],
    /// (L, x_dbl_stride), rows with B and C.
    pub x_dbl: &'a [T],
    /// (d_inner), the skip connection D.
    pub d: &'a [T],
    /// (L, xz_stride), rows with the gate z.
    pub xz: &'a [T],
}

impl<T: Real> ScanInput<'_, T> {
    fn check(&self, y: &[T], ssm_state: &[T], shape: &ScanShape) {
        let &ScanShape { l, d_inner, d_state, x_dbl_stride, b_offset, c_offset, .. } = shape;
        debug_assert!(x_dbl_stride >= b_offset.max(c_offset) + d_state);
        debug_assert!(shape.xz_stride >= shape.z_offset + d_inner);
        debug_assert_eq!(y.len(), l * d_inner);
        debug_assert_eq!((self.u.len(), self.delta.len()), (y.len(), y.len()));
        debug_assert_eq!((ssm_state.len(), self.a.len()), (d_inner * d_state, d_inner * d_state));
        debug_assert_eq!(self.d.len(), d_inner);
        debug_assert!(self.x_dbl.len() >= l * x_dbl_stride && self.xz.len() >= l * shape.xz_stride);
    }
}

/// The first rung and the oracle: one state after the other in time.
///
/// `y` (L, d_inner), `ssm_state` (d_inner, d_state) the initial state and, after, the final one. With L = 0 it stays.
pub fn scan_sequential<T: Real>(y: &mut [T], ssm_state: &mut [T], input: &ScanInput<T>, shape: &ScanShape) {
    input.check(y, ssm_state, shape);
    for_channels(y, ssm_state, shape, |first, y, h| {
        advance(Some(y), h, &mut [], 0..shape.l, first, input, shape);
    });
}

/// The second rung: the textbook work-efficient scan over materialised pairs, in blocks of `block` (a power of two, at
/// least 2) whose sums are scanned by the same scan. Arguments as [`scan_sequential`].
pub fn scan_blelloch<T: Real>(y: &mut [T], ssm_state: &mut [T], input: &ScanInput<T>, shape: &ScanShape, block: usize) {
    input.check(y, ssm_state, shape);
    let &ScanShape { l, d_inner, d_state, .. } = shape;
    for_channels(y, ssm_state, shape, |first, y, h| {
        // (L) pairs of one state, and (L, d_state) sums over the states of C h.
        let mut pairs = vec![ScanElement::identity(); l];
        for (j, h) in h.chunks_exact_mut(d_state.max(1)).enumerate() {
            let d = first + j;
            for row in y.iter_mut() {
                row[j] = T::zero();
            }
            for (n, h) in h.iter_mut().enumerate() {
                let pair = |t: usize| {
                    let b = input.x_dbl[t * shape.x_dbl_stride + shape.b_offset + n];
                    let i = t * d_inner + d;
                    discretise_one(input.delta[i], input.a[d * d_state + n], b, input.u[i])
                };
                for (t, element) in pairs.iter_mut().enumerate() {
                    *element = pair(t);
                }
                blelloch_exclusive(&mut pairs, block);
                let initial = *h;
                for (t, before) in pairs.iter().enumerate() {
                    *h = ScanElement::combine(*before, pair(t)).apply(initial);
                    let c = input.x_dbl[t * shape.x_dbl_stride + shape.c_offset + n];
                    y[t][j] += c * *h;
                }
            }
            for (t, row) in y.iter_mut().enumerate() {
                row[j] = output(row[j], t, d, input, shape);
            }
        }
    });
}

/// The third rung: pairs live in registers, a chunk of `chunk` positions at a time. Each chunk's product of a (the
/// exponential of A times its sum of delta) and its final state from zero form one pair; Blelloch scans those; then every
/// chunk runs again from its true initial state and writes y. Arguments as [`scan_sequential`].
pub fn scan_fused<T: Real>(y: &mut [T], ssm_state: &mut [T], input: &ScanInput<T>, shape: &ScanShape, chunk: usize) {
    /// Chunk aggregates that are scanned as one block.
    const AGGREGATES: usize = 256;
    input.check(y, ssm_state, shape);
    let &ScanShape { l, d_state, .. } = shape;
    let chunk = chunk.max(1);
    let chunks = l.div_ceil(chunk);
    let times = |i: usize| i * chunk..l.min((i + 1) * chunk);
    for_channels(y, ssm_state, shape, |first, y, h| {
        if chunks <= 1 {
            return advance(Some(y), h, &mut [], 0..l, first, input, shape);
        }
        // (width, d_state, chunks): the last chunk's own pair is not needed by an exclusive scan.
        let mut pairs = vec![ScanElement::identity(); h.len() * chunks];
        let mut from_zero = vec![T::zero(); h.len()];
        let mut delta_sum = vec![T::zero(); y[0].len()];
        for i in 0..chunks - 1 {
            from_zero.fill(T::zero());
            delta_sum.fill(T::zero());
            advance(None, &mut from_zero, &mut delta_sum, times(i), first, input, shape);
            for (s, &b) in from_zero.iter().enumerate() {
                let a = (delta_sum[s / d_state] * input.a[first * d_state + s]).exp_lane();
                pairs[s * chunks + i] = ScanElement { a, b };
            }
        }
        for line in pairs.chunks_exact_mut(chunks) {
            blelloch_exclusive(line, AGGREGATES);
        }
        let initial = h.to_vec();
        for i in 0..chunks {
            for (s, h) in h.iter_mut().enumerate() {
                *h = pairs[s * chunks + i].apply(initial[s]);
            }
            advance(Some(y), h, &mut [], times(i), first, input, shape);
        }
    });
}

/// Replaces every element by the combination of all before it (the first by the identity): up-sweep and down-sweep in
/// blocks of `block` (a power of two, at least 2; the last one padded with identities), whose sums are scanned likewise.
pub fn blelloch_exclusive<T: Real>(elements: &mut [ScanElement<T>], block: usize) {
    debug_assert!(block >= 2 && block.is_power_of_two(), "a block of {block}");
    if elements.is_empty() {
        return;
    }
    let mut tree = vec![ScanElement::identity(); block];
    let mut sums = Vec::with_capacity(elements.len().div_ceil(block));
    for part in elements.chunks_mut(block) {
        tree[..part.len()].copy_from_slice(part);
        tree[part.len()..].fill(ScanElement::identity());
        // Up-sweep: the node at the right end of each span holds the span's combination.
        let mut half = 1;
        while half < block {
            for right in (2 * half - 1..block).step_by(2 * half) {
                tree[right] = ScanElement::combine(tree[right - half], tree[right]);
            }
            half *= 2;
        }
        sums.push(tree[block - 1]);
        // Down-sweep: a node holds what comes before its span; the left child inherits it, the right child has the left
        // child's span behind it.
        tree[block - 1] = ScanElement::identity();
        while half > 1 {
            half /= 2;
            for right in (2 * half - 1..block).step_by(2 * half) {
                let left = tree[right - half];
                tree[right - half] = tree[right];
                tree[right] = ScanElement::combine(tree[right], left);
            }
        }
        part.copy_from_slice(&tree[..part.len()]);
    }
    if sums.len() > 1 {
        blelloch_exclusive(&mut sums, block);
        for (part, &before) in elements.chunks_mut(block).zip(&sums) {
            for element in part {
                *element = ScanElement::combine(before, *element);
            }
        }
    }
}

/// Calls `f(first channel, rows of y for a block of channels, their states)`, blocks over the threads.
fn for_channels<T: Real>(
    y: &mut [T],
    ssm_state: &mut [T],
    shape: &ScanShape,
    f: impl Fn(usize, &mut [&mut [T]], &mut [T]) + Sync + Send,
) {
    let &ScanShape { l, d_inner, d_state, .. } = shape;
    if l == 0 || d_inner == 0 {
        return;
    }
    let width = par::piece(d_inner, 8, 4 * l * d_inner * d_state);
    let mut blocks = par::column_blocks(y, d_inner, d_inner, width);
    if d_state == 0 {
        blocks.iter_mut().enumerate().for_each(|(i, y)| f(i * width, y, &mut []));
        return;
    }
    par::zip_chunks_mut(&mut blocks, 1, ssm_state, width * d_state, |i, y, h| {
        f(i * width, &mut y[0], h);
    });
}

/// The scan over `times` for the channels from `first` on whose states are `h`. With `y`, writes the outputs; without, adds
/// each delta to `delta_sum`.
pub(super) fn advance<T: Real>(
    y: Option<&mut [&mut [T]]>,
    h: &mut [T],
    delta_sum: &mut [T],
    times: Range<usize>,
    first: usize,
    input: &ScanInput<T>,
    shape: &ScanShape,
) {
    #[cfg(target_arch = "x86_64")]
    if super::dots::has_avx2_fma() {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { advance_avx2(y, h, delta_sum, times, first, input, shape) };
    }
    advance_lanes(y, h, delta_sum, times, first, input, shape);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn advance_avx2<T: Real>(
    y: Option<&mut [&mut [T]]>,
    h: &mut [T],
    delta_sum: &mut [T],
    times: Range<usize>,
    first: usize,
    input: &ScanInput<T>,
    shape: &ScanShape,
) {
    advance_lanes(y, h, delta_sum, times, first, input, shape);
}

#[inline(always)]
fn advance_lanes<T: Real>(
    mut y: Option<&mut [&mut [T]]>,
    h: &mut [T],
    delta_sum: &mut [T],
    times: Range<usize>,
    first: usize,
    input: &ScanInput<T>,
    shape: &ScanShape,
) {
    let &ScanShape { d_inner, d_state, .. } = shape;
    for t in times {
        let x_dbl = &input.x_dbl[t * shape.x_dbl_stride..][..shape.x_dbl_stride];
        let b = &x_dbl[shape.b_offset..][..d_state];
        let c = &x_dbl[shape.c_offset..][..d_state];
        match &mut y {
            Some(y) => {
                for (j, y) in y[t].iter_mut().enumerate() {
                    let d = first + j;
                    let i = t * d_inner + d;
                    let a = &input.a[d * d_state..][..d_state];
                    let h = &mut h[j * d_state..][..d_state];
                    step(h, a, b, input.delta[i], input.u[i]);
                    *y = output(product(c, h), t, d, input, shape);
                }
            }
            None => {
                for (j, delta_sum) in delta_sum.iter_mut().enumerate() {
                    let d = first + j;
                    let i = t * d_inner + d;
                    let a = &input.a[d * d_state..][..d_state];
                    let h = &mut h[j * d_state..][..d_state];
                    step(h, a, b, input.delta[i], input.u[i]);
                    *delta_sum += input.delta[i];
                }
            }
        }
    }
}

/// States that are advanced together: one vector register of `f32`.
const LANES: usize = 8;

/// h = dA h + dB u for the states of one channel.
#[inline(always)]
fn step<T: Real>(h: &mut [T], a: &[T], b: &[T], delta: T, u: T) {
    let mut h = h.chunks_exact_mut(LANES);
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for ((h, a), b) in (&mut h).zip(&mut a).zip(&mut b) {
        for lane in 0..LANES {
            h[lane] = discretise_one(delta, a[lane], b[lane], u).apply(h[lane]);
        }
    }
    for ((h, &a), &b) in h.into_remainder().iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *h = discretise_one(delta, a, b, u).apply(*h);
    }
}

/// sum_n C[n] h[n].
#[inline(always)]
pub(super) fn product<T: Real>(c: &[T], h: &[T]) -> T {
    let mut sums = [T::zero(); LANES];
    let (mut c, mut h) = (c.chunks_exact(LANES), h.chunks_exact(LANES));
    for (c, h) in (&mut c).zip(&mut h) {
        for lane in 0..LANES {
            sums[lane] += c[lane] * h[lane];
        }
    }
    let mut sum = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
    for (&c, &h) in c.remainder().iter().zip(h.remainder()) {
        sum += c * h;
    }
    sum
}

/// y = (C h + D u) * silu(z).
#[inline(always)]
fn output<T: Real>(ch: T, t: usize, d: usize, input: &ScanInput<T>, shape: &ScanShape) -> T {
    let z = input.xz[t * shape.xz_stride + shape.z_offset + d];
    (ch + input.d[d] * input.u[t * shape.d_inner + d]) * silu(z)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(a: f64, b: f64) -> ScanElement<f64> {
        ScanElement { a, b }
    }

    #[test]
    fn combine_by_hand_and_its_identity() {
        // h -> 2h + 3, then h -> 5h + 7: 10h + 22. The other way round it would be 10h + 17.
        let (e0, e1) = (element(2.0, 3.0), element(5.0, 7.0));
        assert_eq!(ScanElement::combine(e0, e1), element(10.0, 22.0));
        assert_eq!(ScanElement::combine(e1, e0), element(10.0, 17.0));
        assert_eq!(e1.apply(e0.apply(1.0)), ScanElement::combine(e0, e1).apply(1.0));
        assert_eq!(ScanElement::combine(ScanElement::identity(), e1), e1);
        assert_eq!(ScanElement::combine(e1, ScanElement::identity()), e1);
    }

    #[test]
    fn blelloch_exclusive_by_hand() {
        // h -> h + b counts up; h -> 0 h + b forgets what was before.
        let mut elements = [(1.0, 1.0), (1.0, 2.0), (1.0, 3.0), (0.0, 10.0), (1.0, 4.0)].map(|(a, b)| element(a, b));
        blelloch_exclusive(&mut elements, 2);
        let expected = [(1.0, 0.0), (1.0, 1.0), (1.0, 3.0), (1.0, 6.0), (0.0, 10.0)];
        assert_eq!(elements, expected.map(|(a, b)| element(a, b)));
        blelloch_exclusive::<f64>(&mut [], 2);
    }

    fn elements(len: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<ScanElement<f64>>> {
        let one = (0.0..1.0f64, -2.0..2.0f64).prop_map(|(a, b)| element(a, b));
        prop::collection::vec(one, len)
    }

    proptest! {
        #[test]
        fn combine_is_associative(e in elements(3..=3)) {
            let left = ScanElement::combine(ScanElement::combine(e[0], e[1]), e[2]);
            let right = ScanElement::combine(e[0], ScanElement::combine(e[1], e[2]));
            prop_assert!((left.a - right.a).abs() < 1e-14 && (left.b - right.b).abs() < 1e-14);
        }

        #[test]
        fn blelloch_exclusive_is_the_running_combination(e in elements(0..=70), log_block in 1u32..6) {
            let mut scanned = e.clone();
            blelloch_exclusive(&mut scanned, 1 << log_block);
            let mut before = ScanElement::<f64>::identity();
            for (got, e) in scanned.iter().zip(&e) {
                prop_assert!((got.a - before.a).abs() < 1e-13 && (got.b - before.b).abs() < 1e-13);
                before = ScanElement::combine(before, *e);
            }
        }
    }
}
