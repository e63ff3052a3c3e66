// What families with multipliers do to rows: x scaled column by column with SCALE, and rows of the same size added with ADD.
// Grid: an invocation a value.
#include "shared/grid.wgsl"

struct Params {
    n: u32,     // values of x
    width: u32, // columns
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // (L, width)
#if SCALE
@group(0) @binding(2) var<storage, read> scale: array<f32>;    // (width)
#endif
#if ADD
@group(0) @binding(3) var<storage, read> added: array<f32>;    // (L, width)
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let item = flat_index(wid, num, lid, 64u);
    if item >= p.n { return; }
    var by = 1.0;
    var plus = 0.0;
#if SCALE
    by = scale[item % p.width];
#endif
#if ADD
    plus = added[item];
#endif
    x[item] = fma(x[item], by, plus);
}
