// The gradients of y = x w^T as matmul_grad.wgsl, in f32 by cooperative matrices of f16, as matmul_split.wgsl: each factor in two
// halves (shared/halves.wgsl), three products, their sums in f32. A native variant, for adapters that offer 16 x 16 x 16 with
// subgroups of 32.
// Gradients and activations may be of any size, f16 may not. So grad_y is multiplied by a power of two, one for all of it, that brings
// its largest value (backward/largest.wgsl) into 2^14 to 2^15, so is x by one of its own, and sums are divided by them: all exact.
// What is 2^-28 of the largest is still a normal f16; below, values are off by up to 2^-39 of it. w is taken as it is, as forwards.
// Grid: as matmul_grad, in tiles of 128 x 128; a workgroup of eight subgroups, each with a 64 x 32 piece as 4 x 2 matrices twice,
// those of hi hi and of the rest. Slices of 32 terms, the next one read before the barrier. Both operands lie in workgroup memory
// as they do in storage, no transposing: a matrix is loaded by rows or by columns.
// Strides, cols and what of n is summed over are multiples of 4.
#include "shared/halves.wgsl"
#include "shared/matmul_grad.wgsl"
#include "shared/reduce.wgsl"
@group(0) @binding(1) var<storage, read> grad_y: array<vec4f>;  // (L, y_stride / 4)
#if X
@group(0) @binding(2) var<storage, read> b: array<vec4f>;       // w (n, b_stride)
#else
@group(0) @binding(2) var<storage, read> b: array<vec4f>;       // x (L, b_stride / 4)
#endif
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // (rows, out_stride), or partial sums (parts, rows, cols)
@group(0) @binding(4) var<storage, read> largest: array<f32>;   // (2, WG) partial maxima of |grad_y| and of |x|

const TILE: u32 = 128u;
const SLICE: u32 = 32u;
// Quads from one row to the next; two more than there are, so that neighbouring rows lie in different banks.
const ALONG: u32 = SLICE / 4u + 2u; // a row's terms
const ACROSS: u32 = TILE / 4u + 2u; // a term's rows or columns
const B_QUADS: u32 = SLICE * ACROSS;
const LOADS: u32 = 4u; // quads of each operand that an invocation brings a slice
#if X
const A_QUADS: u32 = TILE * ALONG;
const ROW_STEP: u32 = 32u;
const TERM_STEP: u32 = 0u;
#else
const A_QUADS: u32 = SLICE * ACROSS;
const ROW_STEP: u32 = 0u;
const TERM_STEP: u32 = 8u;
#endif

var<workgroup> a_hi: array<vec4<f16>, A_QUADS>; // X: (rows, terms); otherwise (terms, rows)
var<workgroup> a_lo: array<vec4<f16>, A_QUADS>;
var<workgroup> b_hi: array<vec4<f16>, B_QUADS>; // (terms, columns)
var<workgroup> b_lo: array<vec4<f16>, B_QUADS>;
var<workgroup> strips: array<f32, 2048>;        // a 16 x 16 matrix of each subgroup

// Where the quads of a row and term lie there.
fn a_at(row: u32, term: u32) -> u32 {
#if X
    return row * ALONG + term / 4u;
#else
    return term * ACROSS + row / 4u;
#endif
}
fn b_at(col: u32, term: u32) -> u32 {
    return term * ACROSS + col / 4u;
}

// Zero past the last term; rows and columns past the last are multiplied and not stored.
fn read_a(row: u32, term: u32, end: u32) -> vec4f {
#if X
    let at = min(row, p.rows - 1u) * p.y_stride + p.y_offset + term;
#else
    let at = term * p.y_stride + p.y_offset + min(row, p.rows - 4u);
#endif
    return select(vec4f(), grad_y[at / 4u], term < end);
}
fn read_b(col: u32, term: u32, end: u32) -> vec4f {
#if X
    let stride = p.b_stride;
#else
    let stride = p.b_stride / 4u;
#endif
    return select(vec4f(), b[term * stride + min(col, p.cols - 4u) / 4u], term < end);
}

