// The attention that the selective scan implies (Ali, Zimerman, Wolf, arXiv 2403.01590): what token j's input puts into token
// i's output, before the gate:
//   alpha(i, j) = sum_n C_i,n (prod_{k = j+1 .. i} exp(delta_k A_n)) delta_j B_j,n,   j <= i
// As the mean over a range of channels, of alpha and of |alpha|. Above the diagonal nothing is written.
// The product grows by a factor a step, from j = i down, as the states' decay does in the scan: exp(A (S_i - S_j)) by running
// sums S of delta would need an exp of a difference of large numbers, which loses digits.
// Grid: a workgroup for ROWS neighbouring i; an invocation takes four i, which share their loads and exponentials, and every LANES-th
// channel, through all j.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"

struct Params {
    l: u32,
    d_inner: u32,
    x_dbl_stride: u32, // columns of x_dbl: dt_rank + 2 d_state
    b_offset: u32,     // column of x_dbl where B begins
    c_offset: u32,     // column where C begins
    first: u32,        // channels of this dispatch: first ..
    end: u32,          // .. end
    begin: u32,        // 1: the sums begin with this dispatch; 0: it adds to them
    scale: f32,        // 1 / channels of the mean
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> delta: array<f32>;             // (L, d_inner)
@group(0) @binding(2) var<storage, read> A: array<f32>;                 // (d_inner, d_state)
@group(0) @binding(3) var<storage, read> x_dbl: array<f32>;             // (L, x_dbl_stride): B, C
@group(0) @binding(4) var<storage, read_write> attention: array<vec2f>; // (L, L): mean of alpha, mean of |alpha|

const ROWS: u32 = 16u;
const LANES: u32 = 64u;
// Steps down in j between barriers.
const STEPS: u32 = 4u;

// An invocation's four rows, by step, rows and channel: 16 KiB.
var<workgroup> shares: array<vec4f, STEPS * 256u>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i0 = flat_index(wid, num, 0u, 1u) * ROWS;
    // Rows past the end (also those of a grid that spilled into y) have no step to take.
    let last = min(i0 + ROWS, p.l) - 1u;
    let steps = select(0u, last + 1u, i0 < p.l);
    let i = i0 + lid / LANES * 4u + vec4u(0u, 1u, 2u, 3u);
    for (var block = p.first; block < p.end; block += LANES) {
        let d = block + lid % LANES;
        var r: array<vec4f, D_STATE>; // C_i and the decay so far
        if d < p.end && steps > 0u {
            let row = min(i, vec4u(last)) * p.x_dbl_stride + p.c_offset;
            for (var n = 0u; n < D_STATE; n++) {
                r[n] = vec4f(x_dbl[row.x + n], x_dbl[row.y + n], x_dbl[row.z + n], x_dbl[row.w + n]);
            }
        }
        for (var step = 0u; step < steps; step += STEPS) {
            for (var s = 0u; s < STEPS; s++) {
                var alpha = vec4f();
                let j = last - min(step + s, last);
                let reads = vec4u(j) <= i;
                if d < p.end && step + s <= last && reads.w {
                    let dt = delta[j * p.d_inner + d];
                    for (var n = 0u; n < D_STATE; n++) {
                        alpha = fma(r[n], vec4f(dt * x_dbl[j * p.x_dbl_stride + p.b_offset + n]), alpha);
                        r[n] *= select(vec4f(1.0), vec4f(decay(dt * A[d * D_STATE + n])), reads);
                    }
                }
                // What comes after i is summed up too, and not kept.
                shares[s * 256u + lid] = alpha;
            }
            workgroupBarrier();
            // The channels' sum: an invocation a row and step.
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
