// Causal depthwise convolution over time, bias and SiLU (Mamba paper, figure 3):
//   u[t, d] = silu(bias[d] + sum_j weight[d, j] x[t - (d_conv - 1) + j, d])
// x is d_inner columns of xz (Mamba-2: x, B and C); inputs before the chunk come from conv_state, whose last row is time -1.
// Grid: an invocation TOKENS tokens of a channel of a sequence. The state is left as it is: conv1d_state follows.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/conv.wgsl"
#include "shared/watch.wgsl"
@group(0) @binding(2) var<storage, read> conv_state: array<f32>; // (batch, d_conv, d_inner), oldest first
@group(0) @binding(3) var<storage, read> weight: array<f32>;     // (d_inner, d_conv)
@group(0) @binding(4) var<storage, read_write> u: array<act>;    // (L, d_inner)
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;       // (d_inner)
#endif

const TOKENS: u32 = 4u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    let runs = (p.l + TOKENS - 1u) / TOKENS;
    let sequence = i / p.d_inner / runs;
    if sequence >= p.batch { return; }
    let t0 = i / p.d_inner % runs * TOKENS;
    let first = sequence * p.l;
    let d = i % p.d_inner;
    let column = p.x_offset + d;
    var sum: array<f32, TOKENS>;
#if BIAS
    for (var k = 0u; k < TOKENS; k++) { sum[k] = bias[d]; }
#endif
    for (var j = 0u; j < p.d_conv; j++) {
        let back = p.d_conv - 1u - j; // how far before t
        let w = weight[d * p.d_conv + j];
        for (var k = 0u; k < TOKENS; k++) {
            let t = min(t0 + k, p.l - 1u);
            var x: f32;
            if t >= back {
                x = f32(xz[(first + t - back) * p.x_stride + column]);
            } else {
                x = conv_state[(sequence * p.d_conv + p.d_conv + t - back) * p.d_inner + d];
            }
            sum[k] = fma(w, x, sum[k]);
        }
    }
    for (var k = 0u; k < TOKENS; k++) {
        if t0 + k < p.l { u[(first + t0 + k) * p.d_inner + d] = to_act(watch(silu(sum[k]))); }
    }
}
