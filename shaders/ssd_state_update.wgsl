// One token of Mamba-2 after its convolution, for decoding (mamba-ssm's selective_state_update with one A a head):
//   delta = softplus(dt + dt_bias) within limits,  S = exp(delta A) S + delta x B^T,  y = S C + D x; GATE: y silu(z)
// Grid: LANES neighbouring invocations a channel, which share its states and meet in workgroup memory. With QUADS they
// take four states at a time: d_state and the columns where B and C begin are multiples of four.
#include "shared/ssd.wgsl"
#include "shared/ssd_delta.wgsl"
#if QUADS
alias part = vec4f;
#else
alias part = f32;
#endif
@group(0) @binding(1) var<storage, read> xbc: array<part>;             // (xbc_stride): x, B, C
@group(0) @binding(2) var<storage, read> zxbcdt: array<f32>;           // (zxbcdt_stride): z, dt
@group(0) @binding(3) var<storage, read> dt_bias: array<f32>;          // (heads)
@group(0) @binding(4) var<storage, read> A: array<f32>;                // (heads)
@group(0) @binding(5) var<storage, read> D: array<f32>;                // (heads) or (heads, head_dim)
@group(0) @binding(6) var<storage, read_write> ssm_state: array<part>; // (heads, head_dim, d_state)
@group(0) @binding(7) var<storage, read_write> y: array<f32>;          // (heads, head_dim)

const LANES: u32 = 16u;
const CHANNELS: u32 = 4u;
// Parts that an invocation reads before it uses the first.
const AHEAD: u32 = 2u;

var<workgroup> sums: array<f32, 64>; // (CHANNELS, LANES)

#if QUADS
const WIDTH: u32 = 4u;
fn x_of(i: u32) -> f32 { return xbc[i / 4u][i % 4u]; }
fn total(c: part, s: part) -> f32 { return dot(c, s); }
#else
const WIDTH: u32 = 1u;
fn x_of(i: u32) -> f32 { return xbc[i]; }
fn total(c: part, s: part) -> f32 { return c * s; }
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let mine = (wid.y * num.x + wid.x) * CHANNELS + lid / LANES;
    let inside = mine < p.heads * p.head_dim;
    let channel = min(mine, p.heads * p.head_dim - 1u);
    let h = channel / p.head_dim;
    let parts = p.d_state / WIDTH;
    let group = h / p.group_heads * parts;
    let b_at = p.b_offset / WIDTH + group;
    let c_at = p.c_offset / WIDTH + group;
    let x = x_of(p.x_offset + channel);
    let delta = step_size(zxbcdt[p.dt_offset + h] + dt_bias[h]);
    let a = decay(delta * A[h]);
    var sum = 0.0;
    for (var n0 = lid % LANES; n0 < parts; n0 += LANES * AHEAD) {
        var s: array<part, AHEAD>;
        var b: array<part, AHEAD>;
        var c: array<part, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            let n = min(n0 + i * LANES, parts - 1u);
            s[i] = ssm_state[channel * parts + n];
            b[i] = xbc[b_at + n];
            c[i] = xbc[c_at + n];
        }
        for (var i = 0u; i < AHEAD; i++) {
            let n = n0 + i * LANES;
            if n < parts {
                let next = fma(part(a), s[i], delta * x * b[i]);
                if inside { ssm_state[channel * parts + n] = next; }
                sum += total(c[i], next);
            }
        }
    }
    sums[lid] = sum;
    workgroupBarrier();
    if lid % LANES == 0u && inside {
        var out = D[select(h, channel, p.d_has_hdim == 1u)] * x;
        for (var i = 0u; i < LANES; i++) { out += sums[lid + i]; }
#if GATE
        out *= silu(zxbcdt[p.z_offset + channel]);
#endif
        y[channel] = out;
    }
}
