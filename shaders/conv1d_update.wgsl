// One token of conv1d: shift the state by one, put x at its end, convolve (mamba-ssm's causal_conv1d_update).
// Grid: an invocation a channel.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/conv.wgsl"
@group(0) @binding(2) var<storage, read_write> conv_state: array<f32>; // (d_conv, d_inner), oldest first
@group(0) @binding(3) var<storage, read> weight: array<f32>;           // (d_inner, d_conv)
@group(0) @binding(4) var<storage, read_write> u: array<f32>;          // (d_inner)
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;             // (d_inner)
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let d = flat_index(wid, num, lid, 64u);
    if d >= p.d_inner { return; }
    var sum = 0.0;
#if BIAS
    sum = bias[d];
#endif
    for (var j = 0u; j < p.d_conv; j++) {
        var x: f32;
        if j + 1u < p.d_conv {
            x = conv_state[(j + 1u) * p.d_inner + d];
        } else {
            x = f32(xz[p.x_offset + d]);
        }
        conv_state[j * p.d_inner + d] = x;
        sum = fma(weight[d * p.d_conv + j], x, sum);
    }
    u[d] = silu(sum);
}
