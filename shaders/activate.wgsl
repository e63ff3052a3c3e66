// What stands between an MLP's projections: out = scale f(gate_scale gate) x with GATE, else scale f(x).
// Grid: an invocation EACH values, WG apart: what a workgroup costs to begin is more than a few values cost.
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

const WG: u32 = 256u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let first = (wid.y * num.x + wid.x) * WG * EACH + lid;
    let n = p.l * p.width;
#repeat u EACH
    // Past the last value the last one again, which is not stored.
    let item_${u} = min(first + ${u}u * WG, n - 1u);
    let t_${u} = item_${u} / p.width;
    let column_${u} = item_${u} % p.width;
    let x_${u} = f32(x[t_${u} * p.x_stride + p.x_offset + column_${u}]);
#if GATE
    let gate_${u} = f32(gate[t_${u} * p.gate_stride + p.gate_offset + column_${u}]);
#endif
#end
#repeat u EACH
    if first + ${u}u * WG < n {
#if GATE
        out[item_${u}] = to_act(watch(p.scale * x_${u} * f(p.gate_scale * gate_${u})));
#else
        out[item_${u}] = to_act(watch(p.scale * f(x_${u})));
#endif
    }
#end
}
