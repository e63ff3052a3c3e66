// y = -exp(x), at most FASTEST (reference/discretise.rs): A of A_log. With SOFTPLUS, y = softplus(x): delta of its bias,
// without selectivity.
// Grid: an invocation a value.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
struct Params { elements: u32 }
const FASTEST: f32 = 0x1p100;
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    if i >= p.elements { return; }
#if SOFTPLUS
    y[i] = softplus(x[i]);
#else
    let a = exp(x[i]);
    y[i] = -select(a, FASTEST, a > FASTEST);
#endif
}
