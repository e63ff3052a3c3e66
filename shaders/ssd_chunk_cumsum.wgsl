// Mamba-2, rung (b), first kernel: step sizes and the sums of delta A within each chunk (mamba-ssm's
// ssd_chunk_state.py, _chunk_cumsum_fwd). Tokens past the last have a delta of zero: they change nothing, and a chunk's
// last sum is its whole decay.
// Grid: x over groups of HEADS heads, y over chunks.
#include "shared/ssd.wgsl"
#include "shared/ssd_delta.wgsl"
#include "shared/ssd_log.wgsl"
@group(0) @binding(1) var<storage, read> zxbcdt: array<xz_t>;      // (L, zxbcdt_stride): dt
@group(0) @binding(2) var<storage, read> dt_bias: array<f32>;      // (heads)
@group(0) @binding(3) var<storage, read> A: array<f32>;            // (heads)
@group(0) @binding(4) var<storage, read_write> delta: array<f32>;  // (n_chunks, heads, CHUNK)
@group(0) @binding(5) var<storage, read_write> cumsum: array<vec2i>; // (n_chunks, heads, CHUNK)

const HEADS: u32 = 256u / CHUNK;

var<workgroup> sums: array<Log, 256>; // (CHUNK, HEADS)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let head = wid.x * HEADS + lid % HEADS;
    let h = min(head, p.heads - 1u);
    let t = lid / HEADS;
    let token = wid.y * CHUNK + t;
    let row = (p.t0 + min(token, p.l - 1u)) * p.zxbcdt_stride;
    let dt = select(0.0, step_size(f32(zxbcdt[row + p.dt_offset + h]) + dt_bias[h]), token < p.l);
    var sum = log_of(dt * A[h]);
    sums[lid] = sum;
    for (var back = 1u; back < CHUNK; back <<= 1u) {
        workgroupBarrier();
        if t >= back { sum = log_sum(sums[lid - back * HEADS], sum); }
        workgroupBarrier();
        sums[lid] = sum;
    }
    if head < p.heads {
        let at = (wid.y * p.heads + head) * CHUNK + t;
        delta[at] = dt;
        cumsum[at] = packed(sum);
    }
}
