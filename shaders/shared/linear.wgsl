// What matmul and matvec share: y[t, y_offset + j] = epilogue(sum_k x[t, k] w[j, k] + bias[j]).
#include "shared/math.wgsl"

struct Params {
    l: u32,          // rows of x and y (tokens)
    k: u32,          // columns of x and w
    n: u32,          // rows of this part of w
    k4: u32,         // quads a row of w takes; of those that are quantised more than hold values
    x_stride: u32,
    y_stride: u32,
    y_offset: u32,   // column of y where this part of w begins
    bias_offset: u32,
    eps: f32,        // NORM
    conv_first: u32, // CONV: the first row of the whole w that the convolution takes,
    conv_count: u32, //   and how many it does
    tile: u32,       // matmul, matmul_coop: the first tile of outputs
    split: u32,      // matmul_few: quads along k that a split takes; matmul_sum: how many splits there are
    whole_n: u32,    // SCALED: rows of the whole w
    gate_scale: f32, // PAIR: what the gate is multiplied by before its activation
    scale: f32,      // PAIR, ALONE: what comes of the activation is multiplied by
    expert: u32,     // EXPERTS: the first one that this dispatch is for,
    part: u32,       //   the first one that this part of w has,
    tiles: u32,      //   matmul: tiles of tokens that an expert may have; matvec: how many experts this part has,
    chosen: u32,     //   and experts a row of x is for
}
@group(0) @binding(0) var<uniform> p: Params;
#if BIAS
@group(0) @binding(4) var<storage, read> bias: array<f32>;    // (n of the whole w); SCALED: and as many factors
#endif

// Quads that hold values.
fn quads() -> u32 {
    return (p.k + 3u) / 4u;
}

// What is stored for a sum.
fn epilogue(j: u32, sum: f32) -> f32 {
    var v = sum;
#if BIAS
    v += bias[p.bias_offset + j];
#endif
#if SCALED
    v *= bias[p.whole_n + p.bias_offset + j];
#endif
#if SOFTPLUS
    v = softplus(v);
#endif
    return v;
}
