//! Twins of Mamba-2's kernels: `shaders/ssd_delta.wgsl`, `shaders/ssd_sequential.wgsl`,
//! `shaders/ssd_state_update.wgsl`; in `chunked`, those that work in chunks.
//!
//! Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, sections 3.1 and 7.1; mamba-ssm's `modules/mamba2.py`): each head h has
//! head_dim channels x_h and a state S of (head_dim, d_state); A is one number a head, B and C belong to a group of
//! heads:
//!
//! ```text
//! S[t] = exp(delta[t, h] A[h]) S[t-1] + delta[t, h] x_h[t] B_g[t]^T
//! y_h[t] = S[t] C_g[t] + D[h] x_h[t],    g = h / (heads / groups)
//! ```

mod chunked;

pub use chunked::{
    ssd_bmm_chunk, ssd_chunk_cumsum, ssd_chunk_scan, ssd_chunk_state, ssd_chunked, ssd_state_passing, SsdChunks,
};

use super::scan::product;
use super::{par, silu, softplus, Real};

/// Where the inputs of Mamba-2's mixer lie. Rows of zxbcdt are [.. z | x, B, C | dt] as in_proj gives them, rows of xbc
/// [x | B | C] as the convolution does; any of them may be wider.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SsdShape {
    /// Positions.
    pub l: usize,
    pub heads: usize,
    /// Channels a head.
    pub head_dim: usize,
    /// States a channel.
    pub d_state: usize,
    /// Groups of neighbouring heads that share B and C; `heads` is a multiple of it.
    pub groups: usize,
    /// Elements from one row of xbc to the next.
    pub xbc_stride: usize,
    /// Column of xbc where x (heads, head_dim) begins.
    pub x_offset: usize,
    /// Column of xbc where B (groups, d_state) begins.
    pub b_offset: usize,
    /// Column of xbc where C (groups, d_state) begins.
    pub c_offset: usize,
    /// Elements from one row of zxbcdt to the next.
    pub zxbcdt_stride: usize,
    /// Column of zxbcdt where z (heads, head_dim) begins.
    pub z_offset: usize,
    /// Column of zxbcdt where dt (heads) begins.
    pub dt_offset: usize,
    /// Smallest and largest delta (mamba-ssm's dt_limit, transformers' time_step_limit).
    pub dt_limit: (f32, f32),
    /// D is (heads, head_dim) instead of (heads).
    pub d_has_hdim: bool,
}

impl SsdShape {
    /// As a layer has it: zxbcdt is [z | x, B, C | dt], xbc is [x | B | C], without gaps; delta without limits.
    pub fn of_layer(l: usize, (heads, head_dim): (usize, usize), d_state: usize, groups: usize) -> Self {
        let d_inner = heads * head_dim;
        let channels = d_inner + 2 * groups * d_state;
        Self {
            l,
            heads,
            head_dim,
            d_state,
            groups,
            xbc_stride: channels,
            x_offset: 0,
            b_offset: d_inner,
            c_offset: d_inner + groups * d_state,
            zxbcdt_stride: d_inner + channels + heads,
            z_offset: 0,
            dt_offset: d_inner + channels,
            dt_limit: (0.0, f32::INFINITY),
            d_has_hdim: false,
        }
    }

    /// The same for tokens whose x, B and C lie in their rows of zxbcdt, at `offset`: where a convolution in place, or an in_proj that
    /// it is part of, leaves them.
    pub fn in_row(self, offset: usize) -> Self {
        Self {
            xbc_stride: self.zxbcdt_stride,
            x_offset: offset,
            b_offset: offset + self.d_inner(),
            c_offset: offset + self.d_inner() + self.groups * self.d_state,
            ..self
        }
    }

    /// heads * head_dim.
    pub fn d_inner(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Channels of the convolution: x, B and C.
    pub fn channels(&self) -> usize {
        self.d_inner() + 2 * self.groups * self.d_state
    }
    /// Elements of the state (heads, head_dim, d_state).
    pub fn state_len(&self) -> usize {
        self.d_inner() * self.d_state
    }
    /// The group of head h.
    pub(super) fn group(&self, h: usize) -> usize {
        h / (self.heads / self.groups)
    }
}

/// What the recurrence reads.
#[derive(Clone, Copy, Debug)]
pub struct SsdInput<'a, T> {
    /// (L, xbc_stride), rows with x, B and C: the convolution's output.
    pub xbc: &'a [T],
    /// (heads), -exp(A_log).
    pub a: &'a [T],
    /// (heads) or (heads, head_dim), the skip connection D.
    pub d: &'a [T],
}

impl<T: Real> SsdInput<'_, T> {
    fn check(&self, y: &[T], ssm_state: &[T], delta: &[T], s: &SsdShape) {
        debug_assert!(s.heads.is_multiple_of(s.groups), "{} heads in {} groups", s.heads, s.groups);
        debug_assert_eq!((y.len(), ssm_state.len()), (s.l * s.d_inner(), s.state_len()));
        debug_assert_eq!((delta.len(), self.a.len()), (s.l * s.heads, s.heads));
        debug_assert_eq!(self.d.len(), if s.d_has_hdim { s.d_inner() } else { s.heads });
        debug_assert!(self.xbc.len() >= s.l * s.xbc_stride);
    }

    fn x(&self, t: usize, h: usize, s: &SsdShape) -> &[T] {
        &self.xbc[t * s.xbc_stride + s.x_offset + h * s.head_dim..][..s.head_dim]
    }
    fn b(&self, t: usize, g: usize, s: &SsdShape) -> &[T] {
        &self.xbc[t * s.xbc_stride + s.b_offset + g * s.d_state..][..s.d_state]
    }
    fn c(&self, t: usize, g: usize, s: &SsdShape) -> &[T] {
        &self.xbc[t * s.xbc_stride + s.c_offset + g * s.d_state..][..s.d_state]
    }
    fn d(&self, h: usize, p: usize, s: &SsdShape) -> T {
        self.d[if s.d_has_hdim { h * s.head_dim + p } else { h }]
    }
}

