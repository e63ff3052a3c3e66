// RMSNorm with the residual add before it (mamba-ssm's fused_add_norm):
//   residual[t] += hidden[t]                                (with ADD_HIDDEN; with KEEP the sum goes to kept instead)
//   y[t] = residual[t] * weight / sqrt(mean(residual[t]^2) + eps)
// Grid: a workgroup a token.
#include "shared/reduce.wgsl"
#include "shared/watch.wgsl"

struct Params {
    rows: u32, // tokens to normalise
    d: u32,    // d_model
    row0: u32, // first row of residual and hidden; y starts at its own row 0
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> residual: array<f32>; // (L, d)
@group(0) @binding(2) var<storage, read> weight: array<f32>;         // (d)
@group(0) @binding(3) var<storage, read_write> y: array<act>;        // (rows, d)
#if ADD_HIDDEN
@group(0) @binding(4) var<storage, read> hidden: array<f32>;         // (L, d)
#endif
#if KEEP
@group(0) @binding(5) var<storage, read_write> kept: array<f32>;     // (L, d)
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let row = wid.y * num.x + wid.x;
    // Rows past the end (the last line of a grid that spilled into y) load nothing and store nothing, but reach every barrier.
    let n = select(0u, p.d, row < p.rows);
    let base = (p.row0 + row) * p.d;
    var sum = 0.0;
    for (var i = lid; i < n; i += WG) {
        var r = residual[base + i];
#if ADD_HIDDEN
        r += hidden[base + i];
#endif
#if IN_PLACE
        residual[base + i] = r;
#endif
#if KEEP
        kept[base + i] = r;
#endif
        sum = fma(r, r, sum);
    }
    let scale = inverseSqrt(workgroup_sum(lid, sum) / f32(p.d) + p.eps);
    for (var i = lid; i < n; i += WG) {
#if KEEP
        let r = kept[base + i];
#else
        let r = residual[base + i];
#endif
        y[row * p.d + i] = to_act(watch(r * scale * weight[i]));
    }
}
