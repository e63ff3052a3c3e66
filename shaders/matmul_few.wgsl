// y = x w^T as matmul.wgsl, for few tokens and in f32, by cooperative matrices of f16: each factor in two halves (shared/halves.wgsl),
// but for weights that are f16 anyway. A native variant, for adapters that offer 16 x 16 x 16 with subgroups of 32.
// Grid: x over tiles of OUTPUTS outputs, y over the splits of k and tiles of TOKENS tokens. A workgroup's subgroups each multiply all tokens by the tile's
// outputs along slices of their own: weights are what takes time, and each is read once. The subgroups' sums meet in workgroup memory,
// the splits' (PARTIAL) in matmul_sum.wgsl.
// Both halves count alike here, so that one sum is enough: X_SCALE and W_SCALE keep the lower ones out of f16's subnormals. What is
// then beyond f16 makes its tile go by multiply-adds, slower and as right.
#include "shared/halves.wgsl"
#include "shared/linear.wgsl"
#if W_LOW
#include "${weight}"
#else
#include "shared/coop_f16.wgsl"
#endif
@group(0) @binding(2) var<storage, read> x: array<vec4f>;     // (L, x_stride / 4), x_stride and k multiples of 4
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (L, y_stride); PARTIAL: (splits, L, n)

const THREADS: u32 = PARTS * 32u;
const PITCH: u32 = SLICE + 2u;   // two more, so that neighbouring rows lie in different banks
const ROWS: u32 = 32u / SLICE;   // that a subgroup reads at a time
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
// Whether an invocation met a value beyond f16: an array, because naga 30 says of no workgroup memory that others read it
// (NonPrivatePointer, in the memory model that cooperative matrices bring), and NVIDIA's compiler keeps a scalar in a register then.
var<workgroup> beyond: array<vec4u, THREADS / 4u>;

// Past k x is zero; rows past the last are multiplied and not stored.
fn read_x(t: u32, q: u32) -> vec4f {
    return select(vec4f(), X_SCALE * x[min(t, p.l - 1u) * (p.x_stride / 4u) + min(q, quads() - 1u)], q < quads());
}
#if W_LOW
fn read_w(j: u32, q: u32) -> vec4f {
    let v = weight4(min(j, p.n - 1u) * p.k4 + min(q, p.k4 - 1u));
    return W_SCALE * v;
}
#else
fn read_w(j: u32, q: u32) -> vec4<f16> {
    return weight4h(min(j, p.n - 1u) * p.k4 + min(q, p.k4 - 1u));
}
#endif

