// What a token's experts make of it, summed by their weights; ADD adds the sum to what is there.
// Grid: an invocation a value.
#include "shared/grid.wgsl"

struct Params {
    n: u32,      // values of out
    width: u32,  // columns
    chosen: u32, // experts a token
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>; // (L, width)
@group(0) @binding(2) var<storage, read> y: array<f32>;         // (L, chosen, width)
@group(0) @binding(3) var<storage, read> weights: array<f32>;   // (L, chosen)

const WG: u32 = 256u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let item = flat_index(wid, num, lid, WG);
    if item >= p.n { return; }
    let pair = item / p.width * p.chosen;
    var sum = 0.0;
    for (var k = 0u; k < p.chosen; k++) {
        sum = fma(weights[pair + k], y[(pair + k) * p.width + item % p.width], sum);
    }
#if ADD
    sum += out[item];
#endif
    out[item] = sum;
}
