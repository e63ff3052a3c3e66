// One token through a layer's mixer, between x_proj and out_proj: dt_proj with bias and softplus, the recurrence with its
// state, C, D and the gate:
//   delta = softplus(W_dt dt + bias),  h_n = exp(delta A_n) h_n + delta B_n u,  y = (sum_n C_n h_n + D u) silu(z)
// Grid: LANES neighbouring invocations a channel; they share the channel's row of dt_proj and its states, and meet in
// workgroup memory. All that is read is read before the first barrier: a load begun after it would be waited for.
#include "shared/math.wgsl"
#include "${weight}"

const WG: u32 = 64u;
const LANES: u32 = 16u;
const CHANNELS: u32 = 4u; // WG / LANES

struct Params {
    d_inner: u32,
    d_state: u32,
    d_conv: u32,
    dt_rank: u32,
    k4: u32,  // quads a row of dt_proj
    eps: f32, // Falcon-Mamba's norm of dt, B and C
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> x_dbl: array<f32>;           // (dt_rank + 2 d_state): dt, B, C
@group(0) @binding(3) var<storage, read> uz: array<f32>;              // (2 d_inner): u, z
@group(0) @binding(4) var<storage, read> channels: array<f32>;        // (d_conv + 3, d_inner): ..., dt_proj's bias, D
@group(0) @binding(5) var<storage, read> A: array<f32>;               // (d_inner, d_state)
@group(0) @binding(6) var<storage, read_write> ssm_state: array<f32>; // (d_inner, d_state)
@group(0) @binding(8) var<storage, read_write> y: array<f32>;         // (d_inner)

var<workgroup> partial: array<f32, WG>;

// The sum over a channel's lanes, to each of them. Every invocation of the workgroup must call it.
fn channel_sum(lid: u32, x: f32) -> f32 {
    workgroupBarrier();
    partial[lid] = x;
    workgroupBarrier();
    var sum = 0.0;
    let first = lid - lid % LANES;
    for (var i = 0u; i < LANES; i++) { sum += partial[first + i]; }
    return sum;
}

#if FALCON
// 1 / sqrt(mean of squares + eps) over n values of x_dbl.
fn scale_of(lid: u32, first: u32, n: u32) -> f32 {
    var sum = 0.0;
    for (var i = lid % LANES; i < n; i += LANES) { sum = fma(x_dbl[first + i], x_dbl[first + i], sum); }
    return inverseSqrt(channel_sum(lid, sum) / f32(n) + p.eps);
}
#endif

// One state moved on and stored; what it adds to the output.
fn advance(n: u32, at: u32, h0: f32, a: f32, bc: vec2f, delta: f32, du: f32, inside: bool) -> f32 {
    let h = fma(decay(delta * a), h0, du * bc.x);
    if inside && n < p.d_state { ssm_state[at] = h; }
    return select(0.0, bc.y * h, n < p.d_state);
}

fn b_and_c(n: u32) -> vec2f {
    return vec2f(x_dbl[p.dt_rank + n], x_dbl[p.dt_rank + p.d_state + n]);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let channel = (wid.y * num.x + wid.x) * CHANNELS + lid / LANES;
    let inside = channel < p.d_inner;
    let d = min(channel, p.d_inner - 1u);
    let lane = lid % LANES;
    // The lane's first state: all of them, as models are published.
    let n0 = min(lane, p.d_state - 1u);
    let at0 = d * p.d_state + n0;
    let h0 = ssm_state[at0];
    let a0 = A[at0];
    let bc0 = b_and_c(n0);
    let u = uz[d];
    let z = uz[p.d_inner + d];
    let bias = channels[(p.d_conv + 1u) * p.d_inner + d];
    let skip = channels[(p.d_conv + 2u) * p.d_inner + d] * u;
    var sum = 0.0;
    for (var q = lane; q < p.k4; q += LANES) {
        // Weights past dt_rank are zero; what of x_dbl lies there does not count.
        let i = 4u * q;
        sum += dot(weight4(d * p.k4 + q), vec4f(x_dbl[i], x_dbl[i + 1u], x_dbl[i + 2u], x_dbl[i + 3u]));
    }
    var dt_scale = 1.0;
    var b_scale = 1.0;
    var c_scale = 1.0;
#if FALCON
    dt_scale = scale_of(lid, 0u, p.dt_rank);
    b_scale = scale_of(lid, p.dt_rank, p.d_state);
    c_scale = scale_of(lid, p.dt_rank + p.d_state, p.d_state);
#endif
    let delta = softplus(fma(dt_scale, channel_sum(lid, sum), bias));
    let du = delta * u * b_scale;
    var out = advance(lane, at0, h0, a0, bc0, delta, du, inside);
    for (var n = lane + LANES; n < p.d_state; n += LANES) {
        let at = d * p.d_state + n;
        out += advance(n, at, ssm_state[at], A[at], b_and_c(n), delta, du, inside);
    }
    out = channel_sum(lid, out);
    if lane == 0u && inside { y[d] = fma(out, c_scale, skip) * silu(z); }
}
