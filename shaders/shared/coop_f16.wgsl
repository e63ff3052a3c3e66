// Weights for cooperative matrices, in f16: (n, k4) quads, see weight_f16.wgsl.
@group(0) @binding(1) var<storage, read> w: array<vec4<f16>>;

fn weight4h(i: u32) -> vec4<f16> {
    return w[i];
}
