// What a token does to each channel, from the zero state: how much of the states it leaves, and how large they are after it.
//   forget = mean_n exp(delta A_n),   energy = sum_n h_n^2,   h_n = exp(delta A_n) h_n + delta B_n u
// Grid: an invocation a channel.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/scan.wgsl"
@group(0) @binding(1) var<storage, read> u: array<f32>;            // (L, d_inner)
@group(0) @binding(2) var<storage, read> delta: array<f32>;        // (L, d_inner)
@group(0) @binding(3) var<storage, read> A: array<f32>;            // (d_inner, d_state)
@group(0) @binding(4) var<storage, read> x_dbl: array<f32>;        // (L, x_dbl_stride): B
@group(0) @binding(5) var<storage, read_write> forget: array<f32>; // (L, d_inner)
@group(0) @binding(6) var<storage, read_write> energy: array<f32>; // (L, d_inner)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let d = flat_index(wid, num, lid, 64u);
    if d >= p.d_inner { return; }
    var h: array<f32, D_STATE>;
    for (var t = 0u; t < p.l; t++) {
        let at = t * p.d_inner + d;
        let dt = delta[at];
        let dtu = dt * u[at];
        var left = 0.0;
        var sum = 0.0;
        for (var n = 0u; n < D_STATE; n++) {
            let a = decay(dt * A[d * D_STATE + n]);
            h[n] = fma(a, h[n], dtu * x_dbl[t * p.x_dbl_stride + p.b_offset + n]);
            left += a;
            sum = fma(h[n], h[n], sum);
        }
        forget[at] = left / f32(D_STATE);
        energy[at] = sum;
    }
}
