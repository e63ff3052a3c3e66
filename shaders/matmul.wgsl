// y = x w^T, tiled: the prefill's linear layers (in_proj, x_proj, dt_proj, out_proj, head).
// Grid: a workgroup of 16 x 16 invocations a tile of 64 tokens (y) by 64 outputs (x); an invocation keeps a
// 4 x 4 piece in registers. Both operands pass through workgroup memory in slices of 16 along k, k-major, so
// that the inner loop reads two quads and does sixteen multiply-adds.
#include "shared/linear.wgsl"

const TILE: u32 = 64u;
const SLICE: u32 = 16u;

var<workgroup> tile_x: array<f32, 1024>; // (SLICE, TILE) tokens. Scalars: neighbours write neighbouring
var<workgroup> tile_w: array<f32, 1024>; // (SLICE, TILE) outputs, and a store to a vector's part may store it all.

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t0 = wid.y * TILE;
    let j0 = wid.x * TILE;
    var acc = array<vec4f, 4>();
    // Loading: invocation lid brings quad (lid % 4) of row (lid / 4) of either tile.
    let row = lid / 4u;
    let quad = lid % 4u;
    for (var k = 0u; k < p.k; k += SLICE) {
        let q = k / 4u + quad;
        let a = select(vec4f(), x4(t0 + row, q), t0 + row < p.l);
        let b = select(vec4f(), weight4((j0 + row) * p.k4 + q), j0 + row < p.n && q < p.k4);
        for (var i = 0u; i < 4u; i++) {
            let at = (quad * 4u + i) * TILE + row;
            tile_x[at] = a[i];
            tile_w[at] = b[i];
        }
        workgroupBarrier();
        for (var kk = 0u; kk < SLICE; kk++) {
            let xi = kk * TILE + id.y * 4u;
            let wi = kk * TILE + id.x * 4u;
            let ws = vec4f(tile_w[wi], tile_w[wi + 1u], tile_w[wi + 2u], tile_w[wi + 3u]);
            acc[0] = fma(vec4f(tile_x[xi]), ws, acc[0]);
            acc[1] = fma(vec4f(tile_x[xi + 1u]), ws, acc[1]);
            acc[2] = fma(vec4f(tile_x[xi + 2u]), ws, acc[2]);
            acc[3] = fma(vec4f(tile_x[xi + 3u]), ws, acc[3]);
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let t = t0 + id.y * 4u + i;
        if t < p.l {
            for (var c = 0u; c < 4u; c++) {
                let j = j0 + id.x * 4u + c;
                if j < p.n { store(t, j, acc[i][c]); }
            }
        }
    }
}
