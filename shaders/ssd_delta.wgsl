// Step sizes of Mamba-2: delta = softplus(dt + dt_bias) within limits (mamba-ssm's modules/mamba2.py, dt_limit).
// Grid: an invocation a token and head.
#include "shared/grid.wgsl"
#include "shared/ssd.wgsl"
#include "shared/ssd_delta.wgsl"
@group(0) @binding(1) var<storage, read> zxbcdt: array<xz_t>;     // (L, zxbcdt_stride): dt
@group(0) @binding(2) var<storage, read> dt_bias: array<f32>;     // (heads)
@group(0) @binding(3) var<storage, read_write> delta: array<f32>; // (L, heads)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    let t = i / p.heads;
    if t >= p.l { return; }
    let h = i % p.heads;
    delta[i] = step_size(f32(zxbcdt[t * p.zxbcdt_stride + p.dt_offset + h]) + dt_bias[h]);
}
