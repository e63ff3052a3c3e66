// Falcon-Mamba: RMSNorm without weights on each of dt, B and C, in place in x_dbl (L, dt_rank + 2 d_state).
// Grid: a workgroup a token and segment (three a token).
#include "shared/reduce.wgsl"

struct Params {
    l: u32,
    dt_rank: u32,
    d_state: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x_dbl: array<f32>; // (L, dt_rank + 2 d_state)

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let item = wid.y * num.x + wid.x;
    let t = item / 3u;
    let segment = item % 3u;
    let width = select(p.d_state, p.dt_rank, segment == 0u);
    let start = select(p.dt_rank + (segment - 1u) * p.d_state, 0u, segment == 0u);
    let n = select(0u, width, t < p.l);
    let base = t * (p.dt_rank + 2u * p.d_state) + start;
    var sum = 0.0;
    for (var i = lid; i < n; i += WG) {
        let x = x_dbl[base + i];
        sum = fma(x, x, sum);
    }
    let scale = inverseSqrt(workgroup_sum(lid, sum) / f32(width) + p.eps);
    for (var i = lid; i < n; i += WG) {
        x_dbl[base + i] *= scale;
    }
}
