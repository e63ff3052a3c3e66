// The gradients of y = x w^T, tiled. With X, of x; otherwise of w:
//   grad_x (tokens, k) = grad_y w          summed over the outputs j
//   grad_w (n, k)      = grad_y^T x        summed over the tokens t
// Grid: x over tiles of 64 columns, y over tiles of 64 rows, as often as the sum is cut into runs (few tiles, a long sum); then the
// result is one part of PARTIAL sums, which sum_partials adds up. A workgroup is 8 x 8 invocations; each keeps two by two squares of
// 4 x 4 in registers. Operands pass through workgroup memory in slices of 16 along the sum, as quads across it: four reads there
// feed 64 multiply-adds. The next slice is read from memory before this one is multiplied.
#include "shared/matmul_grad.wgsl"
@group(0) @binding(1) var<storage, read> grad_y: array<f32>; // (L, y_stride)
#if X
@group(0) @binding(2) var<storage, read> w: array<vec4f>;    // (n, b_stride)
#else
@group(0) @binding(2) var<storage, read> x: array<f32>;      // (L, b_stride)
#endif
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // (rows, out_stride), or partial sums (parts, rows, cols)

const TILE: u32 = 64u;
const SLICE: u32 = 16u;
const PITCH: u32 = 17u; // quads; one more than there are, so that neighbouring terms lie in different banks

var<workgroup> tile_a: array<vec4f, 272>; // (SLICE, PITCH): rows
var<workgroup> tile_b: array<vec4f, 272>; // (SLICE, PITCH): columns

// grad_y of one row of the result and one term, zero outside.
fn a(row: u32, term: u32, end: u32) -> f32 {
#if X
    let at = row * p.y_stride + p.y_offset + term;
#else
    let at = term * p.y_stride + p.y_offset + row;
#endif
    return select(0.0, grad_y[at], row < p.rows && term < end);
}

fn a4(row: u32, term: u32, end: u32) -> vec4f {
    return vec4f(a(row, term, end), a(row + 1u, term, end), a(row + 2u, term, end), a(row + 3u, term, end));
}

// Four columns of one term; what lies past the last column is multiplied and not stored.
fn b4(col: u32, term: u32, end: u32) -> vec4f {
#if X
    return select(vec4f(), w[term * p.b_stride + min(col / 4u, p.b_stride - 1u)], term < end);
#else
    let at = term * p.b_stride + col;
    return select(vec4f(), vec4f(x[at], x[at + 1u], x[at + 2u], x[at + 3u]), term < end);
#endif
}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
    let tiles = (p.rows + TILE - 1u) / TILE;
    let row0 = wid.y % tiles * TILE;
    let col0 = wid.x * TILE;
    let part = wid.y / tiles;
    let end = min((part + 1u) * p.run, p.sum);
    // Neighbouring invocations read neighbours in memory: grad_y lies along the terms for X, along the rows otherwise.
    let across = lid % 16u;
    let along = lid / 16u;
    var next_a: array<vec4f, 4>;
    var next_b: array<vec4f, 4>;
    var acc: array<vec4f, 16>;
    for (var k0 = part * p.run; k0 < end + SLICE; k0 += SLICE) {
        // The first round has nothing to multiply: it only reads.
        if k0 > part * p.run {
            for (var i = 0u; i < 4u; i++) {
#if X
                tile_a[across * PITCH + along + 4u * i] = next_a[i];
#else
                tile_a[(along + 4u * i) * PITCH + across] = next_a[i];
#endif
                tile_b[(along + 4u * i) * PITCH + across] = next_b[i];
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < 4u; i++) {
#if X
            next_a[i] = a4(row0 + 4u * (along + 4u * i), k0 + across, end);
#else
            next_a[i] = a4(row0 + 4u * across, k0 + along + 4u * i, end);
#endif
            next_b[i] = b4(col0 + 4u * across, k0 + along + 4u * i, end);
        }
        if k0 > part * p.run {
            for (var k = 0u; k < SLICE; k++) {
                let a0 = tile_a[k * PITCH + id.y];
                let a1 = tile_a[k * PITCH + id.y + 8u];
                let b0 = tile_b[k * PITCH + id.x];
                let b1 = tile_b[k * PITCH + id.x + 8u];
#repeat r 4
                acc[${r}] = fma(vec4f(a0[${r}]), b0, acc[${r}]);
                acc[4 + ${r}] = fma(vec4f(a0[${r}]), b1, acc[4 + ${r}]);
                acc[8 + ${r}] = fma(vec4f(a1[${r}]), b0, acc[8 + ${r}]);
                acc[12 + ${r}] = fma(vec4f(a1[${r}]), b1, acc[12 + ${r}]);
#end
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 16u; i++) {
        let row = row0 + 4u * id.y + 32u * (i / 8u) + i % 4u;
        for (var j = 0u; j < 4u; j++) {
            let col = col0 + 4u * id.x + 32u * (i / 4u % 2u) + j;
            if row < p.rows && col < p.cols {
#if PARTIAL
                out[(part * p.rows + row) * p.cols + col] = acc[i][j];
#endif
#if SET
                out[row * p.out_stride + col] = acc[i][j];
#endif
#if ADD
                out[row * p.out_stride + col] += acc[i][j];
#endif
            }
        }
    }
}
