// What matvec reads of a matrix at once: 16 bytes, of q8 four quads, half a block. For the layout see weight_q8.wgsl.
@group(0) @binding(1) var<storage, read> w: array<vec4u>;      // (n, units)
@group(0) @binding(7) var<storage, read> scales: array<u32>;   // (n units / 2) / 2, rounded up

const QUADS: u32 = 4u;

// Of the unit's block.
fn unit_scale(i: u32) -> f32 {
    return bitcast<f32>((scales[i / 4u] >> (16u * ((i / 2u) % 2u))) << 16u);
}

fn quad(word: u32) -> vec4f {
    let w = bitcast<i32>(word);
    return vec4f(vec4i(w << 24u, w << 16u, w << 8u, w) >> vec4u(24u));
}

fn unit_times(unit: vec4u, x: array<vec4f, QUADS>) -> f32 {
    return (dot(quad(unit.x), x[0]) + dot(quad(unit.y), x[1])) + (dot(quad(unit.z), x[2]) + dot(quad(unit.w), x[3]));
}
