// A weight matrix in f16, two values a word, rows padded with zeros to quads: (n, k4) quads.
// Unpacked by unpack2x16float, which every WebGPU device has; the feature shader-f16 is not needed.
@group(0) @binding(1) var<storage, read> w: array<vec2u>;

fn weight4(i: u32) -> vec4f {
    let q = w[i];
    return vec4f(unpack2x16float(q.x), unpack2x16float(q.y));
}
