// Fused scan, second pass: the work-efficient scan over the chunks' aggregates (Blelloch 1990, section 1.4). Each chunk's last
// state from zero is replaced by its initial state; what is left at the end is the final state.
// Grid: a workgroup for WIDTH pairs of state and channel of a sequence; its SEGMENTS rows of invocations each take a run of chunks, reduce it,
// scan the runs' totals as a tree in workgroup memory, and go through their run again.
#include "shared/math.wgsl"
#include "shared/carry.wgsl"
#include "shared/scan_fused.wgsl"
@group(0) @binding(1) var<storage, read> A: array<f32>;                // (d_inner, d_state)
@group(0) @binding(2) var<storage, read_write> ssm_state: array<f32>;  // (batch, d_inner, d_state): initial in, final out
@group(0) @binding(3) var<storage, read_write> aggregates: array<f32>; // see shared/scan_fused.wgsl

const WIDTH: u32 = 32u;
const SEGMENTS: u32 = 8u;
// Chunks whose aggregates are read before the first is used.
const AHEAD: u32 = 4u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let column = lid % WIDTH;
    let segment = lid / WIDTH;
    let pair = (wid.y * num.x + wid.x) * WIDTH + column;
    let lanes = p.d_inner * D_STATE;
    let inside = pair < p.batch * lanes;
    let sequence = min(pair / lanes, p.batch - 1u);
    let n = pair % lanes / p.d_inner;
    let d = pair % p.d_inner;
    let a = A[d * D_STATE + n];
    let state = sequence * lanes + d * D_STATE + n;
    let h0 = ssm_state[state];
    let first = sequence * p.n_chunks;
    let run = (p.n_chunks + SEGMENTS - 1u) / SEGMENTS;
    let c0 = min(segment * run, p.n_chunks);
    let c1 = min(c0 + run, p.n_chunks);

    var total = 0.0;
    var h = 0.0;
    for (var c = c0; c < c1; c += AHEAD) {
        var last: array<f32, AHEAD>;
        var sum: array<f32, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            last[i] = aggregates[aggregate(first + min(c + i, c1 - 1u), n, d)];
            sum[i] = aggregates[aggregate(first + min(c + i, c1 - 1u), D_STATE, d)];
        }
        for (var i = 0u; i < AHEAD; i++) {
            if c + i < c1 {
                h = fma(decay(a * sum[i]), h, last[i]);
                total += sum[i];
            }
        }
    }
    let before = carry_before(lid, ScanElement(decay(a * total), h));
    h = fma(before.a, h0, before.b);
    for (var c = c0; c < c1; c += AHEAD) {
        var last: array<f32, AHEAD>;
        var sum: array<f32, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            last[i] = aggregates[aggregate(first + min(c + i, c1 - 1u), n, d)];
            sum[i] = aggregates[aggregate(first + min(c + i, c1 - 1u), D_STATE, d)];
        }
        for (var i = 0u; i < AHEAD; i++) {
            if c + i < c1 {
                if inside { aggregates[aggregate(first + c + i, n, d)] = h; }
                h = fma(decay(a * sum[i]), h, last[i]);
            }
        }
    }
    // Runs behind the last chunk are empty: their state is the final one too.
    if segment == SEGMENTS - 1u && inside { ssm_state[state] = h; }
}