// y of a token and an output of a split.
fn store(t: u32, j: u32, split: u32, sum: f32) {
    if t < p.l && j < p.n {
#if PARTIAL
        y[(split * p.l + t) * p.n + j] = sum;
#else
        y[t * p.y_stride + p.y_offset + j] = epilogue(j, sum);
#endif
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let j0 = wid.x * OUTPUTS;
    let part = lid / 32u;
    let row = lid % 32u / SLICE;
    let quad = lid % SLICE;
    let in_x = part * TOKENS;
    let in_w = part * OUTPUTS;
    let tiles = (p.l + TOKENS - 1u) / TOKENS;
    let t0 = wid.y % tiles * TOKENS;
    let split = wid.y / tiles;
    let begin = split * p.split;
    let end = min(begin + p.split, quads());
    let first = begin + part * SLICE + quad;
    // Spelt out: what is in registers only if a loop over it is unrolled costs ten times the time otherwise.
    var largest = vec4f();
#repeat r DOWN
#repeat c ACROSS
    var sum_${r}_${c}: coop_mat16x16<f32, C>;
#end
#end
#repeat i LOADS_X
    var x_${i} = read_x(t0 + row + ${i}u * ROWS, first);
    let to_x_${i} = (in_x + row + ${i}u * ROWS) * PITCH + quad;
#end
#repeat i LOADS_W
    var w_${i} = read_w(j0 + row + ${i}u * ROWS, first);
    let to_w_${i} = (in_w + row + ${i}u * ROWS) * PITCH + quad;
#end
    for (var q0 = begin; q0 < end; q0 += PARTS * SLICE) {
        let next = q0 + PARTS * SLICE + part * SLICE + quad;
#repeat i LOADS_X
        let hi_x_${i} = high(x_${i});
        x_hi[to_x_${i}] = vec4<f16>(hi_x_${i});
        x_lo[to_x_${i}] = vec4<f16>(x_${i} - hi_x_${i});
        largest = max(largest, abs(x_${i}));
        x_${i} = read_x(t0 + row + ${i}u * ROWS, next);
#end
#if W_LOW
#repeat i LOADS_W
        let hi_w_${i} = high(w_${i});
        w_hi[to_w_${i}] = vec4<f16>(hi_w_${i});
        w_lo[to_w_${i}] = vec4<f16>(w_${i} - hi_w_${i});
        largest = max(largest, abs(w_${i}));
#end
#else
#repeat i LOADS_W
        w_hi[to_w_${i}] = w_${i};
#end
#endif
#repeat i LOADS_W
        w_${i} = read_w(j0 + row + ${i}u * ROWS, next);
#end
        workgroupBarrier();
        for (var kk = 0u; kk < SLICE; kk += 4u) {
#repeat c ACROSS
            let b_at_${c} = (in_w + 16u * ${c}u) * PITCH + kk;
            let b_hi_${c} = coopLoad<coop_mat16x16<f16, B>>(&w_hi[b_at_${c}], PITCH);
#end
#if W_LOW
#repeat c ACROSS
            let b_lo_${c} = coopLoad<coop_mat16x16<f16, B>>(&w_lo[b_at_${c}], PITCH);
#end
#endif
#repeat r DOWN
            let a_at_${r} = (in_x + 16u * ${r}u) * PITCH + kk;
            let a_hi_${r} = coopLoadT<coop_mat16x16<f16, A>>(&x_hi[a_at_${r}], PITCH);
            let a_lo_${r} = coopLoadT<coop_mat16x16<f16, A>>(&x_lo[a_at_${r}], PITCH);
#repeat c ACROSS
            sum_${r}_${c} = coopMultiplyAdd(a_lo_${r}, b_hi_${c}, sum_${r}_${c});
            sum_${r}_${c} = coopMultiplyAdd(a_hi_${r}, b_hi_${c}, sum_${r}_${c});
#end
#end
#if W_LOW
#repeat r DOWN
#repeat c ACROSS
            sum_${r}_${c} = coopMultiplyAdd(a_hi_${r}, b_lo_${c}, sum_${r}_${c});
#end
#end
#endif
        }
        workgroupBarrier();
    }
    // NaN is no such value: the product has it too.
    beyond[lid / 4u][lid % 4u] = u32(any(largest > vec4f(LARGEST)));
    workgroupBarrier();
    var met = vec4u();
    for (var i = 0u; i < THREADS / 4u; i++) { met |= beyond[i]; }
    let wide = any(met != vec4u());
    // Sixteen tokens at a time.
#repeat r DOWN
#repeat c ACROSS
    let at_${r}_${c} = part * 16u * OUTPUTS + 16u * ${c}u;
    let total_${r}_${c} = sum_${r}_${c};
    coopStoreT(total_${r}_${c}, &sums[at_${r}_${c}], OUTPUTS);
#end
    workgroupBarrier();
    for (var i = lid; i < 16u * OUTPUTS; i += THREADS) {
        let t = t0 + 16u * ${r}u + i / OUTPUTS;
        let j = j0 + i % OUTPUTS;
        var sum = 0.0;
        for (var at = i; at < PARTS * 16u * OUTPUTS; at += 16u * OUTPUTS) { sum += sums[at]; }
        store(t, j, split, sum / (X_SCALE * W_SCALE));
    }
    workgroupBarrier();
#end
    if wide {
        for (var i = lid; i < TOKENS * OUTPUTS; i += THREADS) {
            let t = t0 + i / OUTPUTS;
            let j = j0 + i % OUTPUTS;
            var sum = 0.0;
            for (var q = begin; q < end; q++) { sum += dot(read_x(t, q) / X_SCALE, vec4f(read_w(j, q)) / W_SCALE); }
            store(t, j, split, sum);
        }
    }
}
