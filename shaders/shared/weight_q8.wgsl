// A weight matrix quantised to 8 bits: rows filled up with zeros to whole blocks of 32 values, (n, k4) quads, k4 = 8 blocks.
// A word of w is a quad: its byte j, two's complement, is value j. A vec4u is half a block.
// scales: block b's, a bf16 (the upper half of an f32), is the low (b even) or the high half (b odd) of word b / 2; blocks
// are counted through all rows: row r's first is r k4 / 8.
@group(0) @binding(1) var<storage, read> w: array<vec4u>;      // (n, k4 / 4)
@group(0) @binding(7) var<storage, read> scales: array<u32>;   // (n k4 / 8) / 2, rounded up

fn weight_scale(block: u32) -> f32 {
    return bitcast<f32>((scales[block / 2u] >> (16u * (block % 2u))) << 16u);
}

fn weight4(i: u32) -> vec4f {
    let word = bitcast<i32>(w[i / 4u][i % 4u]);
    let q = vec4i(word << 24u, word << 16u, word << 8u, word) >> vec4u(24u);
    return vec4f(q) * weight_scale(i / 8u);
}
