// Sums over rows, in blocks of rows: partials[block, c] = sum over the block's rows of x[t, c]. With SCALED, of
// x[t, c] y[t, c] scale[t]: the gradient of a norm's weight. sum_partials adds up the blocks.
// Grid: an invocation a column of a block.
#include "shared/grid.wgsl"

struct Params {
    rows: u32,
    cols: u32,
    stride: u32,   // columns of x
    block: u32,    // rows of a block
    partials: u32, // where in scratch the partial sums begin; the scales begin at 0
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;             // (rows, stride)
@group(0) @binding(2) var<storage, read_write> scratch: array<f32>; // scales (rows); partials (blocks, cols)
#if SCALED
@group(0) @binding(3) var<storage, read> y: array<f32>;             // (rows, cols)
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    let c = i % p.cols;
    let t0 = i / p.cols * p.block;
    if t0 >= p.rows { return; }
    var sum = 0.0;
    for (var t = t0; t < min(t0 + p.block, p.rows); t++) {
#if SCALED
        sum = fma(x[t * p.stride + c] * scratch[t], y[t * p.cols + c], sum);
#else
        sum += x[t * p.stride + c];
#endif
    }
    scratch[p.partials + i] = sum;
}
