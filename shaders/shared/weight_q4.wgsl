// A weight matrix quantised to 4 bits: rows filled up with zeros to whole blocks of 32 values, (n, k4) quads, k4 = 8 blocks.
// A vec4u of w is a block. A word is two quads: value j of the first is the low half of byte j, of the second the high half;
// a value is that less 8, times the scale.
// scales: block b's, a bf16 (the upper half of an f32), is the low (b even) or the high half (b odd) of word b / 2; blocks
// are counted through all rows: row r's first is r k4 / 8.
@group(0) @binding(1) var<storage, read> w: array<vec4u>;      // (n, k4 / 8)
@group(0) @binding(7) var<storage, read> scales: array<u32>;   // (n k4 / 8) / 2, rounded up

fn weight_scale(block: u32) -> f32 {
    return bitcast<f32>((scales[block / 2u] >> (16u * (block % 2u))) << 16u);
}

fn weight4(i: u32) -> vec4f {
    let quad = w[i / 8u][(i / 2u) % 4u] >> (4u * (i % 2u));
    let q = vec4u(quad, quad >> 8u, quad >> 16u, quad >> 24u) & vec4u(15u);
    return (vec4f(q) - 8.0) * weight_scale(i / 8u);
}
