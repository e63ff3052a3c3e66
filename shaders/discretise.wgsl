// The discretised pairs, written out (rung (b)): dA = exp(delta A), dBu = delta B u (Mamba paper, equation 4; Euler for B).
// The initial state is folded into the first pair, dBu[0] += dA[0] h, so that the scan's b is the state itself.
// Grid: an invocation a token, channel and state.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/scan.wgsl"
@group(0) @binding(1) var<storage, read> u: array<f32>;         // (L, d_inner)
@group(0) @binding(2) var<storage, read> delta: array<f32>;     // (L, d_inner)
@group(0) @binding(3) var<storage, read> A: array<f32>;         // (d_inner, d_state)
@group(0) @binding(4) var<storage, read> x_dbl: array<f32>;     // (L, x_dbl_stride): B
@group(0) @binding(5) var<storage, read> ssm_state: array<f32>; // (d_inner, d_state)
@group(0) @binding(6) var<storage, read_write> dA: array<f32>;  // (l, d_inner, d_state)
@group(0) @binding(7) var<storage, read_write> dBu: array<f32>; // (l, d_inner, d_state)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    let lanes = p.d_inner * p.d_state;
    let t = i / lanes;
    if t >= p.l { return; }
    let s = i % lanes;
    let at = (p.t0 + t) * p.d_inner + s / p.d_state;
    let dt = delta[at];
    let a = decay(dt * A[s]);
    var b = dt * x_dbl[(p.t0 + t) * p.x_dbl_stride + p.b_offset + s % p.d_state] * u[at];
    if t == 0u { b = fma(a, ssm_state[s], b); }
    dA[i] = a;
    dBu[i] = b;
}
