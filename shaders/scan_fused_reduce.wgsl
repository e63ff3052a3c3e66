// Fused scan, first pass: each chunk's aggregate.
// Grid: x over groups of CHANNELS channels, y over the chunks of all sequences.
#include "shared/scan_fused.wgsl"
const KINDS: u32 = 1u;
#include "shared/scan_chunk.wgsl"
@group(0) @binding(5) var<storage, read_write> aggregates: array<f32>; // see shared/scan_fused.wgsl

@compute @workgroup_size(CHANNELS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let channel = wid.x * CHANNELS + lid;
    let d = min(channel, p.d_inner - 1u);
    let first = wid.y / p.n_chunks * p.l;
    let begin = wid.y % p.n_chunks * p.chunk;
    let t1 = first + min(begin + p.chunk, p.l);
    var a: array<vec4f, QUADS>;
    var h: array<vec4f, QUADS>;
    for (var g = 0u; g < QUADS; g++) { a[g] = scaled_a(d, g); }
    var s = 0.0;
    for (var t0 = first + begin; t0 < t1; t0 += STAGE) {
        stage(t0, lid);
        workgroupBarrier();
        let end = min(t0 + STAGE, t1);
        for (var t = t0; t < end; t += AHEAD) {
            var dt: array<f32, AHEAD>;
            var dtu: array<f32, AHEAD>;
            for (var i = 0u; i < AHEAD; i++) {
                let at = min(t + i, end - 1u) * p.d_inner + d;
#if LTI
                dt[i] = f32(delta[d]);
#else
                dt[i] = f32(delta[at]);
#endif
                dtu[i] = dt[i] * f32(u[at]);
            }
            for (var i = 0u; i < AHEAD; i++) {
                if t + i < end {
                    s += dt[i];
#if SELECTIVE
                    let b = (t + i - t0) * QUADS;
#endif
                    for (var g = 0u; g < QUADS; g++) {
#if LTI
                        let b4 = select(vec4f(), vec4f(1.0), inside4(g));
#else
                        let b4 = staged[b + g];
#endif
                        h[g] = fma(exp2(dt[i] * a[g]), h[g], dtu[i] * b4);
                    }
                }
            }
        }
        workgroupBarrier();
    }
    if channel < p.d_inner {
        for (var n = 0u; n < D_STATE; n++) { aggregates[aggregate(wid.y, n, d)] = h[n / 4u][n % 4u]; }
        aggregates[aggregate(wid.y, D_STATE, d)] = s;
    }
}
