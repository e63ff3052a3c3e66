// A token of Mamba-2 after its convolution, for decoding (mamba-ssm's selective_state_update with one A a head), of one
// text or (ROWS) of several, a row each, with a state in each slot:
//   delta = softplus(dt + dt_bias) within limits,  S = exp(delta A) S + delta x B^T,  y = S C + D x; GATE: y silu(z)
// Grid: LANES neighbouring invocations a channel, which share its states and meet in workgroup memory. With QUADS they
// take four states at a time: d_state and the columns where B and C begin are multiples of four.
#include "shared/ssd.wgsl"
#include "shared/ssd_delta.wgsl"
#include "shared/texts.wgsl"
#if QUADS
alias part = vec4f;
#else
alias part = f32;
#endif
@group(0) @binding(1) var<storage, read> xbc: array<part>;             // (rows, xbc_stride): x, B, C
@group(0) @binding(2) var<storage, read> zxbcdt: array<f32>;           // (rows, zxbcdt_stride): z, dt
@group(0) @binding(3) var<storage, read> dt_bias: array<f32>;          // (heads)
@group(0) @binding(4) var<storage, read> A: array<f32>;                // (heads)
@group(0) @binding(5) var<storage, read> D: array<f32>;                // (heads) or (heads, head_dim)
@group(0) @binding(6) var<storage, read_write> ssm_state: array<part>; // (slots, heads, head_dim, d_state)
@group(0) @binding(7) var<storage, read_write> y: array<f32>;          // (rows, heads, head_dim)
#if ROWS
@group(0) @binding(8) var<storage, read> texts: array<Text>;           // (rows)
#endif

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
    let channels = p.heads * p.head_dim;
    let parts = p.d_state / WIDTH;
#if ROWS
    let inside = mine < p.l * channels;
    let out_at = min(mine, p.l * channels - 1u);
    let channel = out_at % channels;
    let row = out_at / channels;
    let state = (texts[row].slot * channels + channel) * parts;
#else
    let inside = mine < channels;
    let channel = min(mine, channels - 1u);
    let out_at = channel;
    let row = 0u;
    let state = channel * parts;
#endif
    let h = channel / p.head_dim;
    let xbc_at = row * p.xbc_stride;
    let zxbcdt_at = row * p.zxbcdt_stride;
    let group = h / p.group_heads * parts;
    let b_at = (xbc_at + p.b_offset) / WIDTH + group;
    let c_at = (xbc_at + p.c_offset) / WIDTH + group;
    let x = x_of(xbc_at + p.x_offset + channel);
    let delta = step_size(zxbcdt[zxbcdt_at + p.dt_offset + h] + dt_bias[h]);
    let a = decay(delta * A[h]);
    var sum = 0.0;
    for (var n0 = lid % LANES; n0 < parts; n0 += LANES * AHEAD) {
        var s: array<part, AHEAD>;
        var b: array<part, AHEAD>;
        var c: array<part, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            let n = min(n0 + i * LANES, parts - 1u);
            s[i] = ssm_state[state + n];
            b[i] = xbc[b_at + n];
            c[i] = xbc[c_at + n];
        }
        for (var i = 0u; i < AHEAD; i++) {
            let n = n0 + i * LANES;
            if n < parts {
                let next = fma(part(a), s[i], delta * x * b[i]);
                if inside { ssm_state[state + n] = next; }
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
        out *= silu(zxbcdt[zxbcdt_at + p.z_offset + channel]);
#endif
        y[out_at] = out;
    }
}
