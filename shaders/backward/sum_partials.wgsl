// Adds up partial sums, always in the same order: out (+)= sum over parts of partials[part].
// Grid: a workgroup for 64 elements; four invocations share one element, each every fourth part.
#include "shared/grid.wgsl"

struct Params {
    parts: u32,
    part_stride: u32, // elements from one part to the next
    offset: u32,      // first element of the first part
    elements: u32,    // of a part
    cols: u32,        // an element is row i / cols, column i % cols of the result, which lies at
    row_stride: u32,  //   out_offset + row row_stride + column col_stride
    col_stride: u32,
    out_offset: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid % 64u, 64u);
    let at = p.offset + min(i, p.elements - 1u);
    var sum = 0.0;
    for (var part = lid / 64u; part < p.parts; part += 4u) { sum += partials[part * p.part_stride + at]; }
    sums[lid] = sum;
    workgroupBarrier();
    if lid < 64u && i < p.elements {
        let total = (sums[lid] + sums[lid + 64u]) + (sums[lid + 128u] + sums[lid + 192u]);
        let to = p.out_offset + i / p.cols * p.row_stride + i % p.cols * p.col_stride;
#if ADD
        out[to] += total;
#else
        out[to] = total;
#endif
    }
}
