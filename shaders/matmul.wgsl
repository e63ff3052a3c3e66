// y = x w^T, tiled: the prefill's linear layers (in_proj, x_proj, dt_proj, out_proj, head).
// Grid: a workgroup of 8 x 8 invocations a tile of 64 tokens (y) by 64 outputs (x); an invocation keeps an 8 x 8 piece of
// every eighth row and column in registers. Both operands pass through workgroup memory in slices of 16 along k, as quads
// along k: sixteen reads there feed 256 multiply-adds. The next slice is read from memory before the barrier, so that it
// arrives while this one is multiplied.
#include "shared/linear.wgsl"
#include "shared/rows.wgsl"
#include "${weight}"
@group(0) @binding(3) var<storage, read_write> y: array<y_t>; // (L, y_stride)

const TILE: u32 = 64u;
const SLICE: u32 = 4u;        // quads along k
const PITCH: u32 = SLICE + 1u; // one more, so that neighbouring rows lie in different banks
const THREADS: u32 = 64u;
const LOADS: u32 = TILE * SLICE / THREADS;

var<workgroup> tile_x: array<vec4f, TILE * PITCH>; // tokens
var<workgroup> tile_w: array<vec4f, TILE * PITCH>; // outputs

// Past k and past the last token x is zero; outputs past the last are multiplied and not stored.
fn read_x(t: u32, q: u32) -> vec4f {
    return select(vec4f(), x4(min(t, p.l - 1u), q), t < p.l);
}
fn read_w(j: u32, q: u32) -> vec4f {
    return weight4(min(j, p.n - 1u) * p.k4 + min(q, p.k4 - 1u));
}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t0 = wid.y * TILE;
    let j0 = wid.x * TILE;
    // Sixteen rows of four quads at a time.
    let row = lid / SLICE;
    let quad = lid % SLICE;
    var next_x: array<vec4f, LOADS>;
    var next_w: array<vec4f, LOADS>;
    var acc: array<f32, 64>;
    for (var i = 0u; i < LOADS; i++) {
        next_x[i] = read_x(t0 + row + i * (THREADS / SLICE), quad);
        next_w[i] = read_w(j0 + row + i * (THREADS / SLICE), quad);
    }
    for (var q0 = 0u; q0 < quads(); q0 += SLICE) {
        for (var i = 0u; i < LOADS; i++) {
            let at = (row + i * (THREADS / SLICE)) * PITCH + quad;
            tile_x[at] = next_x[i];
            tile_w[at] = next_w[i];
            next_x[i] = read_x(t0 + row + i * (THREADS / SLICE), q0 + SLICE + quad);
            next_w[i] = read_w(j0 + row + i * (THREADS / SLICE), q0 + SLICE + quad);
        }
        workgroupBarrier();
        for (var kk = 0u; kk < SLICE; kk++) {
            var b: array<vec4f, 8>;
            for (var c = 0u; c < 8u; c++) { b[c] = tile_w[(id.x + 8u * c) * PITCH + kk]; }
            for (var r = 0u; r < 8u; r++) {
                let a = tile_x[(id.y + 8u * r) * PITCH + kk];
                for (var c = 0u; c < 8u; c++) {
                    let s = fma(a.y, b[c].y, fma(a.x, b[c].x, acc[8u * r + c]));
                    acc[8u * r + c] = fma(a.w, b[c].w, fma(a.z, b[c].z, s));
                }
            }
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < 8u; r++) {
        let t = t0 + id.y + 8u * r;
        for (var c = 0u; c < 8u; c++) {
            let j = j0 + id.x + 8u * c;
            if t < p.l && j < p.n { y[t * p.y_stride + p.y_offset + j] = to_y_t(epilogue(j, acc[8u * r + c])); }
        }
    }
}
