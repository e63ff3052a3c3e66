// What matvec reads of a matrix at once: 16 bytes, of f32 a quad.
@group(0) @binding(1) var<storage, read> w: array<vec4u>; // (n, units)

const QUADS: u32 = 1u;

fn unit_scale(i: u32) -> f32 {
    return 1.0;
}

fn unit_times(unit: vec4u, x: array<vec4f, QUADS>) -> f32 {
    return dot(bitcast<vec4f>(unit), x[0]);
}
