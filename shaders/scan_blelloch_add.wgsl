// Brings the scanned block sums back: every element of block j > 0 follows all of the blocks before it.
// Only b is needed of the result at the top level, but the levels between need a too.
// Grid: an invocation an element.
#include "shared/grid.wgsl"
#include "shared/scan_op.wgsl"

const BLOCK: u32 = 2u * WIDTH;

struct Params {
    l: u32,     // elements over time
    lanes: u32, // d_inner * d_state
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<f32>; // (l, lanes)
@group(0) @binding(2) var<storage, read_write> b: array<f32>; // (l, lanes)
@group(0) @binding(3) var<storage, read> sums_a: array<f32>;  // (blocks, lanes), scanned
@group(0) @binding(4) var<storage, read> sums_b: array<f32>;  // (blocks, lanes), scanned

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    let t = i / p.lanes;
    let block = t / BLOCK;
    if t >= p.l || block == 0u { return; }
    let before = (block - 1u) * p.lanes + i % p.lanes;
    let e = combine(ScanElement(sums_a[before], sums_b[before]), ScanElement(a[i], b[i]));
    a[i] = e.a;
    b[i] = e.b;
}
