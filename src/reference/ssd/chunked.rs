//! Twins of the kernels of the chunked rung, named as mamba-ssm's (`ops/triton/ssd_*.py`):
//! `shaders/ssd_chunk_cumsum.wgsl`,
//! `ssd_bmm_chunk.wgsl`, `ssd_chunk_state.wgsl`, `ssd_state_passing.wgsl` and `ssd_chunk_scan.wgsl`.
//!
//! The block decomposition of the state space dual form (arXiv 2405.21060, section 6 and listing 1): time is cut into
//! chunks, and with c_t the sum of delta A from the chunk's begin to t
//!
//! ```text
//! y[t] = exp(c_t) S_in C[t] + sum_{s <= t} (C[t] . B[s]) exp(c_t - c_s) delta[s] x[s] + D x[t]
//! S_out = exp(c_end) S_in + sum_s exp(c_end - c_s) delta[s] x[s] B[s]^T
//! ```
//!
//! Every array over chunks holds whole ones; what lies behind the last position is zero.

use super::{limited, SsdInput, SsdShape};
use crate::reference::{blelloch_exclusive, softplus, Real, ScanElement};

/// What the chunked rung keeps between its kernels.
#[derive(Clone, Debug)]
pub struct SsdChunks<T> {
    /// Positions a chunk.
    pub chunk: usize,
    /// (n_chunks, heads, chunk), step sizes.
    pub delta: Vec<T>,
    /// (n_chunks, heads, chunk), sums of delta A from the chunk's begin, the position's own included.
    pub cumsum: Vec<T>,
    /// (n_chunks, groups, chunk, chunk), `C[t] . B[s]` for s <= t.
    pub cb: Vec<T>,
    /// (n_chunks, heads, head_dim, d_state), what each chunk adds to the state; after [`ssd_state_passing`], its
    /// initial state.
    pub states: Vec<T>,
}

impl<T: Real> SsdChunks<T> {
    /// For `s.l` positions.
    pub fn new(chunk: usize, s: &SsdShape) -> Self {
        let n = s.l.div_ceil(chunk);
        let zeros = |len: usize| vec![T::zero(); n * len];
        Self {
            chunk,
            delta: zeros(s.heads * chunk),
            cumsum: zeros(s.heads * chunk),
            cb: zeros(s.groups * chunk * chunk),
            states: zeros(s.state_len()),
        }
    }

    fn count(&self, s: &SsdShape) -> usize {
        s.l.div_ceil(self.chunk)
    }
    /// Positions of chunk i.
    fn times(&self, i: usize, s: &SsdShape) -> std::ops::Range<usize> {
        i * self.chunk..s.l.min((i + 1) * self.chunk)
    }
}

/// delta, as [`super::ssd_delta`] has it, and the sums of delta A within each chunk.
///
/// `zxbcdt` (L, zxbcdt_stride), `dt_bias` and `a` (heads). The kernel keeps such a sum as a whole multiple of 16 and
/// what is left, so that differences of large sums are as good as those of small ones.
pub fn ssd_chunk_cumsum<T: Real>(chunks: &mut SsdChunks<T>, zxbcdt: &[T], dt_bias: &[T], a: &[T], s: &SsdShape) {
    for i in 0..chunks.count(s) {
        for h in 0..s.heads {
            let at = (i * s.heads + h) * chunks.chunk;
            let mut sum = T::zero();
            let times = chunks.times(i, s);
            for j in 0..chunks.chunk {
                let t = times.start + j;
                let delta = if t < times.end {
                    limited(softplus(zxbcdt[t * s.zxbcdt_stride + s.dt_offset + h] + dt_bias[h]), s)
                } else {
                    T::zero()
                };
                sum += delta * a[h];
                (chunks.delta[at + j], chunks.cumsum[at + j]) = (delta, sum);
            }
        }
    }
}

/// `C[t] . B[s]` of each chunk and group, for s <= t.
pub fn ssd_bmm_chunk<T: Real>(chunks: &mut SsdChunks<T>, input: &SsdInput<T>, s: &SsdShape) {
    for i in 0..chunks.count(s) {
        let times = chunks.times(i, s);
        for g in 0..s.groups {
            for t in times.clone() {
                for u in times.start..=t {
                    let products = input.c(t, g, s).iter().zip(input.b(u, g, s)).map(|(&c, &b)| c * b);
                    let at = ((i * s.groups + g) * chunks.chunk + t - times.start) * chunks.chunk + u - times.start;
                    chunks.cb[at] = products.fold(T::zero(), |sum, x| sum + x);
                }
            }
        }
    }
}

