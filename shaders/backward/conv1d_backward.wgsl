// Through the SiLU and the causal convolution, whose sums are computed again. With g[t] = grad_u[t] silu'(sum[t]):
//   grad_x[t] = sum_j weight[j] g[t + (D_CONV - 1) - j],   grad_weight[j] = sum_t g[t] x[t - (D_CONV - 1) + j],   grad_bias = sum_t g[t]
// x is zero before a sequence. Grid: an invocation TOKENS tokens of a channel, and D_CONV - 1 more behind them, whose g it needs.
#include "shared/grid.wgsl"
#include "shared/gate.wgsl"
#include "shared/conv.wgsl"
@group(0) @binding(2) var<storage, read> weight: array<f32>;         // (d_inner, D_CONV)
@group(0) @binding(3) var<storage, read> grad_u: array<f32>;         // (rows, d_inner)
@group(0) @binding(4) var<storage, read_write> grad_xz: array<f32>;  // (rows, x_stride)
// Partial sums: (runs, d_inner, D_CONV) of the weight's gradient, then (runs, d_inner) of the bias's.
@group(0) @binding(5) var<storage, read_write> scratch: array<f32>;
#if BIAS
@group(0) @binding(6) var<storage, read> bias: array<f32>;           // (d_inner)
#endif

const TOKENS: u32 = 32u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    let d = i % p.d_inner;
    let column = p.x_offset + d;
    let run = i / p.d_inner;
    let runs = (p.l + TOKENS - 1u) / TOKENS;
    if run >= runs * p.batch { return; }
    let first = run / runs * p.l;
    let t0 = run % runs * TOKENS;
    let t1 = min(t0 + TOKENS, p.l);
    // Of the last D_CONV tokens, oldest first.
    var x: array<f32, D_CONV>;
    var g: array<f32, D_CONV>;
    var w: array<f32, D_CONV>;
    var grad_w: array<f32, D_CONV>;
    var grad_b = 0.0;
    for (var j = 0u; j < D_CONV; j++) {
        w[j] = weight[d * D_CONV + j];
        let t = t0 + j;
        x[j] = select(0.0, xz[(first + max(t, D_CONV) - D_CONV) * p.x_stride + column], t >= D_CONV);
    }
    for (var t = t0; t < t1 + D_CONV - 1u; t++) {
        let row = first + min(t, p.l - 1u);
        var sum = 0.0;
#if BIAS
        sum = bias[d];
#endif
        for (var j = 0u; j + 1u < D_CONV; j++) {
            x[j] = x[j + 1u];
            g[j] = g[j + 1u];
        }
        x[D_CONV - 1u] = xz[row * p.x_stride + column];
        for (var j = 0u; j < D_CONV; j++) { sum = fma(w[j], x[j], sum); }
        let now = select(0.0, grad_u[row * p.d_inner + d] * gate(sum).y, t < p.l);
        g[D_CONV - 1u] = now;
        if t < t1 {
            grad_b += now;
            for (var j = 0u; j < D_CONV; j++) { grad_w[j] = fma(now, x[j], grad_w[j]); }
        }
        if t + 1u >= t0 + D_CONV {
            var back = 0.0;
            for (var j = 0u; j < D_CONV; j++) { back = fma(w[j], g[D_CONV - 1u - j], back); }
            grad_xz[(first + t + 1u - D_CONV) * p.x_stride + column] = back;
        }
    }
    for (var j = 0u; j < D_CONV; j++) { scratch[i * D_CONV + j] = grad_w[j]; }
#if BIAS
    scratch[runs * p.batch * p.d_inner * D_CONV + i] = grad_b;
#endif
}
