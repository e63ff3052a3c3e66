// What matvec reads of a matrix at once: 16 bytes, of q4 eight quads, a block. For the layout see weight_q4.wgsl.
@group(0) @binding(1) var<storage, read> w: array<vec4u>;      // (n, units)
@group(0) @binding(7) var<storage, read> scales: array<u32>;   // (n units) / 2, rounded up

const QUADS: u32 = 8u;

fn unit_scale(i: u32) -> f32 {
    return bitcast<f32>((scales[i / 2u] >> (16u * (i % 2u))) << 16u);
}

// The low halves of a word's bytes are a quad, the high halves the next one.
fn pair(word: u32, x0: vec4f, x1: vec4f) -> f32 {
    let low = vec4u(word, word >> 8u, word >> 16u, word >> 24u);
    return dot(vec4f(low & vec4u(15u)) - 8.0, x0) + dot(vec4f((low >> vec4u(4u)) & vec4u(15u)) - 8.0, x1);
}

fn unit_times(unit: vec4u, x: array<vec4f, QUADS>) -> f32 {
    return (pair(unit.x, x[0], x[1]) + pair(unit.y, x[2], x[3])) + (pair(unit.z, x[4], x[5]) + pair(unit.w, x[6], x[7]));
}