/// The state that each chunk alone leaves, from a zero one.
pub fn ssd_chunk_state<T: Real>(chunks: &mut SsdChunks<T>, input: &SsdInput<T>, s: &SsdShape) {
    for i in 0..chunks.count(s) {
        let times = chunks.times(i, s);
        for h in 0..s.heads {
            let at = (i * s.heads + h) * chunks.chunk;
            let end = chunks.cumsum[at + chunks.chunk - 1];
            let states = &mut chunks.states[(i * s.heads + h) * s.head_dim * s.d_state..][..s.head_dim * s.d_state];
            states.fill(T::zero());
            for t in times.clone() {
                let j = at + t - times.start;
                let weight = (end - chunks.cumsum[j]).exp_lane() * chunks.delta[j];
                for (row, &x) in states.chunks_exact_mut(s.d_state.max(1)).zip(input.x(t, h, s)) {
                    for (state, &b) in row.iter_mut().zip(input.b(t, s.group(h), s)) {
                        *state += weight * x * b;
                    }
                }
            }
        }
    }
}

/// Carries the states over the chunks: each chunk's own becomes its initial one, `ssm_state` (heads, head_dim, d_state)
/// goes from the initial to the final state. Every state is a scan of pairs (exp(c_end), state) by the same operator as
/// Mamba-1's.
pub fn ssd_state_passing<T: Real>(chunks: &mut SsdChunks<T>, ssm_state: &mut [T], s: &SsdShape) {
    /// Chunks that are scanned as one block.
    const BLOCK: usize = 256;
    let n = chunks.count(s);
    for (lane, state) in ssm_state.iter_mut().enumerate() {
        let h = lane / (s.head_dim * s.d_state);
        let pair = |i: usize| {
            let end = chunks.cumsum[(i * s.heads + h + 1) * chunks.chunk - 1];
            ScanElement { a: end.exp_lane(), b: chunks.states[i * s.state_len() + lane] }
        };
        let mut pairs: Vec<_> = (0..n).map(pair).collect();
        let last = pairs.last().copied();
        blelloch_exclusive(&mut pairs, BLOCK);
        let (initial, mut before) = (*state, *state);
        for (i, pair) in pairs.iter().enumerate() {
            before = pair.apply(initial);
            chunks.states[i * s.state_len() + lane] = before;
        }
        *state = last.map_or(initial, |last| last.apply(before));
    }
}

/// y (L, heads, head_dim) from each chunk's initial state and its own positions.
pub fn ssd_chunk_scan<T: Real>(y: &mut [T], chunks: &SsdChunks<T>, input: &SsdInput<T>, s: &SsdShape) {
    for i in 0..chunks.count(s) {
        let times = chunks.times(i, s);
        for h in 0..s.heads {
            let g = s.group(h);
            let at = (i * s.heads + h) * chunks.chunk;
            let cumsum = &chunks.cumsum[at..][..chunks.chunk];
            let states = &chunks.states[(i * s.heads + h) * s.head_dim * s.d_state..];
            for (j, t) in times.clone().enumerate() {
                let y = &mut y[t * s.d_inner() + h * s.head_dim..][..s.head_dim];
                let from_start = cumsum[j].exp_lane();
                for (p, (y, &x)) in y.iter_mut().zip(input.x(t, h, s)).enumerate() {
                    let products = input.c(t, g, s).iter().zip(&states[p * s.d_state..]).map(|(&c, &state)| c * state);
                    *y = from_start * products.fold(T::zero(), |sum, x| sum + x) + input.d(h, p, s) * x;
                }
                for k in 0..=j {
                    let cb = chunks.cb[((i * s.groups + g) * chunks.chunk + j) * chunks.chunk + k];
                    let weight = cb * (cumsum[j] - cumsum[k]).exp_lane() * chunks.delta[at + k];
                    for (y, &x) in y.iter_mut().zip(input.x(times.start + k, h, s)) {
                        *y += weight * x;
                    }
                }
            }
        }
    }
}

/// The second rung: the kernels above one after the other, in chunks of `chunk` positions. Arguments as
/// [`super::ssd_sequential`], but for delta, which is made here from `zxbcdt` and `dt_bias`.
pub fn ssd_chunked<T: Real>(
    y: &mut [T],
    ssm_state: &mut [T],
    (zxbcdt, dt_bias): (&[T], &[T]),
    input: &SsdInput<T>,
    s: &SsdShape,
    chunk: usize,
) {
    let mut chunks = SsdChunks::new(chunk.max(1), s);
    ssd_chunk_cumsum(&mut chunks, zxbcdt, dt_bias, input.a, s);
    ssd_bmm_chunk(&mut chunks, input, s);
    ssd_chunk_state(&mut chunks, input, s);
    ssd_state_passing(&mut chunks, ssm_state, s);
    ssd_chunk_scan(y, &chunks, input, s);
}
