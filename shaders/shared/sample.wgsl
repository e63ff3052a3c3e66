// Sampling: what its kernels share. A token's mass is exp((value - top) / temperature) in units of 2^-31: sums of whole
// numbers are the same in any order, so that every workgroup may add to the same histogram and every run gives the same
// token.
#include "shared/argmax.wgsl"
#include "shared/wide.wgsl"

struct Params {
    vocab_size: u32,
    per: u32,                // tokens an invocation; WG * per neighbours are a workgroup's block
    groups: u32,             // blocks, at most WG
    sharpness: f32,          // 1 / temperature; unused when greedy
    repetition_penalty: f32, // 1: off
    log_min_p: f32,          // temperature ln(min_p); very negative: off
    top_k: u32,
    top_p: u32,              // in units of 2^-32, at least 1
    slot: u32,               // rounds of selection before this dispatch; for the first dispatch, all there will be
    by_mass: u32,            // bit f: filter f (rounds 3 f to 3 f + 2) is top-p; else top-k
    seed_low: u32,
    seed_high: u32,
}
struct Block {
    best: vec2u, // its largest value: (argmax_key_of(value), id)
    mass: vec2u, // of its kept tokens
}
// What passes from one dispatch to the next.
struct Work {
    blocks: array<Block, WG>,
    found: array<vec4u, 6>, // before each round: (key's digits so far, what is to be reached within them (low, high), floor)
}
@group(0) @binding(0) var<uniform> p: Params;

// The difference is taken before it is divided: no temperature, however small, makes an infinity of the largest value.
fn mass_of(x: f32, top: f32) -> u32 {
    return u32(exp(max((x - top) * p.sharpness, -100.0)) * 0x1p31 + 0.5);
}
