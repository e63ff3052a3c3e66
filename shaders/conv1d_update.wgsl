// A token of each of some texts through conv1d, in place: shift its state by one, put x at the end, convolve (mamba-ssm's
// causal_conv1d_update). Grid: an invocation a channel of a row.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/texts.wgsl"
struct Params {
    rows: u32,
    d_inner: u32,
    d_conv: u32,
    x_stride: u32, // columns of xz
    x_offset: u32, // column of xz where x begins, in and out
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> xz: array<f32>;         // (rows, x_stride)
@group(0) @binding(2) var<storage, read_write> conv_state: array<f32>; // (slots, d_conv, d_inner), oldest first
@group(0) @binding(3) var<storage, read> weight: array<f32>;           // (d_inner, d_conv)
@group(0) @binding(4) var<storage, read> texts: array<Text>;           // (rows)
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;             // (d_inner)
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    if i >= p.rows * p.d_inner { return; }
    let d = i % p.d_inner;
    let row = i / p.d_inner;
    let x_at = row * p.x_stride + p.x_offset + d;
    let state = texts[row].slot * p.d_conv * p.d_inner + d;
    var sum = 0.0;
#if BIAS
    sum = bias[d];
#endif
    for (var j = 0u; j < p.d_conv; j++) {
        var x: f32;
        if j + 1u < p.d_conv {
            x = conv_state[state + (j + 1u) * p.d_inner];
        } else {
            x = xz[x_at];
        }
        conv_state[state + j * p.d_inner] = x;
        sum = fma(weight[d * p.d_conv + j], x, sum);
    }
    xz[x_at] = silu(sum);
}
