//! Twins of the training scan (`shaders/scan_fused_*.wgsl` over several sequences) and of `shaders/backward/scan_backward_*.wgsl`.
//!
//! With s[t] = sum_n C[t] h[t] + D u[t] and y[t] = s[t] silu(z[t]), the adjoint state lambda[t] = dL/dh[t] runs backwards:
//!
//! ```text
//! grad_s[t]     = grad_y[t] silu(z[t])                       grad_z[t] = grad_y[t] s[t] silu'(z[t])
//! lambda[t]     = C[t] grad_s[t] + exp(delta[t+1] A) lambda[t+1]
//! grad_C[t, n]  = sum_d grad_s h[t]                          grad_D    = sum_t grad_s u
//! grad_B[t, n]  = sum_d lambda delta u                       grad_u    = D grad_s + delta sum_n lambda B
//! grad_delta[t] = sum_n lambda (A exp(delta A) h[t-1] + B u)
//! grad_A        = sum_t lambda delta exp(delta A) h[t-1]     grad_h[-1] = exp(delta[0] A) lambda[0]
//! ```

use super::{silu_and_slope, softplus_slope};
use crate::reference::{silu, Real, ScanInput, ScanShape};

/// A scan over several sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainScan {
    /// Sequences, one after the other in every (rows, ..) array.
    pub batch: usize,
    /// `l` is the length of one.
    pub shape: ScanShape,
    /// Selectivity off (linear time invariant, S4D-real: the paper's baseline): `delta` is (d_inner), B is 1 and `x_dbl` is C,
    /// (d_inner, d_state), all of them parameters.
    pub lti: bool,
}

impl TrainScan {
    /// Tokens of all sequences.
    pub fn rows(&self) -> usize {
        self.batch * self.shape.l
    }

    fn delta(&self, row: usize, d: usize) -> usize {
        if self.lti {
            d
        } else {
            row * self.shape.d_inner + d
        }
    }

    fn c(&self, row: usize, d: usize, n: usize) -> usize {
        if self.lti {
            d * self.shape.d_state + n
        } else {
            row * self.shape.x_dbl_stride + self.shape.c_offset + n
        }
    }

    /// Where B is; `None` for 1.
    fn b(&self, row: usize, n: usize) -> Option<usize> {
        (!self.lti).then_some(row * self.shape.x_dbl_stride + self.shape.b_offset + n)
    }
}

/// `y` (rows, d_inner), `ssm_state` (batch, d_inner, d_state): the initial states and, after, the final ones.
pub fn scan_train<T: Real>(y: &mut [T], ssm_state: &mut [T], input: &ScanInput<T>, scan: &TrainScan) {
    let ScanShape { l, d_inner, d_state, xz_stride, z_offset, .. } = scan.shape;
    for (b, states) in ssm_state.chunks_exact_mut((d_inner * d_state).max(1)).enumerate() {
        for row in b * l..(b + 1) * l {
            for d in 0..d_inner {
                let (delta, u) = (input.delta[scan.delta(row, d)], input.u[row * d_inner + d]);
                let mut s = input.d[d] * u;
                for n in 0..d_state {
                    let h = &mut states[d * d_state + n];
                    let b = scan.b(row, n).map_or(T::one(), |i| input.x_dbl[i]);
                    *h = (delta * input.a[d * d_state + n]).exp_lane() * *h + delta * b * u;
                    s += input.x_dbl[scan.c(row, d, n)] * *h;
                }
                y[row * d_inner + d] = s * silu(input.xz[row * xz_stride + z_offset + d]);
            }
        }
    }
}

