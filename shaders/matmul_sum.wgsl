// The sums of matmul_few.wgsl's splits of k, in their order, and what comes after: y of a part of w.
#include "shared/linear.wgsl"
#include "shared/grid.wgsl"
@group(0) @binding(2) var<storage, read> partial: array<f32>; // (splits, L, n)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (L, y_stride)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    if i >= p.l * p.n { return; }
    var sum = 0.0;
    for (var s = 0u; s < p.split; s++) { sum += partial[s * p.l * p.n + i]; }
    let j = i % p.n;
    y[i / p.n * p.y_stride + p.y_offset + j] = epilogue(j, sum);
}
