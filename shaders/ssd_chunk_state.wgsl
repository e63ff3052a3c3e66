// Mamba-2, rung (b): the state that each chunk alone leaves, sum_s exp(c_end - c_s) delta_s x_s B_s^T (arXiv
// 2405.21060, section 6; mamba-ssm's ssd_chunk_state.py, _chunk_state_fwd).
// Grid: x over the tiles of a head's (head_dim, d_state), y over chunks and heads.
#include "shared/ssd.wgsl"
#include "shared/ssd_log.wgsl"
#include "shared/ssd_rows.wgsl"
#include "shared/ssd_columns.wgsl"
#include "shared/ssd_tile.wgsl"
@group(0) @binding(3) var<storage, read> delta: array<f32>;        // (n_chunks, heads, CHUNK)
@group(0) @binding(4) var<storage, read> cumsum: array<vec2i>;     // (n_chunks, heads, CHUNK)
@group(0) @binding(5) var<storage, read_write> states: array<f32>; // (n_chunks, heads, head_dim, d_state)

var<workgroup> weights: array<f32, CHUNK>; // of the chunk's tokens

var<private> begin: u32;     // the chunk's first token
var<private> origin: vec2u;  // the tile's first channel and state
var<private> columns: vec2u; // where x of the head and B of its group begin

fn along_a(s: u32) -> bool { return false; }
fn along_b(s: u32) -> bool { return false; }
fn operand_a(row: u32, quad: u32) -> vec4f {
    let w = vec4f(weights[4u * quad], weights[4u * quad + 1u], weights[4u * quad + 2u], weights[4u * quad + 3u]);
    let channel = origin.x + row;
    return w * tokens4(begin + 4u * quad, columns.x + channel, channel < p.head_dim);
}
fn operand_b(row: u32, quad: u32) -> vec4f {
    let n = origin.y + row;
    return tokens4(begin + 4u * quad, columns.y + n, n < p.d_state);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let across = (p.d_state + COLS - 1u) / COLS;
    let h = wid.y % p.heads;
    origin = vec2u(wid.x / across * ROWS, wid.x % across * COLS);
    let chunk_begin = wid.y / p.heads * CHUNK;
    begin = chunk_begin;
    columns = vec2u(p.x_offset + h * p.head_dim, p.b_offset + h / p.group_heads * p.d_state);
    let at = wid.y * CHUNK;
    for (var i = lid; i < CHUNK; i += WG) {
        let kept = exp(log_span(unpacked(cumsum[at + CHUNK - 1u]), unpacked(cumsum[at + i])));
        weights[i] = delta[at + i] * kept;
    }
    workgroupBarrier();
    var acc: array<vec4f, 8>;
    multiply(&acc, (min(CHUNK, p.l - chunk_begin) + 15u) / 16u, lid);
    for (var r = 0u; r < 8u; r++) {
        let channel = origin.x + row_of(r, lid);
        for (var c = 0u; c < 4u; c++) {
            let n = origin.y + column_of(c, lid);
            if channel < p.head_dim && n < p.d_state {
                states[(wid.y * p.head_dim + channel) * p.d_state + n] = acc[r][c];
            }
        }
    }
}
