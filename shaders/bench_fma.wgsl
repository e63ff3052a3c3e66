// The arithmetic ceiling of `mamba-wgpu bench`: eight independent chains of vec4 multiply-adds an invocation, all in
// registers. One round of a chain is 8 floating point operations.
// Grid: a workgroup of 256 invocations; each stores one sum, so that no compiler may drop the chains.
#include "shared/grid.wgsl"

struct Params {
    invocations: u32,
    rounds: u32, // of eight steps of every chain
    scale: f32,  // both unknown to the compiler; |scale| < 1 keeps the chains finite
    shift: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>; // (invocations)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    if i >= p.invocations { return; }
    let m = vec4f(p.scale);
    let s = vec4f(p.shift);
    var a = vec4f(f32(i));
    var b = a + 1.0;
    var c = a + 2.0;
    var d = a + 3.0;
    var e = a + 4.0;
    var f = a + 5.0;
    var g = a + 6.0;
    var h = a + 7.0;
    for (var r = 0u; r < p.rounds; r++) {
        for (var j = 0u; j < 8u; j++) {
            a = fma(a, m, s);
            b = fma(b, m, s);
            c = fma(c, m, s);
            d = fma(d, m, s);
            e = fma(e, m, s);
            f = fma(f, m, s);
            g = fma(g, m, s);
            h = fma(h, m, s);
        }
    }
    let sum = a + b + c + d + e + f + g + h;
    sums[i] = sum.x + sum.y + sum.z + sum.w;
}
