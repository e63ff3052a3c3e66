// The attention that a recurrence implies: what token j's input puts into token i's output, before gates and norms. In Mamba-1
// (Ali, Zimerman, Wolf, arXiv 2403.01590) a channel has one:
//   alpha(i, j) = sum_n C_i,n (prod_{k = j+1 .. i} exp(delta_k A_n)) delta_j B_j,n,   j <= i
// In Mamba-2 (HEADS; Dao and Gu, arXiv 2405.21060, section 3) a head has one, and a single A, so that what is summed over states
// is a product for itself, of which all heads of a group have a part:
//   alpha(i, j) = (C_i . B_j) (prod_{k = j+1 .. i} exp(delta_k A)) delta_j
// As the mean over a range of channels or heads (units), of alpha and of |alpha|. Above the diagonal nothing is written.
// The product of decays grows by a factor a step, from j = i down, as the states' decay does in the scan: exp(A (S_i - S_j)) by
// running sums S of delta would need an exp of a difference of large numbers, which loses digits.
// Grid: a workgroup for ROWS neighbouring i; an invocation takes four i, which share their loads and exponentials, and every LANES-th
// unit, through all j.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"

struct Params {
    l: u32,
    units: u32,
    d_state: u32,
    bc_stride: u32, // columns of the rows that hold B and C
    b_offset: u32,  // column where B of this dispatch's units begins
    c_offset: u32,  // column where C does
    first: u32,     // units of this dispatch, which share B and C: first ..
    end: u32,       // .. end
    begin: u32,     // 1: the sums begin with this dispatch; 0: it adds to them
    scale: f32,     // 1 / units of the mean
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> delta: array<f32>;             // (L, units)
@group(0) @binding(2) var<storage, read> A: array<f32>;                 // (units, d_state); HEADS: (units)
@group(0) @binding(3) var<storage, read> bc: array<f32>;                // (L, bc_stride): B, C
@group(0) @binding(4) var<storage, read_write> attention: array<vec2f>; // (L, L): mean of alpha, mean of |alpha|

const ROWS: u32 = 16u;
const LANES: u32 = 64u;
// Steps down in j between barriers.
const STEPS: u32 = 4u;

// An invocation's four rows, by step, rows and unit: 16 KiB.
var<workgroup> shares: array<vec4f, STEPS * 256u>;

// One state's C at four tokens, by where their C begin.
fn c4(at: vec4u, n: u32) -> vec4f {
    return vec4f(bc[at.x + n], bc[at.y + n], bc[at.z + n], bc[at.w + n]);
}

#if HEADS
// Invocations that a product of one step and four rows is shared by.
const PARTS: u32 = 256u / (STEPS * ROWS / 4u);

// C_i . B_j of an invocation's four i at STEPS steps j. Every invocation must call it.
fn products(i0: u32, last: u32, step: u32, lid: u32) -> array<vec4f, STEPS> {
    let task = lid / PARTS;
    let j = last - min(step + task % STEPS, last);
    let c = min(vec4u(i0 + task / STEPS * 4u) + vec4u(0u, 1u, 2u, 3u), vec4u(last)) * p.bc_stride + p.c_offset;
    let b = j * p.bc_stride + p.b_offset;
    var sum = vec4f();
    for (var n = lid % PARTS; n < p.d_state; n += PARTS) {
        sum = fma(c4(c, n), vec4f(bc[b + n]), sum);
    }
    shares[lid] = sum;
    workgroupBarrier();
    var all: array<vec4f, STEPS>;
    for (var s = 0u; s < STEPS; s++) {
        for (var part = 0u; part < PARTS; part++) {
            all[s] += shares[(lid / LANES * STEPS + s) * PARTS + part];
        }
    }
    workgroupBarrier();
    return all;
}
#endif

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i0 = flat_index(wid, num, 0u, 1u) * ROWS;
    // Rows past the end (also those of a grid that spilled into y) have no step to take.
    let last = min(i0 + ROWS, p.l) - 1u;
    let steps = select(0u, last + 1u, i0 < p.l);
    let i = i0 + lid / LANES * 4u + vec4u(0u, 1u, 2u, 3u);
    for (var block = p.first; block < p.end; block += LANES) {
        let d = block + lid % LANES;
#if HEADS
        var r = vec4f(1.0); // the decay so far
#else
        var r: array<vec4f, D_STATE>; // C_i and the decay so far
        if d < p.end && steps > 0u {
            let c = min(i, vec4u(last)) * p.bc_stride + p.c_offset;
            for (var n = 0u; n < D_STATE; n++) { r[n] = c4(c, n); }
        }
#endif
        for (var step = 0u; step < steps; step += STEPS) {
#if HEADS
            var cb = products(i0, last, step, lid);
#endif
            for (var s = 0u; s < STEPS; s++) {
                var alpha = vec4f();
                let j = last - min(step + s, last);
                let reads = vec4u(j) <= i;
                if d < p.end && step + s <= last && reads.w {
                    let dt = delta[j * p.units + d];
#if HEADS
                    alpha = dt * cb[s] * r;
                    r *= select(vec4f(1.0), vec4f(decay(dt * A[d])), reads);
#else
                    for (var n = 0u; n < D_STATE; n++) {
                        alpha = fma(r[n], vec4f(dt * bc[j * p.bc_stride + p.b_offset + n]), alpha);
                        r[n] *= select(vec4f(1.0), vec4f(decay(dt * A[d * D_STATE + n])), reads);
                    }
#endif
                }
                // What comes after i is summed up too, and not kept.
                shares[s * 256u + lid] = alpha;
            }
            workgroupBarrier();
            // The units' sum: an invocation a row and step.
            let s = lid / ROWS;
            let row = lid % ROWS;
            let j = last - min(step + s, last);
            if s < STEPS && step + s <= last && i0 + row <= last && j <= i0 + row {
                var sum = vec2f();
                for (var lane = 0u; lane < LANES; lane++) {
                    let share = shares[s * 256u + row / 4u * LANES + lane][row % 4u];
                    sum += vec2f(share, abs(share));
                }
                let at = (i0 + row) * p.l + j;
                let before = select(attention[at], vec2f(), p.begin == 1u && block == p.first);
                attention[at] = fma(sum, vec2f(p.scale), before);
            }
            workgroupBarrier();
        }
    }
}
