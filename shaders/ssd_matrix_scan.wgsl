// Mamba-2, rung (c): ssd_chunk_scan.wgsl by cooperative matrices, in tiles of ROWS tokens. Let r be the last token before a tile.
// For the tokens up to r
//   exp(c_t - c_s) delta_s (C_t . B_s) x_s = [exp(c_t - c_r) (C_t . B_s)] [exp(c_r - c_s) delta_s x_s],
// each exp one or less, so that it is taken a token and not a pair of them; within the tile it is a pair's. D is added on the diagonal.
// Grid: x over the tiles of a chunk's tokens and a head's channels, y over chunks and heads.
#include "shared/ssd.wgsl"
#include "shared/ssd_log.wgsl"
#include "shared/ssd_rows.wgsl"
#include "shared/ssd_matrix.wgsl"
@group(0) @binding(3) var<storage, read> delta: array<f32>;       // (n_chunks, heads, CHUNK)
@group(0) @binding(4) var<storage, read> cumsum: array<vec2i>;    // (n_chunks, heads, CHUNK)
@group(0) @binding(5) var<storage, read> states: array<vec4<act>>; // (n_chunks, heads, d_state, head_dim): initial ones
@group(0) @binding(6) var<storage, read> cb: array<vec4<act>>;    // (n_chunks, groups, CHUNK, CHUNK)
@group(0) @binding(7) var<storage, read> D: array<f32>;           // (heads)
@group(0) @binding(8) var<storage, read_write> out: array<out_t>;   // y (L, heads, head_dim)

// Of the tile's tokens.
var<workgroup> logs: array<Log, ROWS>;
var<workgroup> deltas: array<f32, ROWS>;
var<workgroup> from_begin: array<f32, ROWS>;  // exp(c_t)
var<workgroup> from_before: array<f32, ROWS>; // exp(c_t - c_r)
// Of the chunk's tokens up to r: exp(c_r - c_s) delta_s; 1 from there on.
var<workgroup> weights: array<f32, CHUNK>;

var<private> begin: u32;        // the chunk's first token
var<private> tile: u32;         // the tile's first token in the chunk
var<private> channel: u32;      //   and its first channel of the head
var<private> columns_of: vec2u; // where C of the head's group and x of the head begin
var<private> at_states: u32;    // where the chunk's and head's initial state begins
var<private> at_cb: u32;        // where the chunk's and group's products begin
var<private> state_terms: u32;  // terms along k that are states
var<private> skip: f32;

// No factor is chosen here but where the address is: a value that a branch ends with would be waited for in it. What is read past the
// states is finite, and A has zeros there; past head_dim nothing is stored.
fn load_a(i: u32, k: u32) -> vec4<act> {
    let n = k + term_a(i);
    if k < state_terms { return xbc4[(xbc_row(begin + tile + row_a(i)) + columns_of.x + n) / 4u]; }
    return cb[(at_cb + (tile + row_a(i)) * CHUNK + n - state_terms) / 4u];
}

fn load_b(i: u32, k: u32) -> vec4<act> {
    let n = k + term_b(i);
    let c = channel + column_b(i);
    if k < state_terms { return states[(at_states + min(n, p.d_state - 1u) * p.head_dim + c) / 4u]; }
    return xbc4[(xbc_row(begin + n - state_terms) + columns_of.y + c) / 4u];
}

fn ready_a(v: vec4<act>, row: u32, term: u32) -> vec4<act> {
    if term < state_terms {
        return select(vec4<act>(), act(from_begin[row]) * v, term < p.d_state);
    }
    if term < state_terms + tile { return act(from_before[row]) * v; }
    let first = term - state_terms - tile;
    var a: vec4<act>;
    if first > row { return a; }
    for (var j = 0u; j < 4u; j++) {
        // Later tokens do not count, whatever stands there.
        let kept = exp(min(log_span(logs[row], logs[first + j]), 0.0)) * deltas[first + j];
        let own = select(0.0, skip, first + j == row);
        a[j] = act(select(0.0, fma(f32(v[j]), kept, own), first + j <= row));
    }
    return a;
}

fn ready_b(v: vec4<act>, term: u32) -> vec4<act> {
    if term < state_terms { return v; }
    return act(weights[term - state_terms]) * v;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let across = (p.head_dim + COLS - 1u) / COLS;
    let t0 = wid.x / across * ROWS;
    let channel0 = wid.x % across * COLS;
    let chunk = wid.y / p.heads;
    let h = wid.y % p.heads;
    let group = h / p.group_heads;
    let chunk_begin = chunk * CHUNK;
    let count = min(CHUNK, p.l - chunk_begin);
    if t0 >= count { return; }
    // Private variables are uniform to no compiler: what loops and branches depend on is in others.
    begin = chunk_begin;
    tile = t0;
    channel = channel0;
    columns_of = vec2u(p.c_offset + group * p.d_state, p.x_offset + h * p.head_dim);
    at_states = wid.y * p.head_dim * p.d_state;
    at_cb = (chunk * p.groups + group) * CHUNK * CHUNK;
    let states_end = (p.d_state + SLICE - 1u) / SLICE * SLICE;
    state_terms = states_end;
    skip = D[h];
    let at = wid.y * CHUNK;
    let before = unpacked(cumsum[at + max(t0, 1u) - 1u]);
    for (var i = lid; i < ROWS; i += THREADS) {
        let sum = unpacked(cumsum[at + t0 + i]);
        logs[i] = sum;
        deltas[i] = delta[at + t0 + i];
        from_begin[i] = exp(log_value(sum));
        from_before[i] = exp(min(log_span(sum, before), 0.0));
    }
    for (var i = lid; i < CHUNK; i += THREADS) {
        let kept = exp(min(log_span(before, unpacked(cumsum[at + i])), 0.0));
        weights[i] = select(1.0, kept * delta[at + i], i < t0);
    }
    workgroupBarrier();
    let terms = states_end + (min(t0 + ROWS, count) + SLICE - 1u) / SLICE * SLICE;
    let rows = count - t0;
    let columns = p.head_dim - channel0;
    let stride = p.heads * p.head_dim;
    let out0 = (p.t0 + chunk_begin + t0) * stride + h * p.head_dim + channel0;
#include "shared/ssd_matrix_multiply.wgsl"
}
