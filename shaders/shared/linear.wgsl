// What matmul and matvec share: y[t, y_offset + j] = epilogue(sum_k x[t, x_offset + k] w[j, k] + bias[j]).
#include "shared/math.wgsl"
#include "${weight}"

struct Params {
    l: u32,        // rows of x and y (tokens)
    k: u32,        // columns of x and w
    n: u32,        // rows of this part of w
    k4: u32,       // quads a row of w
    x_stride: u32,
    x_offset: u32, // first element of x
    y_stride: u32,
    y_offset: u32, // column of y where this part of w begins
    bias_offset: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;       // (L, x_stride)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (L, y_stride)
#if BIAS
@group(0) @binding(4) var<storage, read> bias: array<f32>;    // (n of the whole w)
#endif

fn store(t: u32, j: u32, sum: f32) {
    var v = sum;
#if BIAS
    v += bias[p.bias_offset + j];
#endif
#if SOFTPLUS
    v = softplus(v);
#endif
    y[t * p.y_stride + p.y_offset + j] = v;
}

// Four neighbours of one row of x; zero past k, so that what lies behind the row (the next one, or nothing) never counts.
fn x4(t: u32, q: u32) -> vec4f {
    let base = p.x_offset + t * p.x_stride + 4u * q;
    let left = p.k - min(p.k, 4u * q);
    return vec4f(
        select(0.0, x[base], left > 0u),
        select(0.0, x[base + 1u], left > 1u),
        select(0.0, x[base + 2u], left > 2u),
        select(0.0, x[base + 3u], left > 3u),
    );
}
