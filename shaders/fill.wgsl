// Numbers to measure with, made where they are read: pseudo-random values counted by their place, the same on every adapter.
// Grid: an invocation a word. A row's words beyond its last value hold zeros (of 4-bit weights, eights).
#include "shared/grid.wgsl"

struct Params {
    words: u32,
    row_words: u32,  // words a row
    row_values: u32, // values a row
    kind: u32,       // 0: f32; 1: f16, two a word; 2: 8-bit and 3: 4-bit weights, four and eight a word; 4: their scales, bf16, two
    seed: u32,
    low: f32,        // of a scale: the least
    span: f32,       // what is added at most; a scale is up to a quarter larger than the least
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> words: array<u32>; // (words)

// The i-th 32 random bits: PCG's output permutation as a hash (Jarzynski and Olano, "Hash Functions for GPU Rendering", 2020).
fn bits(i: u32) -> u32 {
    let state = (i ^ p.seed) * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

// A value in [low, low + span).
fn value(i: u32) -> f32 {
    return p.low + p.span * (f32(bits(i) >> 8u) * (1.0 / 16777216.0));
}

// The signed bytes of a word, -128 made -127.
fn whole(random: u32) -> u32 {
    var word = 0u;
    for (var j = 0u; j < 4u; j++) {
        let byte = (random >> (8u * j)) & 255u;
        word |= select(byte, 129u, byte == 128u) << (8u * j);
    }
    return word;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    if i >= p.words { return; }
    let column = i % p.row_words;
    let random = bits(i);
    var word = 0u;
    switch p.kind {
        case 0u: {
            if column < p.row_values { word = bitcast<u32>(value(i)); }
        }
        case 1u: {
            let pair = vec2f(value(2u * i), value(2u * i + 1u));
            let kept = vec2u(2u * column, 2u * column + 1u) < vec2u(p.row_values);
            word = pack2x16float(select(vec2f(0.0), pair, kept));
        }
        case 2u: {
            for (var j = 0u; j < 4u; j++) {
                if 4u * column + j < p.row_values { word |= whole(random) & (255u << (8u * j)); }
            }
        }
        case 3u: {
            // Byte j holds value j in its low half and value 4 + j in its high half.
            for (var j = 0u; j < 8u; j++) {
                let at = 8u * (j % 4u) + 4u * (j / 4u);
                let nibble = select(8u, (random >> at) & 15u, 8u * column + j < p.row_values);
                word |= nibble << at;
            }
        }
        default: {
            let least = bitcast<u32>(p.low) >> 16u;
            word = (least + (random & 31u)) | ((least + ((random >> 5u) & 31u)) << 16u);
        }
    }
    words[i] = word;
}
