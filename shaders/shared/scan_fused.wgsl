// What the three passes of the fused scan (rung (c)) share.
//
// Time is cut into chunks of p.chunk tokens, an invocation a chunk; a workgroup holds CHUNKS neighbouring chunks (one
// block) of CHANNELS neighbouring channels, so that neighbours in memory are read by neighbouring invocations.
// A chunk's decay needs no running product: over a chunk, prod exp(delta_t A) = exp(A sum delta_t).
//
//   scan_fused_reduce   every chunk from a zero state; Blelloch over the block's chunks: exclusive prefixes and totals
//   scan_fused_carry    over the blocks' totals: each block's initial state, and the final state
//   scan_fused_apply    every chunk again from its true initial state, with C, D and the gate
//
// Reduce-then-scan: no pass waits for another workgroup. The (L, d_inner, d_state) states are never written.
#include "shared/scan.wgsl"

const CHANNELS: u32 = 32u;
const CHUNKS: u32 = 8u;

// aggregates, one buffer of four regions:
//   prefix_h (n_chunks, d_state, d_inner)  state at the chunk's begin, from a zero state at the block's begin
//   prefix_s (n_chunks, d_inner)           sum of delta from the block's begin to the chunk's begin
//   block_h  (n_blocks, d_state, d_inner)  the block's total from zero; after the carry, its initial state
//   block_s  (n_blocks, d_inner)           sum of delta over the block
fn prefix_h(chunk: u32, n: u32, d: u32) -> u32 {
    return (chunk * p.d_state + n) * p.d_inner + d;
}
fn prefix_s(chunk: u32, d: u32) -> u32 {
    return (p.n_chunks * p.d_state + chunk) * p.d_inner + d;
}
fn block_h(block: u32, n: u32, d: u32) -> u32 {
    return (p.n_chunks * (p.d_state + 1u) + block * p.d_state + n) * p.d_inner + d;
}
fn block_s(block: u32, d: u32) -> u32 {
    return (p.n_chunks * (p.d_state + 1u) + p.n_blocks * p.d_state + block) * p.d_inner + d;
}
