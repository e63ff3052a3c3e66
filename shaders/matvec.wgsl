// y = w x for one token: the decode's linear layers, bound by the reading of w.
// Grid: a workgroup of 64 invocations four rows of w; the invocations stride over the row in quads and meet in
// workgroup memory. x is one row (l = 1).
#include "shared/linear.wgsl"

const WG: u32 = 64u;
const ROWS: u32 = 4u;

var<workgroup> partial: array<vec4f, WG>; // one partial sum a row

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let j0 = (wid.y * num.x + wid.x) * ROWS;
    var sum = vec4f();
    for (var q = lid; q < p.k4; q += WG) {
        let xs = x4(0u, q);
        for (var r = 0u; r < ROWS; r++) {
            // A row past the end reads the last one again and is not stored.
            let j = min(j0 + r, p.n - 1u);
            sum[r] += dot(weight4(j * p.k4 + q), xs);
        }
    }
    partial[lid] = sum;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lid < half { partial[lid] += partial[lid + half]; }
    }
    workgroupBarrier();
    if lid < ROWS && j0 + lid < p.n {
        store(0u, j0 + lid, partial[0][lid]);
    }
}
