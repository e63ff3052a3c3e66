// partials[i] = the largest |x| that workgroup i has seen; the largest of those is that of all. By it a gradient is scaled before
// it is held in halves (matmul_grad_split). A maximum does not depend on the order: the same bits every time. A NaN may be missed.
// Grid: GROUPS workgroups, whatever the size; an invocation reads every so many-th quad, four of them in flight.
#include "shared/reduce.wgsl"

struct Params {
    rows: u32,
    cols: u32,   // quads
    stride: u32, // quads of a row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;           // (rows, stride)
@group(0) @binding(2) var<storage, read_write> partials: array<f32>; // (GROUPS)

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let total = p.rows * p.cols;
    var most = vec4f();
    for (var i = wid.x * WG + lid; i < total; i += 4u * GROUPS * WG) {
#repeat j 4
        // The last one again instead of what is past it.
        let at_${j} = min(i + ${j}u * GROUPS * WG, total - 1u);
        let x_${j} = abs(x[at_${j} / p.cols * p.stride + at_${j} % p.cols]);
#end
        most = max(most, max(max(x_0, x_1), max(x_2, x_3)));
    }
    let all = workgroup_max(lid, max(max(most.x, most.y), max(most.z, most.w)));
    if lid == 0u { partials[wid.x] = all; }
}
