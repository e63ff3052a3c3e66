// y = x w^T as matmul.wgsl, by cooperative matrices: 16 x 16 x 16, f16 factors, f32 sums. A native variant, for adapters that
// offer this shape with subgroups of 32.
// Grid: a workgroup of four subgroups a tile of 128 tokens (y) by 128 outputs (x); a subgroup keeps a 64 x 64 piece as 4 x 4
// matrices. Both operands pass through workgroup memory in slices of 32 along k. The next slice is read from memory before the
// barrier, so that it arrives while this one is multiplied. x_t, y_t: the number formats of x and y.
// DIRECT: y is f32, has rows for whole tiles and no epilogue, and all outputs of the tiles are there: sums are stored as they are.
// WATCH: x is f32, and values of it that f16 cannot hold are noticed as in shared/watch.wgsl, by a plain store: the memory model
// that comes with cooperative matrices wants one feature more for atomics. All store the same.
#include "shared/linear.wgsl"
#include "${coop}"
@group(0) @binding(2) var<storage, read> x: array<vec4<x_t>>;  // (L, x_stride / 4), x_stride and k multiples of 4
@group(0) @binding(3) var<storage, read_write> y: array<y_t>;  // (L, y_stride)
#if WATCH
@group(0) @binding(9) var<storage, read_write> beyond: array<u32>; // [0]: 1 once a value was
#endif

const TILE: u32 = 128u;
const SLICE: u32 = 8u;         // quads along k
const PITCH: u32 = SLICE + 2u; // two more, so that neighbouring rows lie in different banks
const THREADS: u32 = 128u;
const LOADS: u32 = TILE * SLICE / THREADS;

var<workgroup> tile_x: array<vec4<f16>, TILE * PITCH>; // tokens
var<workgroup> tile_w: array<vec4<f16>, TILE * PITCH>; // outputs
#if STRIPS
const STRIP: u32 = 68u; // columns of a subgroup's strip of results, 64 and some that keep banks apart
var<workgroup> strips: array<f32, 4 * 16 * STRIP>;     // (subgroups, 16, STRIP)
#endif

// Past k x is zero; rows past the last are multiplied and not stored.
fn read_x(t: u32, q: u32) -> vec4<f16> {
    let v = x[min(t, p.l - 1u) * (p.x_stride / 4u) + min(q, quads() - 1u)];
#if WATCH
    if any((bitcast<vec4u>(v) & vec4u(0x7fffffffu)) > vec4u(0x477fe000u)) { beyond[0] = 1u; } // 65,504
#endif
    return select(vec4<f16>(), vec4<f16>(v), q < quads());
}
fn read_w(j: u32, q: u32) -> vec4<f16> {
    return weight4h(min(j, p.n - 1u) * p.k4 + min(q, p.k4 - 1u));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t0 = wid.y * TILE;
    let j0 = (p.tile + wid.x) * TILE;
    let subgroup = lid / 32u;
    let row0 = subgroup / 2u * 64u;
    let column0 = subgroup % 2u * 64u;
    // Sixteen rows of eight quads at a time.
    let row = lid / SLICE;
    let quad = lid % SLICE;
    var next_x: array<vec4<f16>, LOADS>;
    var next_w: array<vec4<f16>, LOADS>;
#repeat r 4
#repeat c 4
    var sum_${r}_${c}: coop_mat16x16<f32, C>;
#end
#end
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
#repeat kk 2
#repeat r 4
        let a_at_${kk}_${r} = (row0 + 16u * ${r}u) * PITCH + 4u * ${kk}u;
        let a_${kk}_${r} = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[a_at_${kk}_${r}], PITCH);
#end
#repeat c 4
        let b_at_${kk}_${c} = (column0 + 16u * ${c}u) * PITCH + 4u * ${kk}u;
        let b_${kk}_${c} = coopLoad<coop_mat16x16<f16, B>>(&tile_w[b_at_${kk}_${c}], PITCH);
#repeat r 4
        sum_${r}_${c} = coopMultiplyAdd(a_${kk}_${r}, b_${kk}_${c}, sum_${r}_${c});
#end
#end
#end
        workgroupBarrier();
    }
#if DIRECT
    let stride = p.y_stride;
    let y0 = (t0 + row0) * stride + p.y_offset + j0 + column0;
#repeat r 4
#repeat c 4
    let y_${r}_${c} = y0 + 16u * ${r}u * stride + 16u * ${c}u;
    coopStoreT(sum_${r}_${c}, &y[y_${r}_${c}], stride);
#end
#end
#endif
#if STRIPS
    // A strip of 16 tokens by 64 outputs at a time, through workgroup memory, where each invocation finds its own.
    let strip0 = subgroup * 16u * STRIP;
    let lane = lid % 32u;
#repeat r 4
#repeat c 4
    let strip_${r}_${c} = strip0 + 16u * ${c}u;
    coopStoreT(sum_${r}_${c}, &strips[strip_${r}_${c}], STRIP);
#end
    workgroupBarrier();
    for (var i = 0u; i < 16u; i++) {
        let t = t0 + row0 + 16u * ${r}u + i;
        for (var half = 0u; half < 2u; half++) {
            let column = lane + 32u * half;
            let j = j0 + column0 + column;
            if t < p.l && j < p.n {
                y[t * p.y_stride + p.y_offset + j] = to_y_t(epilogue(j, strips[strip0 + i * STRIP + column]));
            }
        }
    }
    workgroupBarrier();
#end
#endif
}
