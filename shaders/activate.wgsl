// What stands between an MLP's projections: out = scale f(gate_scale gate) x with GATE, else scale f(x).
// Grid: an invocation a token and column.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"
#include "shared/watch.wgsl"
#include "shared/activation.wgsl"

struct Params {
    l: u32,
    width: u32,
    x_stride: u32,    // columns of the rows that hold x,
    x_offset: u32,    //   and the one where x begins
    gate_stride: u32, // the same of the gate's
    gate_offset: u32,
    gate_scale: f32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<x_t>;         // (L, x_stride)
@group(0) @binding(2) var<storage, read_write> out: array<act>; // (L, width)
#if GATE
@group(0) @binding(3) var<storage, read> gate: array<x_t>;      // (L, gate_stride)
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let item = flat_index(wid, num, lid, 64u);
    if item >= p.l * p.width { return; }
    let t = item / p.width;
    let column = item % p.width;
    var v = f32(x[t * p.x_stride + p.x_offset + column]);
#if GATE
    v *= f(p.gate_scale * f32(gate[t * p.gate_stride + p.gate_offset + column]));
#else
    v = f(v);
#endif
    out[item] = to_act(watch(p.scale * v));
}
