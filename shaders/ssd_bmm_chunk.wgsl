// Mamba-2, rung (b): C[t] . B[s] within each chunk, once a group (mamba-ssm's ssd_bmm.py, _bmm_chunk_fwd, causal).
// Grid: x over the tiles of a chunk's (CHUNK, CHUNK), y over chunks and groups. Tiles above the diagonal are left as
// they are.
#include "shared/ssd.wgsl"
#include "shared/ssd_rows.wgsl"
#include "shared/ssd_tile.wgsl"
@group(0) @binding(3) var<storage, read_write> cb: array<f32>; // (n_chunks, groups, CHUNK, CHUNK)

var<private> first: vec2u;   // the tile's first token of C and of B
var<private> columns: vec2u; // where C and B of the group begin

fn along_a(s: u32) -> bool { return true; }
fn along_b(s: u32) -> bool { return true; }
fn operand_a(row: u32, quad: u32) -> vec4f { return states4(first.x + row, columns.x, 4u * quad); }
fn operand_b(row: u32, quad: u32) -> vec4f { return states4(first.y + row, columns.y, 4u * quad); }

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t0 = wid.x / (CHUNK / COLS) * ROWS;
    let s0 = wid.x % (CHUNK / COLS) * COLS;
    let chunk = wid.y / p.groups;
    let group = wid.y % p.groups * p.d_state;
    let token = chunk * CHUNK + t0;
    first = vec2u(token, chunk * CHUNK + s0);
    columns = vec2u(p.c_offset, p.b_offset) + group;
    var acc: array<vec4f, 8>;
    // The same for a whole workgroup.
    let causal = s0 < t0 + ROWS && token < p.l;
    multiply(&acc, select(0u, (p.d_state + 15u) / 16u, causal), lid);
    for (var r = 0u; r < 8u; r++) {
        for (var c = 0u; c < 4u; c++) {
            let at = (wid.y * CHUNK + t0 + row_of(r, lid)) * CHUNK + s0 + column_of(c, lid);
            if causal { cb[at] = acc[r][c]; }
        }
    }
}
