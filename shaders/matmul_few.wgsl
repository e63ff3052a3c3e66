// y = x w^T as matmul.wgsl, for few tokens and in f32, by cooperative matrices of f16: each factor in two halves (shared/halves.wgsl),
// but for weights that are f16 anyway. A native variant, for adapters that offer 16 x 16 x 16 with subgroups of 32.
// Grid: x over tiles of OUTPUTS outputs, y over the splits of k. A workgroup's subgroups each multiply all tokens by the tile's
// outputs along slices of their own: weights are what takes time, and each is read once. The subgroups' sums meet in workgroup memory,
// the splits' (PARTIAL) in matmul_sum.wgsl.
// Both halves count alike here, so that one sum is enough: X_SCALE and W_SCALE keep the lower ones out of f16's subnormals. What is
// then beyond f16 makes its tile go by multiply-adds, slower and as right.
#include "shared/halves.wgsl"
#include "shared/linear.wgsl"
#include "${weight}"
@group(0) @binding(2) var<storage, read> x: array<vec4f>;     // (L, x_stride / 4), x_stride and k multiples of 4
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (L, y_stride); PARTIAL: (splits, L, n)

const OUTPUTS: u32 = 32u;
const PARTS: u32 = 4u;           // subgroups, each with slices of its own
const THREADS: u32 = PARTS * 32u;
const PITCH: u32 = SLICE + 2u;   // two more, so that neighbouring rows lie in different banks
const ROWS: u32 = 32u / SLICE;   // that a subgroup reads at a time
const LOADS_X: u32 = TOKENS / ROWS;
const LOADS_W: u32 = OUTPUTS / ROWS;
const LARGEST: f32 = 65504.0;
const X_SCALE: f32 = 16.0;
#if W_LOW
const W_SCALE: f32 = 256.0;
#else
const W_SCALE: f32 = 1.0;
#endif

var<workgroup> x_hi: array<vec4<f16>, PARTS * TOKENS * PITCH>;
var<workgroup> x_lo: array<vec4<f16>, PARTS * TOKENS * PITCH>;
var<workgroup> w_hi: array<vec4<f16>, PARTS * OUTPUTS * PITCH>;
#if W_LOW
var<workgroup> w_lo: array<vec4<f16>, PARTS * OUTPUTS * PITCH>;
#endif
var<workgroup> sums: array<f32, PARTS * 16u * OUTPUTS>;
var<workgroup> beyond: u32;

// Past k x is zero; rows past the last are multiplied and not stored.
fn read_x(t: u32, q: u32) -> vec4f {
    return select(vec4f(), X_SCALE * x[min(t, p.l - 1u) * (p.x_stride / 4u) + min(q, quads() - 1u)], q < quads());
}
fn read_w(j: u32, q: u32) -> vec4f {
    let v = weight4(min(j, p.n - 1u) * p.k4 + min(q, p.k4 - 1u));
    return W_SCALE * v;
}

