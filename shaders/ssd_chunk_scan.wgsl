// Mamba-2, rung (b), last kernel: outputs from each chunk's initial state and its own tokens (arXiv 2405.21060, section
// 6; mamba-ssm's ssd_chunk_scan.py, _chunk_scan_fwd):
//   y[t] = exp(c_t) S_in C_t + sum_{s <= t} (C_t . B_s) exp(c_t - c_s) delta_s x_s + D x_t
// One product for both: k goes over the states first, then over the chunk's tokens.
// Grid: x over the tiles of a head's channels, y over chunks and heads.
#include "shared/ssd.wgsl"
#include "shared/ssd_log.wgsl"
#include "shared/ssd_rows.wgsl"
#include "shared/ssd_columns.wgsl"
#include "shared/ssd_tile.wgsl"
@group(0) @binding(3) var<storage, read> delta: array<f32>;     // (n_chunks, heads, CHUNK)
@group(0) @binding(4) var<storage, read> cumsum: array<vec2i>;  // (n_chunks, heads, CHUNK)
#if QUADS
@group(0) @binding(5) var<storage, read> states: array<vec4f>;  // (n_chunks, heads, head_dim, d_state)
#else
@group(0) @binding(5) var<storage, read> states: array<f32>;    // (n_chunks, heads, head_dim, d_state)
#endif
@group(0) @binding(6) var<storage, read> cb: array<vec4f>;      // (n_chunks, groups, CHUNK, CHUNK)
@group(0) @binding(7) var<storage, read> D: array<f32>;         // (heads) or (heads, head_dim)
@group(0) @binding(8) var<storage, read_write> y: array<f32>;   // (L, heads, head_dim)

// Of the chunk's tokens.
var<workgroup> logs: array<Log, CHUNK>;
var<workgroup> decays: array<f32, CHUNK>;
var<workgroup> deltas: array<f32, CHUNK>;

var<private> begin: u32;       // the chunk's first token
var<private> channel0: u32;    // the tile's first channel of the head
var<private> columns: vec2u;   // where x of the head and C of its group begin
var<private> at_states: u32;   // where the chunk's and head's initial state begins
var<private> at_cb: u32;       // where the chunk's and group's products begin
var<private> state_quads: u32; // quads along k that are states

fn along_a(s: u32) -> bool { return true; }
fn along_b(s: u32) -> bool { return s * SLICE < state_quads; }

fn operand_a(t: u32, quad: u32) -> vec4f {
    if quad < state_quads { return decays[t] * states4(begin + t, columns.y, 4u * quad); }
    let s = 4u * (quad - state_quads);
    let product = cb[(at_cb + t * CHUNK + s) / 4u];
    var a: vec4f;
    for (var j = 0u; j < 4u; j++) {
        // Later tokens do not count, whatever stands there.
        let kept = exp(min(log_span(logs[t], logs[s + j]), 0.0)) * deltas[s + j];
        a[j] = select(0.0, product[j] * kept, s + j <= t);
    }
    return a;
}

fn operand_b(row: u32, quad: u32) -> vec4f {
    let channel = channel0 + row;
    if quad >= state_quads {
        return tokens4(begin + 4u * (quad - state_quads), columns.x + channel, channel < p.head_dim);
    }
    let at = at_states + channel * p.d_state + 4u * quad;
    let left = select(0u, p.d_state - min(4u * quad, p.d_state), channel < p.head_dim);
#if QUADS
    return select(vec4f(), states[at / 4u], left > 0u);
#else
    return vec4f(
        select(0.0, states[at], left > 0u),
        select(0.0, states[at + 1u], left > 1u),
        select(0.0, states[at + 2u], left > 2u),
        select(0.0, states[at + 3u], left > 3u),
    );
#endif
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let chunk = wid.y / p.heads;
    let h = wid.y % p.heads;
    let group = h / p.group_heads;
    // Private variables are uniform to no compiler: what loops depend on is in others.
    let chunk_begin = chunk * CHUNK;
    begin = chunk_begin;
    channel0 = wid.x * COLS;
    columns = vec2u(p.x_offset + h * p.head_dim, p.c_offset + group * p.d_state);
    at_states = wid.y * p.head_dim * p.d_state;
    at_cb = (chunk * p.groups + group) * CHUNK * CHUNK;
    let state_slices = (p.d_state + 15u) / 16u;
    state_quads = state_slices * SLICE;
    for (var i = lid; i < CHUNK; i += WG) {
        let sum = unpacked(cumsum[wid.y * CHUNK + i]);
        logs[i] = sum;
        decays[i] = exp(log_value(sum));
        deltas[i] = delta[wid.y * CHUNK + i];
    }
    workgroupBarrier();
    let count = min(CHUNK, p.l - chunk_begin);
    var acc: array<vec4f, 8>;
    multiply(&acc, state_slices + (count + 15u) / 16u, lid);
    for (var r = 0u; r < 8u; r++) {
        let t = row_of(r, lid);
        for (var c = 0u; c < 4u; c++) {
            let channel = channel0 + column_of(c, lid);
            if t < count && channel < p.head_dim {
                let skip = D[select(h, h * p.head_dim + channel, p.d_has_hdim == 1u)];
                let x = f32(xbc[xbc_row(begin + t) + columns.x + channel]);
                y[((p.t0 + begin + t) * p.heads + h) * p.head_dim + channel] = fma(skip, x, acc[r][c]);
            }
        }
    }
}
