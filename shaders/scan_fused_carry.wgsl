// Fused scan, second pass: along the blocks, h = exp(A sum delta) h + total. Each block's total is replaced by its
// initial state; what is left at the end is the final state.
// Grid: an invocation a channel and state.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/scan_fused.wgsl"
@group(0) @binding(1) var<storage, read> A: array<f32>;                // (d_inner, d_state)
@group(0) @binding(2) var<storage, read_write> ssm_state: array<f32>;  // (d_inner, d_state): initial in, final out
@group(0) @binding(3) var<storage, read_write> aggregates: array<f32>; // see shared/scan_fused.wgsl

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    if i >= p.d_inner * p.d_state { return; }
    let n = i / p.d_inner;
    let d = i % p.d_inner;
    let a = A[d * p.d_state + n];
    var h = ssm_state[d * p.d_state + n];
    for (var block = 0u; block < p.n_blocks; block++) {
        let at = block_h(block, n, d);
        let total = aggregates[at];
        aggregates[at] = h;
        h = fma(decay(a * aggregates[block_s(block, d)]), h, total);
    }
    ssm_state[d * p.d_state + n] = h;
}
