// Mamba-2, rung (c): ssd_bmm_chunk.wgsl by cooperative matrices.
// Grid: x over the tiles of a chunk's (CHUNK, CHUNK), y over chunks and groups. Tiles above the diagonal are left as they are.
#include "shared/ssd.wgsl"
#include "shared/ssd_rows.wgsl"
#include "shared/ssd_matrix.wgsl"
@group(0) @binding(3) var<storage, read_write> out: array<out_t>; // (n_chunks, groups, CHUNK, CHUNK)

var<private> first: vec2u;      // the tile's first token of C and of B
var<private> columns_of: vec2u; // where C and B of the group begin

fn load_a(i: u32, k: u32) -> vec4<act> {
    let n = k + term_a(i);
    return xbc_quad(first.x + row_a(i), columns_of.x + n, n < p.d_state);
}
fn load_b(i: u32, k: u32) -> vec4<act> {
    let n = k + term_b(i);
    return xbc_quad(first.y + column_b(i), columns_of.y + n, n < p.d_state);
}
fn ready_a(v: vec4<act>, row: u32, term: u32) -> vec4<act> { return v; }
fn ready_b(v: vec4<act>, term: u32) -> vec4<act> { return v; }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t0 = wid.x / (CHUNK / COLS) * ROWS;
    let s0 = wid.x % (CHUNK / COLS) * COLS;
    let chunk_begin = wid.y / p.groups * CHUNK;
    if s0 >= t0 + ROWS { return; }
    if chunk_begin + t0 >= p.l { return; }
    // Private variables are uniform to no compiler: what loops and branches depend on is in others.
    first = chunk_begin + vec2u(t0, s0);
    columns_of = vec2u(p.c_offset, p.b_offset) + wid.y % p.groups * p.d_state;
    let terms = (p.d_state + SLICE - 1u) / SLICE * SLICE;
    let rows = ROWS;
    let columns = COLS;
    let stride = CHUNK;
    let out0 = (wid.y * CHUNK + t0) * stride + s0;
#include "shared/ssd_matrix_multiply.wgsl"
}
