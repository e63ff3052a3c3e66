// A token of each of some texts through the recurrence: the step of decoding (mamba-ssm's selective_state_update).
//   h_n = exp(delta A_n) h_n + delta B_n u,   y = (sum_n C_n h_n + D u) silu(z)
// Grid: LANES neighbouring invocations a channel of a row, which share its states and meet in workgroup memory.
#include "shared/math.wgsl"
#include "shared/texts.wgsl"
struct Params {
    rows: u32,
    d_inner: u32,
    d_state: u32,
    x_dbl_stride: u32, // columns of x_dbl
    b_offset: u32,     // column of x_dbl where B begins
    c_offset: u32,     // column where C begins
    uz_stride: u32,    // columns of uz
    z_offset: u32,     // column where z begins
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> texts: array<Text>;          // (rows)
@group(0) @binding(2) var<storage, read> delta: array<f32>;           // (rows, d_inner)
@group(0) @binding(3) var<storage, read> A: array<f32>;               // (d_inner, d_state)
@group(0) @binding(4) var<storage, read> x_dbl: array<f32>;           // (rows, x_dbl_stride): B, C
@group(0) @binding(5) var<storage, read> D: array<f32>;               // (d_inner)
@group(0) @binding(6) var<storage, read> uz: array<f32>;              // (rows, uz_stride): u, z
@group(0) @binding(7) var<storage, read_write> ssm_state: array<f32>; // (slots, d_inner, d_state)
@group(0) @binding(8) var<storage, read_write> y: array<f32>;         // (rows, d_inner)

const WG: u32 = 64u;
const LANES: u32 = 16u;

var<workgroup> sums: array<f32, WG>; // (WG / LANES, LANES)

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let mine = (wid.y * num.x + wid.x) * (WG / LANES) + lid / LANES;
    let inside = mine < p.rows * p.d_inner;
    let i = min(mine, p.rows * p.d_inner - 1u);
    let row = i / p.d_inner;
    let d = i % p.d_inner;
    let state = (texts[row].slot * p.d_inner + d) * p.d_state;
    let u = uz[row * p.uz_stride + d];
    let dt = delta[i];
    let b_at = row * p.x_dbl_stride + p.b_offset;
    let c_at = row * p.x_dbl_stride + p.c_offset;
    var sum = 0.0;
    for (var n = lid % LANES; n < p.d_state; n += LANES) {
        let h = fma(decay(dt * A[d * p.d_state + n]), ssm_state[state + n], dt * x_dbl[b_at + n] * u);
        if inside { ssm_state[state + n] = h; }
        sum = fma(x_dbl[c_at + n], h, sum);
    }
    sums[lid] = sum;
    workgroupBarrier();
    if lid % LANES == 0u && inside {
        var out = D[d] * u;
        for (var j = 0u; j < LANES; j++) { out += sums[lid + j]; }
        y[i] = out * silu(uz[row * p.uz_stride + p.z_offset + d]);
    }
}
