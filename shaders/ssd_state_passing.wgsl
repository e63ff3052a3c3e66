// Mamba-2, rung (b): carries the states over the chunks, by the operator and the tree of Mamba-1's fused scan
// (shared/carry.wgsl; mamba-ssm's ssd_state_passing.py). What each chunk adds is replaced by its initial state; what is
// left at the end is the final one. A chunk's decay is one number a head, exp(c_end).
// Grid: a workgroup for WIDTH neighbouring states; its SEGMENTS rows of invocations each take a run of chunks, reduce
// it, scan the runs' totals, and go through their run again.
#include "shared/math.wgsl"
#include "shared/ssd.wgsl"
#include "shared/ssd_log.wgsl"
#include "shared/carry.wgsl"
@group(0) @binding(1) var<storage, read> cumsum: array<vec2i>;        // (n_chunks, heads, CHUNK)
@group(0) @binding(2) var<storage, read_write> ssm_state: array<f32>; // (heads, head_dim, d_state): initial, final
// (n_chunks, heads, head_dim, d_state); TRANSPOSED: (n_chunks, heads, d_state, head_dim)
@group(0) @binding(3) var<storage, read_write> states: array<f32>;
#if APART
@group(0) @binding(4) var<storage, read_write> initial: array<act>;   // the same: where initial states go
#endif

// Chunks whose states are read before the first is used.
const AHEAD: u32 = 4u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let lanes = p.heads * p.head_dim * p.d_state;
    let mine = (wid.y * num.x + wid.x) * WIDTH + lid % WIDTH;
    let inside = mine < lanes;
    let lane = min(mine, lanes - 1u);
    let h = lane / (p.head_dim * p.d_state);
    let segment = lid / WIDTH;
    let run = (p.n_chunks + SEGMENTS - 1u) / SEGMENTS;
    let c0 = min(segment * run, p.n_chunks);
    let c1 = min(c0 + run, p.n_chunks);
#if TRANSPOSED
    let inner = lane % (p.head_dim * p.d_state);
    let at_state = lane - inner + inner % p.head_dim * p.d_state + inner / p.head_dim;
#else
    let at_state = lane;
#endif
    let s0 = ssm_state[at_state];

    var total = 0.0;
    var s = 0.0;
#if RUNS
    for (var c = c0; c < c1; c += AHEAD) {
        var own: array<f32, AHEAD>;
        var sum: array<f32, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            let chunk = min(c + i, c1 - 1u);
            own[i] = states[chunk * lanes + lane];
            sum[i] = log_value(unpacked(cumsum[(chunk * p.heads + h + 1u) * CHUNK - 1u]));
        }
        for (var i = 0u; i < AHEAD; i++) {
            if c + i < c1 {
                s = fma(decay(sum[i]), s, own[i]);
                total += sum[i];
            }
        }
    }
#endif
    let before = carry_before(lid, ScanElement(decay(total), s));
    s = fma(before.a, s0, before.b);
    for (var c = c0; c < c1; c += AHEAD) {
        var own: array<f32, AHEAD>;
        var sum: array<f32, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            let chunk = min(c + i, c1 - 1u);
            own[i] = states[chunk * lanes + lane];
            sum[i] = log_value(unpacked(cumsum[(chunk * p.heads + h + 1u) * CHUNK - 1u]));
        }
        for (var i = 0u; i < AHEAD; i++) {
            if c + i < c1 {
#if APART
                if inside { initial[(c + i) * lanes + lane] = act(s); }
#else
                if inside { states[(c + i) * lanes + lane] = s; }
#endif
                s = fma(decay(sum[i]), s, own[i]);
            }
        }
    }
    // Runs behind the last chunk are empty: their state is the final one too.
    if segment == SEGMENTS - 1u && inside { ssm_state[at_state] = s; }
}
