// Mamba-2, rung (a): the recurrence, token by token (arXiv 2405.21060, section 3.1; shared/ssd.wgsl). An invocation
// takes one channel; its states go through registers 16 at a time, so that there may be any number, and y gathers what
// each 16 add.
// Grid: an invocation a channel of a head.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/ssd.wgsl"
@group(0) @binding(1) var<storage, read> xbc: array<act>;             // (L, xbc_stride): x, B, C
@group(0) @binding(2) var<storage, read> delta: array<f32>;           // (L, heads)
@group(0) @binding(3) var<storage, read> A: array<f32>;               // (heads)
@group(0) @binding(4) var<storage, read> D: array<f32>;               // (heads) or (heads, head_dim)
@group(0) @binding(5) var<storage, read_write> ssm_state: array<f32>; // (heads, head_dim, d_state)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;         // (L, heads, head_dim)

const STATES: u32 = 16u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let channel = flat_index(wid, num, lid, 64u);
    let d_inner = p.heads * p.head_dim;
    if channel >= d_inner { return; }
    let h = channel / p.head_dim;
    let group = h / p.group_heads * p.d_state;
    let skip = D[select(h, channel, p.d_has_hdim == 1u)];
    for (var n0 = 0u; n0 < max(p.d_state, 1u); n0 += STATES) {
        let count = min(STATES, p.d_state - n0);
        var s: array<f32, STATES>;
        for (var i = 0u; i < STATES; i++) {
            s[i] = select(0.0, ssm_state[channel * p.d_state + n0 + i], i < count);
        }
        for (var t = p.t0; t < p.t0 + p.l; t++) {
            let row = t * p.xbc_stride;
            let x = f32(xbc[row + p.x_offset + channel]);
            let dt = delta[t * p.heads + h];
            let a = decay(dt * A[h]);
            let b = row + p.b_offset + group + n0;
            let c = row + p.c_offset + group + n0;
            var sum = skip * x;
            if n0 > 0u { sum = y[t * d_inner + channel]; }
            for (var i = 0u; i < STATES; i++) {
                s[i] = fma(a, s[i], dt * x * f32(xbc[b + i]));
                sum += select(0.0, f32(xbc[c + i]) * s[i], i < count);
            }
            y[t * d_inner + channel] = sum;
        }
        for (var i = 0u; i < STATES; i++) {
            if i < count { ssm_state[channel * p.d_state + n0 + i] = s[i]; }
        }
    }
}