/// The gradients of a scan's inputs.
#[derive(Debug)]
pub struct ScanGrads<'a, T> {
    /// (rows, d_inner)
    pub u: &'a mut [T],
    /// (rows, d_inner): of delta before its softplus. Not written with `lti`.
    pub dt: &'a mut [T],
    /// (rows, x_dbl_stride): columns B and C are set. With `lti` (d_inner, d_state), of C, added to.
    pub x_dbl: &'a mut [T],
    /// (rows, xz_stride): columns z are set
    pub xz: &'a mut [T],
    /// (d_inner, d_state), added to: of A_log, A = -exp(A_log)
    pub a_log: &'a mut [T],
    /// (d_inner), added to
    pub d: &'a mut [T],
    /// (d_inner), added to: of what is added to delta before its softplus
    pub dt_bias: &'a mut [T],
    /// (batch, d_inner, d_state): the gradient of the final states in, that of the initial states out
    pub state: &'a mut [T],
}

/// `ssm_state` (batch, d_inner, d_state) the initial states, `grad_y` (rows, d_inner).
pub fn scan_backward<T: Real>(
    grads: &mut ScanGrads<T>,
    grad_y: &[T],
    ssm_state: &[T],
    input: &ScanInput<T>,
    scan: &TrainScan,
) {
    let ScanShape { l, d_inner, d_state, x_dbl_stride, b_offset, c_offset, xz_stride, z_offset } = scan.shape;
    if !scan.lti {
        for row in 0..scan.rows() {
            for offset in [b_offset, c_offset] {
                grads.x_dbl[row * x_dbl_stride + offset..][..d_state].fill(T::zero());
            }
        }
    }
    // (l + 1, d_state): the states before and after every token of one channel.
    let mut h = vec![T::zero(); (l + 1) * d_state];
    for (sequence, d) in (0..scan.batch).flat_map(|b| (0..d_inner).map(move |d| (b, d))) {
        let state = (sequence * d_inner + d) * d_state;
        let a = &input.a[d * d_state..][..d_state];
        let b = |row: usize, n: usize| scan.b(row, n).map_or(T::one(), |i| input.x_dbl[i]);
        h[..d_state].copy_from_slice(&ssm_state[state..][..d_state]);
        for t in 0..l {
            let row = sequence * l + t;
            let (delta, u) = (input.delta[scan.delta(row, d)], input.u[row * d_inner + d]);
            for n in 0..d_state {
                h[(t + 1) * d_state + n] = (delta * a[n]).exp_lane() * h[t * d_state + n] + delta * b(row, n) * u;
            }
        }
        // exp(delta[t+1] A) lambda[t+1]: behind the last token, the gradient of the final state.
        let carry = &mut grads.state[state..][..d_state];
        for t in (0..l).rev() {
            let row = sequence * l + t;
            let (delta, u) = (input.delta[scan.delta(row, d)], input.u[row * d_inner + d]);
            let (gate, slope) = silu_and_slope(input.xz[row * xz_stride + z_offset + d]);
            let grad_y = grad_y[row * d_inner + d];
            let grad_s = grad_y * gate;
            let (mut s, mut grad_u, mut grad_delta) = (input.d[d] * u, input.d[d] * grad_s, T::zero());
            for n in 0..d_state {
                let (before, after) = (h[t * d_state + n], h[(t + 1) * d_state + n]);
                let (b, c) = (b(row, n), input.x_dbl[scan.c(row, d, n)]);
                let decay = (delta * a[n]).exp_lane();
                let lambda = c * grad_s + carry[n];
                carry[n] = decay * lambda;
                s += c * after;
                grads.x_dbl[scan.c(row, d, n)] += grad_s * after;
                if let Some(i) = scan.b(row, n) {
                    grads.x_dbl[i] += lambda * delta * u;
                }
                grad_u += delta * lambda * b;
                grad_delta += lambda * (a[n] * decay * before + b * u);
                // dA / dA_log = A
                grads.a_log[d * d_state + n] += lambda * delta * decay * before * a[n];
            }
            let grad_dt = grad_delta * softplus_slope(delta);
            if !scan.lti {
                grads.dt[row * d_inner + d] = grad_dt;
            }
            grads.u[row * d_inner + d] = grad_u;
            grads.xz[row * xz_stride + z_offset + d] = grad_y * s * slope;
            grads.d[d] += grad_s * u;
            grads.dt_bias[d] += grad_dt;
        }
    }
}
