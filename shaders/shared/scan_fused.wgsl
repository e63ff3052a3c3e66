// What the passes of the fused scan (rung (c)) share.
//
// Several sequences may lie one after the other; each has n_chunks chunks of its own. Time is cut into chunks of p.chunk tokens; an invocation takes one channel through one chunk, its states in registers.
// A workgroup is CHANNELS neighbouring channels of one chunk: they share B and C, which it keeps in workgroup memory for
// STAGE tokens at a time. A chunk's decay needs no running product: over a chunk, prod exp(delta_t A) = exp(A sum delta_t).
//
//   scan_fused_reduce   every chunk from a zero state: its last state and its sum of delta
//   scan_fused_carry    Blelloch over the chunks: each chunk's initial state, and the final state
//   scan_fused_apply    every chunk again from its true initial state, with C, D and the gate
//
// Reduce-then-scan: no pass waits for another workgroup. The (L, d_inner, d_state) states are never written.
#include "shared/scan.wgsl"

// States are held four at a time; what the last quad has too many stays zero.
const QUADS: u32 = (D_STATE + 3u) / 4u;

// Which states of a quad there are.
fn inside4(g: u32) -> vec4<bool> {
    return vec4u(4u * g) + vec4u(0u, 1u, 2u, 3u) < vec4u(D_STATE);
}

// aggregates (batch n_chunks, d_state + 1, d_inner): the chunk's last state from zero, which the carry replaces by the chunk's
// initial state; last, its sum of delta.
fn aggregate(chunk: u32, n: u32, d: u32) -> u32 {
    return (chunk * (D_STATE + 1u) + n) * p.d_inner + d;
}
