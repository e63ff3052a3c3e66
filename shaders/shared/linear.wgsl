// What matmul and matvec share: y[t, y_offset + j] = epilogue(sum_k x[t, k] w[j, k] + bias[j]), where x is
//   plain (PLAIN): an array (L, x_stride), its first k columns;
//   normalised (NORM, one token): RMSNorm of the residual stream, made as it is read;
//   convolved (CONV, one token): the causal convolution's output, made as it is read; its state is left as it is.
// The last two save a dispatch and a trip through memory where a dispatch costs more than a few thousand operations.
#include "shared/math.wgsl"
#include "${weight}"

struct Params {
    l: u32,        // rows of x and y (tokens)
    k: u32,        // columns of x and w
    n: u32,        // rows of this part of w
    k4: u32,       // quads a row of w takes; of those that are quantised more than hold values
    x_stride: u32,
    y_stride: u32,
    y_offset: u32, // column of y where this part of w begins
    bias_offset: u32,
    d_conv: u32,   // CONV: taps
    eps: f32,      // NORM
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (L, y_stride)
#if BIAS
@group(0) @binding(4) var<storage, read> bias: array<f32>;    // (n of the whole w)
#endif

// Quads that hold values.
fn quads() -> u32 {
    return (p.k + 3u) / 4u;
}

fn store(t: u32, j: u32, sum: f32) {
    var v = sum;
#if BIAS
    v += bias[p.bias_offset + j];
#endif
#if SOFTPLUS
    v = softplus(v);
#endif
    let at = t * p.y_stride + p.y_offset + j;
#if ADD
    v += y[at];
#endif
    y[at] = v;
}

#if PLAIN
@group(0) @binding(2) var<storage, read> x: array<f32>; // (L, x_stride)

// Four neighbours of one row of x; zero past k, so that what lies behind the row (the next one, or nothing) never counts.
fn x4(t: u32, q: u32) -> vec4f {
    let base = t * p.x_stride + 4u * q;
    let left = p.k - min(p.k, 4u * q);
    return vec4f(
        select(0.0, x[base], left > 0u),
        select(0.0, x[base + 1u], left > 1u),
        select(0.0, x[base + 2u], left > 2u),
        select(0.0, x[base + 3u], left > 3u),
    );
}
#endif
#if NORM
@group(0) @binding(2) var<storage, read> residual: array<vec4f>; // (k / 4), k a multiple of 4
@group(0) @binding(5) var<storage, read> norm: array<vec4f>;     // (k / 4)

var<private> norm_scale: f32; // 1 / sqrt(mean(residual^2) + eps)

fn x4(t: u32, q: u32) -> vec4f {
    return residual[q] * norm_scale * norm[q];
}
#endif
#if CONV
@group(0) @binding(2) var<storage, read> xz: array<vec4f>;         // (2 k / 4), k = d_inner a multiple of 4
@group(0) @binding(5) var<storage, read> conv_state: array<vec4f>; // (d_conv, k / 4), oldest first
@group(0) @binding(6) var<storage, read> channels: array<vec4f>;   // (d_conv + 3, k / 4): taps, bias, ...

fn silu4(x: vec4f) -> vec4f {
    return vec4f(silu(x.x), silu(x.y), silu(x.z), silu(x.w));
}

fn x4(t: u32, q: u32) -> vec4f {
    let last = p.d_conv - 1u;
    let row = quads();
    var sum = channels[p.d_conv * row + q];
    for (var j = 0u; j < last; j++) {
        sum = fma(channels[j * row + q], conv_state[(j + 1u) * row + q], sum);
    }
    return silu4(fma(channels[last * row + q], xz[q], sum));
}
#endif