/// delta = softplus(dt + dt_bias), brought into the limits.
///
/// `delta` (L, heads), `zxbcdt` (L, zxbcdt_stride), `dt_bias` (heads).
pub fn ssd_delta<T: Real>(delta: &mut [T], zxbcdt: &[T], dt_bias: &[T], s: &SsdShape) {
    debug_assert_eq!((delta.len(), dt_bias.len()), (s.l * s.heads, s.heads));
    for (t, delta) in delta.chunks_exact_mut(s.heads.max(1)).enumerate() {
        let dt = &zxbcdt[t * s.zxbcdt_stride + s.dt_offset..][..s.heads];
        for ((delta, &dt), &bias) in delta.iter_mut().zip(dt).zip(dt_bias) {
            *delta = limited(softplus(dt + bias), s);
        }
    }
}

/// Comparisons instead of clamp: NaN has to stay NaN.
fn limited<T: Real>(delta: T, s: &SsdShape) -> T {
    let (low, high) = (T::from_f32(s.dt_limit.0), T::from_f32(s.dt_limit.1));
    let delta = if delta < low { low } else { delta };
    if delta > high {
        high
    } else {
        delta
    }
}

/// The first rung and the oracle: one position after the other.
///
/// `y` (L, heads, head_dim), `ssm_state` (heads, head_dim, d_state) the initial state and, after, the final one;
/// `delta` (L, heads). With L = 0 the state stays.
pub fn ssd_sequential<T: Real>(y: &mut [T], ssm_state: &mut [T], delta: &[T], input: &SsdInput<T>, s: &SsdShape) {
    input.check(y, ssm_state, delta, s);
    let d_inner = s.d_inner();
    if s.l == 0 || d_inner == 0 {
        return;
    }
    // A piece of a head's channels never spans two heads.
    let piece = par::piece(d_inner, 1, 4 * s.l * s.state_len());
    let width = (1..=piece.min(s.head_dim)).rev().find(|w| s.head_dim.is_multiple_of(*w)).unwrap_or(1);
    let mut blocks = par::column_blocks(y, d_inner, d_inner, width);
    // Where the work is too small to share, all blocks are one thread's.
    let together = if piece >= d_inner { blocks.len() } else { 1 };
    if s.d_state == 0 {
        blocks.iter_mut().enumerate().for_each(|(i, y)| advance(y, &mut [], i * width, delta, input, s));
        return;
    }
    par::zip_chunks_mut(&mut blocks, together, ssm_state, together * width * s.d_state, |i, y, state| {
        for (j, (y, state)) in y.iter_mut().zip(state.chunks_mut(width * s.d_state)).enumerate() {
            advance(y, state, (i * together + j) * width, delta, input, s);
        }
    });
}

/// One token: [`ssd_delta`] and [`ssd_sequential`] for rows of one position; with `gate`, y times silu(z) (models
/// without a norm).
///
/// `y` (heads, head_dim), `zxbcdt` and `input.xbc` one row, `dt_bias` (heads); `s.l` is 1.
pub fn ssd_state_update<T: Real>(
    y: &mut [T],
    ssm_state: &mut [T],
    (zxbcdt, dt_bias): (&[T], &[T]),
    input: &SsdInput<T>,
    gate: bool,
    s: &SsdShape,
) {
    debug_assert_eq!(s.l, 1);
    let mut delta = vec![T::zero(); s.heads];
    ssd_delta(&mut delta, zxbcdt, dt_bias, s);
    ssd_sequential(y, ssm_state, &delta, input, s);
    if gate {
        for (y, &z) in y.iter_mut().zip(&zxbcdt[s.z_offset..]) {
            *y *= silu(z);
        }
    }
}

/// All positions for neighbouring channels of one head, the first of them `first` of d_inner; `y` their columns.
fn advance<T: Real>(y: &mut [&mut [T]], state: &mut [T], first: usize, delta: &[T], input: &SsdInput<T>, s: &SsdShape) {
    #[cfg(target_arch = "x86_64")]
    if super::dots::has_avx2_fma() {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { advance_avx2(y, state, first, delta, input, s) };
    }
    advance_lanes(y, state, first, delta, input, s);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn advance_avx2<T: Real>(
    y: &mut [&mut [T]],
    state: &mut [T],
    first: usize,
    delta: &[T],
    input: &SsdInput<T>,
    s: &SsdShape,
) {
    advance_lanes(y, state, first, delta, input, s);
}

#[inline(always)]
fn advance_lanes<T: Real>(
    y: &mut [&mut [T]],
    state: &mut [T],
    first: usize,
    delta: &[T],
    input: &SsdInput<T>,
    s: &SsdShape,
) {
    let (h, p0) = (first / s.head_dim, first % s.head_dim);
    let g = s.group(h);
    for (t, y) in y.iter_mut().enumerate() {
        let (x, b, c) = (input.x(t, h, s), input.b(t, g, s), input.c(t, g, s));
        let delta = delta[t * s.heads + h];
        let decay = (delta * input.a[h]).exp_lane();
        for (j, y) in y.iter_mut().enumerate() {
            let x = x[p0 + j];
            let state = &mut state[j * s.d_state..][..s.d_state];
            let added = delta * x;
            for (state, &b) in state.iter_mut().zip(b) {
                *state = decay * *state + added * b;
            }
            *y = product(c, state) + input.d(h, p0 + j, s) * x;
        }
    }
}

#[cfg(test)]
mod tests;
