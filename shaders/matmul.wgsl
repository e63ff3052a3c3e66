// y = x w^T, tiled: the prefill's linear layers (in_proj, x_proj, dt_proj, out_proj, head).
// Grid: a workgroup of 8 x 8 invocations a tile of 64 tokens (y) by 64 outputs (x); an invocation keeps an 8 x 8 piece
// in registers. Both operands pass through workgroup memory in slices of 16 along k, k-major, so that sixteen reads
// there feed sixty-four multiply-adds.
#include "shared/linear.wgsl"
#include "shared/rows.wgsl"
#include "${weight}"

const TILE: u32 = 64u;
const SLICE: u32 = 16u;
const THREADS: u32 = 64u;

// Scalars: neighbours write neighbouring elements, and a store to a part of a vector may store it all.
var<workgroup> tile_x: array<f32, 1024>; // (SLICE, TILE) tokens
var<workgroup> tile_w: array<f32, 1024>; // (SLICE, TILE) outputs

fn four_x(i: u32) -> vec4f {
    return vec4f(tile_x[i], tile_x[i + 1u], tile_x[i + 2u], tile_x[i + 3u]);
}
fn four_w(i: u32) -> vec4f {
    return vec4f(tile_w[i], tile_w[i + 1u], tile_w[i + 2u], tile_w[i + 3u]);
}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t0 = wid.y * TILE;
    let j0 = wid.x * TILE;
    // Row i of the piece in acc[2 i] and acc[2 i + 1].
    var acc = array<vec4f, 16>();
    for (var k = 0u; k < p.k; k += SLICE) {
        // 64 rows of four quads each, of either tile: invocation lid brings a quad of every sixteenth row.
        let quad = lid % 4u;
        let q = k / 4u + quad;
        for (var row = lid / 4u; row < TILE; row += THREADS / 4u) {
            let a = select(vec4f(), x4(t0 + row, q), t0 + row < p.l);
            let b = select(vec4f(), weight4((j0 + row) * p.k4 + q), j0 + row < p.n && q < quads());
            for (var i = 0u; i < 4u; i++) {
                let at = (quad * 4u + i) * TILE + row;
                tile_x[at] = a[i];
                tile_w[at] = b[i];
            }
        }
        workgroupBarrier();
        for (var kk = 0u; kk < SLICE; kk++) {
            let x0 = four_x(kk * TILE + id.y * 8u);
            let x1 = four_x(kk * TILE + id.y * 8u + 4u);
            let w0 = four_w(kk * TILE + id.x * 8u);
            let w1 = four_w(kk * TILE + id.x * 8u + 4u);
            for (var i = 0u; i < 4u; i++) {
                acc[2u * i] = fma(vec4f(x0[i]), w0, acc[2u * i]);
                acc[2u * i + 1u] = fma(vec4f(x0[i]), w1, acc[2u * i + 1u]);
                acc[2u * i + 8u] = fma(vec4f(x1[i]), w0, acc[2u * i + 8u]);
                acc[2u * i + 9u] = fma(vec4f(x1[i]), w1, acc[2u * i + 9u]);
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 8u; i++) {
        let t = t0 + id.y * 8u + i;
        if t < p.l {
            for (var c = 0u; c < 8u; c++) {
                let j = j0 + id.x * 8u + c;
                if j < p.n { y[t * p.y_stride + p.y_offset + j] = epilogue(j, acc[2u * i + c / 4u][c % 4u]); }
            }
        }
    }
}
