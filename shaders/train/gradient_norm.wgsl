// Sums of squares of a gradient, a partial sum a workgroup: always over the same values in the same order.
//   partials[first + g] = sum of gradient[i]^2 over the g-th BLOCK quads
// Grid: a workgroup for every BLOCK quads, flat.
#include "shared/reduce.wgsl"

struct Params {
    quads: u32,
    first: u32, // where this buffer's partial sums begin
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gradient: array<vec4f>;      // (quads)
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * num.x + wid.x;
    let begin = group * BLOCK;
    // Groups past the end (the last line of a grid that spilled into y) have nothing to add, but reach every barrier.
    let end = min(begin + BLOCK, p.quads);
    var sum = 0.0;
    for (var i = begin + lid; i < end; i += WG) {
        sum += dot(gradient[i], gradient[i]);
    }
    let total = workgroup_sum(lid, sum);
    if lid == 0u && begin < p.quads {
        partials[p.first + group] = total;
    }
}
