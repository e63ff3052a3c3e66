// From the states to the output, with the skip and the gate: y = (sum_n C_n h_n + D u) silu(z) (rung (b)).
// The last token's invocations also keep their states as the final state.
// Grid: an invocation a token and channel.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/scan.wgsl"
@group(0) @binding(1) var<storage, read> u: array<f32>;               // (L, d_inner)
@group(0) @binding(2) var<storage, read> h: array<f32>;               // (l, d_inner, d_state)
@group(0) @binding(3) var<storage, read> x_dbl: array<f32>;           // (L, x_dbl_stride): C
@group(0) @binding(4) var<storage, read> D: array<f32>;               // (d_inner)
@group(0) @binding(5) var<storage, read> xz: array<f32>;              // (L, xz_stride): z
@group(0) @binding(6) var<storage, read_write> ssm_state: array<f32>; // (d_inner, d_state)
@group(0) @binding(7) var<storage, read_write> y: array<f32>;         // (L, d_inner)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    let t = i / p.d_inner;
    if t >= p.l { return; }
    let d = i % p.d_inner;
    let row = p.t0 + t;
    let at = row * p.d_inner + d;
    var sum = D[d] * u[at];
    for (var n = 0u; n < p.d_state; n++) {
        let state = h[i * p.d_state + n];
        sum = fma(x_dbl[row * p.x_dbl_stride + p.c_offset + n], state, sum);
        if t + 1u == p.l { ssm_state[d * p.d_state + n] = state; }
    }
    y[at] = sum * silu(xz[row * p.xz_stride + p.z_offset + d]);
}