// The biased exponent e of the largest value, from which the scale is 2^(14 - e), at most 2^100.
fn exponent_of(most: f32) -> u32 {
    return clamp(bitcast<u32>(most) >> 23u, 41u, 254u);
}
fn scale_of(exponent: u32) -> f32 {
    return bitcast<f32>((268u - exponent) << 23u);
}
fn unscale_of(exponent: u32) -> f32 {
    return bitcast<f32>((exponent - 14u) << 23u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let tiles = (p.rows + TILE - 1u) / TILE;
    let tile_row = wid.y % tiles * TILE;
    let tile_col = wid.x * TILE;
    let part = wid.y / tiles;
    let begin = part * p.run;
    let end = min(begin + p.run, p.sum);
    let subgroup = lid / 32u;
    let row0 = subgroup / 4u * 64u;
    let col0 = subgroup % 4u * 32u;
    let exponent = exponent_of(workgroup_max(lid, largest[lid]));
    let scale = scale_of(exponent);
    let unscale = unscale_of(exponent);
#if X
    let scale_b = 1.0;
    let unscale_b = 1.0;
#else
    let exponent_b = exponent_of(workgroup_max(lid, largest[WG + lid]));
    let scale_b = scale_of(exponent_b);
    let unscale_b = unscale_of(exponent_b);
#endif
    let b_term = lid / 32u;
    let b_col = lid % 32u * 4u;
#if X
    let a_term = lid % 8u * 4u;
    let a_row = lid / 8u;
#else
    let a_term = b_term;
    let a_row = b_col;
#endif
    var next_a: array<vec4f, LOADS>;
    var next_b: array<vec4f, LOADS>;
#repeat r 4
#repeat c 2
    var sum_${r}_${c}: coop_mat16x16<f32, C>;
    var low_${r}_${c}: coop_mat16x16<f32, C>;
#end
#end
    for (var i = 0u; i < LOADS; i++) {
        next_a[i] = read_a(tile_row + a_row + i * ROW_STEP, begin + a_term + i * TERM_STEP, end);
        next_b[i] = read_b(tile_col + b_col, begin + b_term + 8u * i, end);
    }
    for (var k0 = begin; k0 < end; k0 += SLICE) {
        for (var i = 0u; i < LOADS; i++) {
            let to_a = a_at(a_row + i * ROW_STEP, a_term + i * TERM_STEP);
            let scaled = next_a[i] * scale;
            let hi_a = high(scaled);
            a_hi[to_a] = vec4<f16>(hi_a);
            a_lo[to_a] = vec4<f16>((scaled - hi_a) * LOW);
            let to_b = b_at(b_col, b_term + 8u * i);
            let scaled_b = next_b[i] * scale_b;
            let hi_b = high(scaled_b);
            b_hi[to_b] = vec4<f16>(hi_b);
            b_lo[to_b] = vec4<f16>((scaled_b - hi_b) * LOW);
            next_a[i] = read_a(tile_row + a_row + i * ROW_STEP, k0 + SLICE + a_term + i * TERM_STEP, end);
            next_b[i] = read_b(tile_col + b_col, k0 + SLICE + b_term + 8u * i, end);
        }
        workgroupBarrier();
#repeat kk 2
#repeat r 4
        let a_at_${kk}_${r} = a_at(row0 + 16u * ${r}u, 16u * ${kk}u);
#if X
        let a_hi_${kk}_${r} = coopLoadT<coop_mat16x16<f16, A>>(&a_hi[a_at_${kk}_${r}], ALONG);
        let a_lo_${kk}_${r} = coopLoadT<coop_mat16x16<f16, A>>(&a_lo[a_at_${kk}_${r}], ALONG);
#else
        let a_hi_${kk}_${r} = coopLoad<coop_mat16x16<f16, A>>(&a_hi[a_at_${kk}_${r}], ACROSS);
        let a_lo_${kk}_${r} = coopLoad<coop_mat16x16<f16, A>>(&a_lo[a_at_${kk}_${r}], ACROSS);
#endif
#end
#repeat c 2
        let b_at_${kk}_${c} = b_at(col0 + 16u * ${c}u, 16u * ${kk}u);
        let b_hi_${kk}_${c} = coopLoadT<coop_mat16x16<f16, B>>(&b_hi[b_at_${kk}_${c}], ACROSS);
        let b_lo_${kk}_${c} = coopLoadT<coop_mat16x16<f16, B>>(&b_lo[b_at_${kk}_${c}], ACROSS);
#repeat r 4
        sum_${r}_${c} = coopMultiplyAdd(a_hi_${kk}_${r}, b_hi_${kk}_${c}, sum_${r}_${c});
        low_${r}_${c} = coopMultiplyAdd(a_hi_${kk}_${r}, b_lo_${kk}_${c}, low_${r}_${c});
        low_${r}_${c} = coopMultiplyAdd(a_lo_${kk}_${r}, b_hi_${kk}_${c}, low_${r}_${c});
#end
#end
#end
        workgroupBarrier();
    }
#if PARTIAL
    let stride = p.cols;
    let out0 = part * p.rows * p.cols;
#else
    let stride = p.out_stride;
    let out0 = 0u;
#endif
#repeat r 4
#repeat c 2
    // One after the other: the scales' product may be no f32.
    let total_${r}_${c} = unscale_b * (unscale * sum_${r}_${c} + (unscale / LOW) * low_${r}_${c});
#end
#end
    // All of the workgroup goes one way or the other (naga sees that of &, not of &&).
    if (tile_row + TILE <= p.rows) & (tile_col + TILE <= p.cols) {
        let piece = out0 + (tile_row + row0) * stride + tile_col + col0;
#repeat r 4
#repeat c 2
        let to_${r}_${c} = piece + 16u * ${r}u * stride + 16u * ${c}u;
#if ADD
        let there_${r}_${c} = coopLoadT<coop_mat16x16<f32, C>>(&out[to_${r}_${c}], stride);
        coopStoreT(there_${r}_${c} + total_${r}_${c}, &out[to_${r}_${c}], stride);
#else
        coopStoreT(total_${r}_${c}, &out[to_${r}_${c}], stride);
#endif
#end
#end
    } else {
        // Through workgroup memory, where each invocation finds its own and leaves out what is past the edge.
        let strip = subgroup * 256u;
#repeat r 4
#repeat c 2
        coopStoreT(total_${r}_${c}, &strips[strip], 16u);
        workgroupBarrier();
        for (var i = lid % 32u; i < 256u; i += 32u) {
            let row = tile_row + row0 + 16u * ${r}u + i / 16u;
            let col = tile_col + col0 + 16u * ${c}u + i % 16u;
            if row < p.rows && col < p.cols {
#if ADD
                out[out0 + row * stride + col] += strips[strip + i];
#else
                out[out0 + row * stride + col] = strips[strip + i];
#endif
            }
        }
        workgroupBarrier();
#end
#end
    }
}
