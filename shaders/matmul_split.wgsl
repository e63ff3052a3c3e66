// y = x w^T as matmul.wgsl, in f32 by cooperative matrices of f16: each factor in two halves (shared/halves.wgsl), three products,
// their sums in f32. A native variant, for adapters that offer 16 x 16 x 16 with subgroups of 32.
// Grid: a workgroup of eight subgroups a tile of 128 tokens (y) by 128 outputs (x); a subgroup keeps a 64 x 32 piece as 4 x 2
// matrices twice, those of hi hi and of the rest. Slices of 32 along k, the next one read before the barrier, as in matmul_coop.
// y has rows for whole tiles, n is whole tiles, there is no epilogue: sums are stored as they are.
#include "shared/halves.wgsl"
#include "shared/linear.wgsl"
#include "${weight}"
@group(0) @binding(2) var<storage, read> x: array<vec4f>;      // (L, x_stride / 4), x_stride and k multiples of 4
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (L, y_stride)

const TILE: u32 = 128u;
const SLICE: u32 = 8u;         // quads along k
const PITCH: u32 = SLICE + 2u; // two more, so that neighbouring rows lie in different banks
const THREADS: u32 = 256u;
const LOADS: u32 = TILE * SLICE / THREADS;

var<workgroup> x_hi: array<vec4<f16>, TILE * PITCH>; // tokens
var<workgroup> x_lo: array<vec4<f16>, TILE * PITCH>;
var<workgroup> w_hi: array<vec4<f16>, TILE * PITCH>; // outputs
var<workgroup> w_lo: array<vec4<f16>, TILE * PITCH>;

// Past k both are zero; rows past the last are multiplied and what comes of them is scratch.
fn read_x(t: u32, q: u32) -> vec4f {
    return select(vec4f(), x[min(t, p.l - 1u) * (p.x_stride / 4u) + min(q, quads() - 1u)], q < quads());
}
fn read_w(j: u32, q: u32) -> vec4f {
    return weight4(min(j, p.n - 1u) * p.k4 + min(q, p.k4 - 1u));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t0 = wid.y * TILE;
    let j0 = wid.x * TILE;
    let subgroup = lid / 32u;
    let row0 = subgroup / 4u * 64u;
    let column0 = subgroup % 4u * 32u;
    // Thirty-two rows of eight quads at a time.
    let row = lid / SLICE;
    let quad = lid % SLICE;
    var next_x: array<vec4f, LOADS>;
    var next_w: array<vec4f, LOADS>;
#repeat r 4
#repeat c 2
    var sum_${r}_${c}: coop_mat16x16<f32, C>;
    var low_${r}_${c}: coop_mat16x16<f32, C>;
#end
#end
    for (var i = 0u; i < LOADS; i++) {
        next_x[i] = read_x(t0 + row + i * (THREADS / SLICE), quad);
        next_w[i] = read_w(j0 + row + i * (THREADS / SLICE), quad);
    }
    for (var q0 = 0u; q0 < quads(); q0 += SLICE) {
        for (var i = 0u; i < LOADS; i++) {
            let at = (row + i * (THREADS / SLICE)) * PITCH + quad;
            let hi_x = high(next_x[i]);
            x_hi[at] = vec4<f16>(hi_x);
            x_lo[at] = vec4<f16>((next_x[i] - hi_x) * LOW);
            let hi_w = high(next_w[i]);
            w_hi[at] = vec4<f16>(hi_w);
            w_lo[at] = vec4<f16>((next_w[i] - hi_w) * LOW);
            next_x[i] = read_x(t0 + row + i * (THREADS / SLICE), q0 + SLICE + quad);
            next_w[i] = read_w(j0 + row + i * (THREADS / SLICE), q0 + SLICE + quad);
        }
        workgroupBarrier();
#repeat kk 2
#repeat r 4
        let a_at_${kk}_${r} = (row0 + 16u * ${r}u) * PITCH + 4u * ${kk}u;
        let a_hi_${kk}_${r} = coopLoadT<coop_mat16x16<f16, A>>(&x_hi[a_at_${kk}_${r}], PITCH);
        let a_lo_${kk}_${r} = coopLoadT<coop_mat16x16<f16, A>>(&x_lo[a_at_${kk}_${r}], PITCH);
#end
#repeat c 2
        let b_at_${kk}_${c} = (column0 + 16u * ${c}u) * PITCH + 4u * ${kk}u;
        let b_hi_${kk}_${c} = coopLoad<coop_mat16x16<f16, B>>(&w_hi[b_at_${kk}_${c}], PITCH);
        let b_lo_${kk}_${c} = coopLoad<coop_mat16x16<f16, B>>(&w_lo[b_at_${kk}_${c}], PITCH);
#repeat r 4
        sum_${r}_${c} = coopMultiplyAdd(a_hi_${kk}_${r}, b_hi_${kk}_${c}, sum_${r}_${c});
        low_${r}_${c} = coopMultiplyAdd(a_hi_${kk}_${r}, b_lo_${kk}_${c}, low_${r}_${c});
        low_${r}_${c} = coopMultiplyAdd(a_lo_${kk}_${r}, b_hi_${kk}_${c}, low_${r}_${c});
#end
#end
#end
        workgroupBarrier();
    }
    let stride = p.y_stride;
    let y0 = (t0 + row0) * stride + p.y_offset + j0 + column0;
#repeat r 4
#repeat c 2
    let y_${r}_${c} = y0 + 16u * ${r}u * stride + 16u * ${c}u;
    let total_${r}_${c} = sum_${r}_${c} + (1.0 / LOW) * low_${r}_${c};
    coopStoreT(total_${r}_${c}, &y[y_${r}_${c}], stride);
#end
#end
}
