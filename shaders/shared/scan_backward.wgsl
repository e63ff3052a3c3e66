// What the two passes of the scan's gradient share. The adjoint state lambda[t] = dL/dh[t] is a scan against time:
//   lambda[t] = C[t] grad_s[t] + exp(delta[t+1] A) lambda[t+1],   grad_s = grad_y silu(z)
// in the same three steps as the fused scan, over chunks of CHUNK tokens, the same as scan_train's:
//   scan_backward_reduce   every chunk from a zero adjoint: exp(delta A) lambda of its first token, and its sum of delta
//   scan_fused_carry       over the chunks, which reduce has put down last chunk first: each chunk's adjoint from behind
//   scan_backward_apply    every chunk again: states from the chunk's initial state (scan_train kept it), then all gradients
// With LTI (no selectivity), delta is (d_inner), B is 1 and C is (d_inner, d_state).
#include "shared/scan_fused.wgsl"

const LOG2_E: f32 = 1.44269504;

// The chunk as reduce has put it down: last one first, within its sequence.
fn reversed(chunk: u32) -> u32 {
    return chunk / p.n_chunks * p.n_chunks + p.n_chunks - 1u - chunk % p.n_chunks;
}
