// A weight matrix in f32, rows padded with zeros to quads: (n, k4) quads.
@group(0) @binding(1) var<storage, read> w: array<vec4f>;

fn weight4(i: u32) -> vec4f {
    return w[i];
}
