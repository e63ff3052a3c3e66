// y = x w^T, tiled: the linear layers (in_proj, x_proj, dt_proj, out_proj, head) of more than one token.
// Grid: a workgroup of PARTS x 8 x 8 invocations a tile of TOKENS tokens (y) by OUTPUTS outputs (x); an invocation keeps a piece
// of every eighth row and column in registers, 8 x 8 of them in a tile of 64 by 64. Both operands pass through workgroup memory
// in slices of 16 along k, as quads along k: sixteen reads there feed 256 multiply-adds. The next slice is read from memory
// before the barrier, so that it arrives while this one is multiplied. Where tokens are few, so are tiles: then PARTS slices
// are multiplied at once, and their sums meet at the end.
//   EXPERTS   w holds the matrices of several experts; tiles are of the rows that are an expert's
#include "shared/linear.wgsl"
#include "shared/rows.wgsl"
#include "${weight}"
@group(0) @binding(3) var<storage, read_write> y: array<y_t>; // (L, y_stride)
#if EXPERTS
#include "shared/experts.wgsl"
#endif

const SLICE: u32 = 4u;         // quads along k
const PITCH: u32 = SLICE + 1u; // one more, so that neighbouring rows lie in different banks
const ROWS: u32 = 64u / SLICE; // that a part's invocations read at a time
const LOADS_X: u32 = TOKENS / ROWS;
const LOADS_W: u32 = OUTPUTS / ROWS;
const DOWN: u32 = TOKENS / 8u;
const ACROSS: u32 = OUTPUTS / 8u;

var<workgroup> tile_x: array<vec4f, PARTS * TOKENS * PITCH>;
var<workgroup> tile_w: array<vec4f, PARTS * OUTPUTS * PITCH>;

// The rows of a workgroup's tiles: where they are in x and y, the first of w, and how many tokens there are.
struct Rows { first: u32, w: u32, l: u32 }

// Past k and past the last token x is zero; outputs past the last are multiplied and not stored.
fn read_x(rows: Rows, t: u32, q: u32) -> vec4f {
    return select(vec4f(), x4(x_row(rows.first + min(t, rows.l - 1u)), q), t < rows.l);
}
fn read_w(rows: Rows, j: u32, q: u32) -> vec4f {
    return weight4((rows.w + min(j, p.n - 1u)) * p.k4 + min(q, p.k4 - 1u));
}
#if EXPERTS
#else
fn x_row(t: u32) -> u32 { return t; }
fn y_row(t: u32) -> u32 { return t; }
#endif

@compute @workgroup_size(8, 8, PARTS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) id: vec3u) {
#if EXPERTS
    let e = p.expert + wid.y / p.tiles;
    let rows = Rows(offsets[e], (e - p.part) * p.n, offsets[e + 1u] - offsets[e]);
    let t0 = wid.y % p.tiles * TOKENS;
    if t0 >= rows.l { return; }
#else
    let rows = Rows(0u, 0u, p.l);
    let t0 = wid.y * TOKENS;
#endif
    let j0 = (p.tile + wid.x) * OUTPUTS;
    // Sixteen rows of four quads at a time.
    let lane = 8u * id.y + id.x;
    let row = lane / SLICE;
    let quad = lane % SLICE;
    let first = id.z * SLICE + quad;
    let in_x = id.z * TOKENS;
    let in_w = id.z * OUTPUTS;
    var next_x: array<vec4f, LOADS_X>;
    var next_w: array<vec4f, LOADS_W>;
    var acc: array<f32, DOWN * ACROSS>;
    for (var i = 0u; i < LOADS_X; i++) { next_x[i] = read_x(rows, t0 + row + i * ROWS, first); }
    for (var i = 0u; i < LOADS_W; i++) { next_w[i] = read_w(rows, j0 + row + i * ROWS, first); }
    for (var q0 = 0u; q0 < quads(); q0 += PARTS * SLICE) {
        let next = q0 + PARTS * SLICE + first;
        for (var i = 0u; i < LOADS_X; i++) {
            tile_x[(in_x + row + i * ROWS) * PITCH + quad] = next_x[i];
            next_x[i] = read_x(rows, t0 + row + i * ROWS, next);
        }
        for (var i = 0u; i < LOADS_W; i++) {
            tile_w[(in_w + row + i * ROWS) * PITCH + quad] = next_w[i];
            next_w[i] = read_w(rows, j0 + row + i * ROWS, next);
        }
        workgroupBarrier();
        for (var kk = 0u; kk < SLICE; kk++) {
            var b: array<vec4f, ACROSS>;
            for (var c = 0u; c < ACROSS; c++) { b[c] = tile_w[(in_w + id.x + 8u * c) * PITCH + kk]; }
            for (var r = 0u; r < DOWN; r++) {
                let a = tile_x[(in_x + id.y + 8u * r) * PITCH + kk];
                for (var c = 0u; c < ACROSS; c++) {
                    let s = fma(a.y, b[c].y, fma(a.x, b[c].x, acc[ACROSS * r + c]));
                    acc[ACROSS * r + c] = fma(a.w, b[c].w, fma(a.z, b[c].z, s));
                }
            }
        }
        workgroupBarrier();
    }
#if FEW
    // The tiles are done with: one part's sums at a time go to the first part, in quads.
    for (var part = 1u; part < PARTS; part++) {
        if id.z == part {
            for (var i = 0u; i < DOWN * ACROSS; i += 4u) {
                tile_x[(lane * DOWN * ACROSS + i) / 4u] = vec4f(acc[i], acc[i + 1u], acc[i + 2u], acc[i + 3u]);
            }
        }
        workgroupBarrier();
        if id.z == 0u {
            for (var i = 0u; i < DOWN * ACROSS; i++) { acc[i] += tile_x[(lane * DOWN * ACROSS + i) / 4u][i % 4u]; }
        }
        workgroupBarrier();
    }
    if id.z > 0u { return; }
#endif
    for (var r = 0u; r < DOWN; r++) {
        let t = t0 + id.y + 8u * r;
        for (var c = 0u; c < ACROSS; c++) {
            let j = j0 + id.x + 8u * c;
            if t < rows.l && j < p.n {
                y[y_row(rows.first + t) * p.y_stride + p.y_offset + j] = to_y_t(epilogue(j, acc[ACROSS * r + c]));
            }
        }
    }
}
