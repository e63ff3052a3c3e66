// What families with multipliers do to rows: x scaled column by column with SCALE, and rows of the same size added with ADD.
// Grid: an invocation EACH values, WG apart.

struct Params {
    n: u32,     // values of x
    width: u32, // columns
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // (L, width)
#if SCALE
@group(0) @binding(2) var<storage, read> scale: array<f32>;    // (width)
#endif
#if ADD
@group(0) @binding(3) var<storage, read> added: array<f32>;    // (L, width)
#endif

const WG: u32 = 256u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let first = (wid.y * num.x + wid.x) * WG * EACH + lid;
#repeat u EACH
    // Past the last value the last one again, which is not stored.
    let item_${u} = min(first + ${u}u * WG, p.n - 1u);
    var by_${u} = 1.0;
    var plus_${u} = 0.0;
#if SCALE
    by_${u} = scale[item_${u} % p.width];
#endif
#if ADD
    plus_${u} = added[item_${u}];
#endif
    let x_${u} = x[item_${u}];
#end
#repeat u EACH
    if first + ${u}u * WG < p.n { x[item_${u}] = fma(x_${u}, by_${u}, plus_${u}); }
#end
}
