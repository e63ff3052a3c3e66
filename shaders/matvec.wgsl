// y = w x for one token: the decode's linear layers, bound by the reading of w.
// Grid: a workgroup of WG invocations WG / SPAN groups of four rows of w. SPAN neighbouring invocations stride over four
// rows in quads and leave their sums in workgroup memory, where they are added up eight at a time, then those.
// WG and SPAN, powers of two, are set by the host: wide spans for long rows, narrow ones where adding up would be most of
// the work. x is one row (l = 1); with NORM every workgroup works out the norm's scale for itself.
#include "shared/linear.wgsl"

const ROWS: u32 = 4u; // an invocation
const WG_ROWS: u32 = ROWS * WG / SPAN;
const FOLD: u32 = 8u;

var<workgroup> partial: array<f32, ROWS * WG>;       // (WG_ROWS, SPAN)
var<workgroup> folded: array<f32, ROWS * WG / FOLD>; // (WG_ROWS, SPAN / FOLD)

fn add_eight(i: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < FOLD; j++) { sum += partial[i * FOLD + j]; }
    return sum;
}

#if NORM
fn work_out_scale(lid: u32) {
    var sum = 0.0;
    for (var q = lid; q < quads(); q += WG) { sum += dot(residual[q], residual[q]); }
    partial[lid] = sum;
    workgroupBarrier();
    if lid < WG / FOLD { folded[lid] = add_eight(lid); }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < WG / FOLD; i++) { total += folded[i]; }
    norm_scale = inverseSqrt(total / f32(p.k) + p.eps);
}
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let j0 = (wid.y * num.x + wid.x) * WG_ROWS;
    let group = lid / SPAN;
    let lane = lid % SPAN;
#if NORM
    work_out_scale(lid);
#endif
    // A row past the end reads the last one again and is not stored.
    var row: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r++) { row[r] = min(j0 + group * ROWS + r, p.n - 1u) * p.k4; }
    var sum = vec4f();
    for (var q = lane; q < quads(); q += SPAN) {
        let xs = x4(0u, q);
        for (var r = 0u; r < ROWS; r++) {
            sum[r] += dot(weight4(row[r] + q), xs);
        }
    }
    for (var r = 0u; r < ROWS; r++) { partial[(group * ROWS + r) * SPAN + lane] = sum[r]; }
    workgroupBarrier();
    // The norm has used folded before; all have read it by then.
    if lid < ROWS * WG / FOLD { folded[lid] = add_eight(lid); }
    workgroupBarrier();
    for (var r = lid; r < WG_ROWS; r += WG) {
        if j0 + r < p.n {
            var total = 0.0;
            for (var i = 0u; i < SPAN / FOLD; i++) { total += folded[r * (SPAN / FOLD) + i]; }
            store(0u, j0 + r, total);
        }
    }
}
