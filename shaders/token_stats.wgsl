// A token's numbers over all channels, or heads (units, of `width` channels): mean delta, mean forget factor, norm of the state
// (the root of the energies' sum).
// Grid: a workgroup a token.
#include "shared/reduce.wgsl"

struct Params {
    l: u32,
    units: u32,
    width: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> delta: array<f32>;       // (L, units)
@group(0) @binding(2) var<storage, read> forget: array<f32>;      // (L, units)
@group(0) @binding(3) var<storage, read> energy: array<f32>;      // (L, units, width)
@group(0) @binding(4) var<storage, read_write> stats: array<f32>; // (L, 3)

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t = wid.y * num.x + wid.x;
    // Tokens past the end (the last line of a grid that spilled into y) load nothing and store nothing, but reach every barrier.
    let units = select(0u, p.units, t < p.l);
    let channels = units * p.width;
    var sums = vec3f();
    for (var d = lid; d < units; d += WG) {
        let at = t * units + d;
        sums += vec3f(delta[at], forget[at], 0.0);
    }
    for (var d = lid; d < channels; d += WG) {
        sums.z += energy[t * channels + d];
    }
    let step = workgroup_sum(lid, sums.x);
    let left = workgroup_sum(lid, sums.y);
    let norm = sqrt(workgroup_sum(lid, sums.z));
    if lid == 0u && t < p.l {
        stats[3u * t] = step / f32(p.units);
        stats[3u * t + 1u] = left / f32(p.units);
        stats[3u * t + 2u] = norm;
    }
}
