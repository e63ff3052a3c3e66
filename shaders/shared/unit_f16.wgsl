// What matvec reads of a matrix at once: 16 bytes, of f16 two quads; rows are filled up to whole units.
// Unpacked by unpack2x16float, which every WebGPU device has.
@group(0) @binding(1) var<storage, read> w: array<vec4u>; // (n, units)

const QUADS: u32 = 2u;

fn unit_scale(i: u32) -> f32 {
    return 1.0;
}

fn unit_times(unit: vec4u, x: array<vec4f, QUADS>) -> f32 {
    let first = dot(vec4f(unpack2x16float(unit.x), unpack2x16float(unit.y)), x[0]);
    return first + dot(vec4f(unpack2x16float(unit.z), unpack2x16float(unit.w)), x[1]);
}
