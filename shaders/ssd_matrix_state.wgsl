// Mamba-2, rung (c): ssd_chunk_state.wgsl by cooperative matrices, the states transposed: sum_s B_s (exp(c_end - c_s) delta_s x_s)^T.
// Grid: x over the tiles of a head's (d_state, head_dim), y over chunks and heads.
#include "shared/ssd.wgsl"
#include "shared/ssd_log.wgsl"
#include "shared/ssd_rows.wgsl"
#include "shared/ssd_matrix.wgsl"
@group(0) @binding(3) var<storage, read> delta: array<f32>;     // (n_chunks, heads, CHUNK)
@group(0) @binding(4) var<storage, read> cumsum: array<vec2i>;  // (n_chunks, heads, CHUNK)
@group(0) @binding(5) var<storage, read_write> out: array<out_t>; // (n_chunks, heads, d_state, head_dim)

var<workgroup> weights: array<f32, CHUNK>; // of the chunk's tokens

var<private> begin: u32;        // the chunk's first token
var<private> origin: vec2u;     // the tile's first state and channel
var<private> columns_of: vec2u; // where B of the head's group and x of the head begin

fn load_a(i: u32, k: u32) -> vec4<act> {
    let n = origin.x + row_a(i);
    return xbc_quad(begin + k + term_a(i), columns_of.x + n, n < p.d_state);
}
fn load_b(i: u32, k: u32) -> vec4<act> {
    let channel = origin.y + column_b(i);
    return xbc_quad(begin + k + term_b(i), columns_of.y + channel, channel < p.head_dim);
}
fn ready_a(v: vec4<act>, row: u32, term: u32) -> vec4<act> { return v; }
fn ready_b(v: vec4<act>, term: u32) -> vec4<act> { return act(weights[term]) * v; }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let across = (p.head_dim + COLS - 1u) / COLS;
    let n0 = wid.x / across * ROWS;
    let channel0 = wid.x % across * COLS;
    let h = wid.y % p.heads;
    let chunk_begin = wid.y / p.heads * CHUNK;
    // Private variables are uniform to no compiler: what loops and branches depend on is in others.
    begin = chunk_begin;
    origin = vec2u(n0, channel0);
    columns_of = vec2u(p.b_offset + h / p.group_heads * p.d_state, p.x_offset + h * p.head_dim);
    let at = wid.y * CHUNK;
    for (var i = lid; i < CHUNK; i += THREADS) {
        let kept = exp(log_span(unpacked(cumsum[at + CHUNK - 1u]), unpacked(cumsum[at + i])));
        weights[i] = delta[at + i] * kept;
    }
    workgroupBarrier();
    let terms = (min(CHUNK, p.l - chunk_begin) + SLICE - 1u) / SLICE * SLICE;
    let rows = p.d_state - n0;
    let columns = p.head_dim - channel0;
    let stride = p.head_dim;
    let out0 = (wid.y * p.d_state + n0) * stride + channel0;
#include "shared/ssd_matrix_multiply.wgsl"
}
