// residual[t, :] = embedding[tokens[t], :]
// Grid: an invocation a quad of one token's row. The table may be split by rows into parts, each bound and
// dispatched alone: a part writes only the tokens whose rows it holds.
#include "shared/grid.wgsl"
#include "${weight}"

struct Params {
    l: u32,         // tokens
    d_model: u32,
    d4: u32,        // quads a table row
    row_start: u32, // first row of this part
    rows: u32,      // rows of this part
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> tokens: array<u32>;        // (L)
@group(0) @binding(3) var<storage, read_write> residual: array<f32>; // (L, d_model)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    let t = i / p.d4;
    if t >= p.l { return; }
    let q = i % p.d4;
    let row = tokens[t] - p.row_start; // wraps to a large number for rows before this part
    if row >= p.rows { return; }
    let v = weight4(row * p.d4 + q);
    for (var j = 0u; j < 4u; j++) {
        let c = 4u * q + j;
        if c < p.d_model { residual[t * p.d_model + c] = v[j]; }
    }
}
