// Mamba-2's norm before out_proj, with the gate z (mamba-ssm's layernorm_gated.py); means are taken over groups of
// channels:
//   NORM, GATE_FIRST   u = y silu(z),  out = u weight / sqrt(mean(u^2) + eps)
//   NORM               out = y weight / sqrt(mean(y^2) + eps) silu(z)
//   neither            out = y silu(z) weight
// Grid: a workgroup a token and group.
#include "shared/math.wgsl"
#include "shared/reduce.wgsl"
#include "shared/watch.wgsl"

struct Params {
    l: u32,
    width: u32,      // channels a group
    groups: u32,
    y_stride: u32,   // columns of y,
    y_offset: u32,   //   and the one where its channels begin
    z_stride: u32,   // the same of the rows that hold z,
    z_offset: u32,
    out_stride: u32, // and of the output's
    out_offset: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
#if IN_PLACE
@group(0) @binding(1) var<storage, read_write> y: array<act>;   // (L, y_stride)
#else
@group(0) @binding(1) var<storage, read> y: array<f32>;         // (L, y_stride)
@group(0) @binding(4) var<storage, read_write> out: array<act>; // (L, out_stride)
#endif
@group(0) @binding(2) var<storage, read> z: array<xz_t>;        // (L, z_stride)
#if WEIGHT
@group(0) @binding(3) var<storage, read> weight: array<f32>;    // (groups, width)
#endif

// What the mean is taken of.
#if GATE_FIRST
fn normed(y: f32, z: f32) -> f32 { return y * silu(z); }
#else
fn normed(y: f32, z: f32) -> f32 { return y; }
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let item = wid.y * num.x + wid.x;
    let t = item / p.groups;
    let first = item % p.groups * p.width;
    // Rows past the end load nothing and store nothing, but reach every barrier.
    let n = select(0u, p.width, t < p.l);
    let y_at = t * p.y_stride + p.y_offset + first;
    let z_at = t * p.z_stride + p.z_offset + first;
    var scale = 1.0;
#if NORM
    var sum = 0.0;
    for (var i = lid; i < n; i += WG) {
        let u = normed(f32(y[y_at + i]), f32(z[z_at + i]));
        sum = fma(u, u, sum);
    }
    scale = inverseSqrt(workgroup_sum(lid, sum) / f32(p.width) + p.eps);
#endif
    for (var i = lid; i < n; i += WG) {
        var v = f32(y[y_at + i]) * silu(f32(z[z_at + i])) * scale;
#if WEIGHT
        v *= weight[first + i];
#endif
#if IN_PLACE
        y[y_at + i] = to_act(watch(v));
#else
        out[t * p.out_stride + p.out_offset + first + i] = to_act(watch(v));
#endif
    }
}