// y of a token and an output, whose sums stand at `at` of each subgroup's.
fn store(t: u32, j: u32, at: u32, split: u32) {
    if t >= p.l || j >= p.n { return; }
    var sum = 0.0;
    if beyond == 0u {
        for (var part = 0u; part < PARTS; part++) { sum += sums[part * 16u * OUTPUTS + at]; }
        sum /= X_SCALE * W_SCALE;
    } else {
        let begin = split * p.split;
        let end = min(begin + p.split, quads());
        for (var q = begin; q < end; q++) { sum += dot(read_x(t, q) / X_SCALE, read_w(j, q) / W_SCALE); }
    }
#if PARTIAL
    y[(split * p.l + t) * p.n + j] = sum;
#else
    y[t * p.y_stride + p.y_offset + j] = epilogue(j, sum);
#endif
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let j0 = wid.x * OUTPUTS;
    let part = lid / 32u;
    let row = lid % 32u / SLICE;
    let quad = lid % SLICE;
    let in_x = part * TOKENS;
    let in_w = part * OUTPUTS;
    let begin = wid.y * p.split;
    let end = min(begin + p.split, quads());
    let first = begin + part * SLICE + quad;
    var next_x: array<vec4f, LOADS_X>;
    var next_w: array<vec4f, LOADS_W>;
    var largest = vec4f();
#repeat r DOWN
#repeat c 2
    var sum_${r}_${c}: coop_mat16x16<f32, C>;
#end
#end
    if lid == 0u { beyond = 0u; }
    for (var i = 0u; i < LOADS_X; i++) { next_x[i] = read_x(row + i * ROWS, first); }
    for (var i = 0u; i < LOADS_W; i++) { next_w[i] = read_w(j0 + row + i * ROWS, first); }
    for (var q0 = begin; q0 < end; q0 += PARTS * SLICE) {
        let next = q0 + PARTS * SLICE + part * SLICE + quad;
        for (var i = 0u; i < LOADS_X; i++) {
            let at = (in_x + row + i * ROWS) * PITCH + quad;
            let hi = high(next_x[i]);
            x_hi[at] = vec4<f16>(hi);
            x_lo[at] = vec4<f16>(next_x[i] - hi);
            largest = max(largest, abs(next_x[i]));
            next_x[i] = read_x(row + i * ROWS, next);
        }
        for (var i = 0u; i < LOADS_W; i++) {
            let at = (in_w + row + i * ROWS) * PITCH + quad;
#if W_LOW
            let hi = high(next_w[i]);
            w_hi[at] = vec4<f16>(hi);
            w_lo[at] = vec4<f16>(next_w[i] - hi);
            largest = max(largest, abs(next_w[i]));
#else
            w_hi[at] = vec4<f16>(next_w[i]);
#endif
            next_w[i] = read_w(j0 + row + i * ROWS, next);
        }
        workgroupBarrier();
        for (var kk = 0u; kk < SLICE; kk += 4u) {
#repeat c 2
            let b_at_${c} = (in_w + 16u * ${c}u) * PITCH + kk;
            let b_hi_${c} = coopLoad<coop_mat16x16<f16, B>>(&w_hi[b_at_${c}], PITCH);
#end
#if W_LOW
#repeat c 2
            let b_lo_${c} = coopLoad<coop_mat16x16<f16, B>>(&w_lo[b_at_${c}], PITCH);
#end
#endif
#repeat r DOWN
            let a_at_${r} = (in_x + 16u * ${r}u) * PITCH + kk;
            let a_hi_${r} = coopLoadT<coop_mat16x16<f16, A>>(&x_hi[a_at_${r}], PITCH);
            let a_lo_${r} = coopLoadT<coop_mat16x16<f16, A>>(&x_lo[a_at_${r}], PITCH);
#repeat c 2
            sum_${r}_${c} = coopMultiplyAdd(a_lo_${r}, b_hi_${c}, sum_${r}_${c});
            sum_${r}_${c} = coopMultiplyAdd(a_hi_${r}, b_hi_${c}, sum_${r}_${c});
#end
#end
#if W_LOW
#repeat r DOWN
#repeat c 2
            sum_${r}_${c} = coopMultiplyAdd(a_hi_${r}, b_lo_${c}, sum_${r}_${c});
#end
#end
#endif
        }
        workgroupBarrier();
    }
    // NaN is no such value: the product has it too. All store the same.
    if any(largest > vec4f(LARGEST)) { beyond = 1u; }
    // Sixteen tokens at a time.
#repeat r DOWN
#repeat c 2
    let at_${r}_${c} = part * 16u * OUTPUTS + 16u * ${c}u;
    coopStoreT(sum_${r}_${c}, &sums[at_${r}_${c}], OUTPUTS);
#end
    workgroupBarrier();
    for (var i = lid; i < 16u * OUTPUTS; i += THREADS) {
        store(16u * ${r}u + i / OUTPUTS, j0 + i % OUTPUTS, i, wid.y);
    }
    workgroupBarrier();
#end
}
