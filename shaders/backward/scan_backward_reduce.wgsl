// First pass of the scan's gradient (shared/scan_backward.wgsl). A and D go to scratch too: apply has no binding left for them.
// Grid: x over groups of CHANNELS channels, y over the chunks of all sequences.
#include "shared/gate.wgsl"
#include "shared/scan_backward.wgsl"
@group(0) @binding(1) var<storage, read> delta: array<f32>;  // (rows, d_inner)
@group(0) @binding(2) var<storage, read> A: array<f32>;      // (d_inner, d_state)
@group(0) @binding(3) var<storage, read> x_dbl: array<f32>;  // (rows, x_dbl_stride): C
@group(0) @binding(4) var<storage, read> xz: array<f32>;     // (rows, xz_stride): z
@group(0) @binding(5) var<storage, read> grad_y: array<f32>; // (rows, d_inner)
@group(0) @binding(6) var<storage, read> D: array<f32>;      // (d_inner)
// Aggregates as in shared/scan_fused.wgsl, chunks reversed; at p.coefficients A and D, (d_state + 1, d_inner).
@group(0) @binding(7) var<storage, read_write> scratch: array<f32>;

@compute @workgroup_size(CHANNELS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let channel = wid.x * CHANNELS + lid;
    if channel >= p.d_inner { return; }
    let d = channel;
    let start = wid.y % p.n_chunks * CHUNK;
    let first = wid.y / p.n_chunks * p.l + start;
    let count = min(CHUNK, p.l - start);
    var dt: array<f32, CHUNK>;
    var grad_s: array<f32, CHUNK>;
    for (var i = 0u; i < CHUNK; i++) {
        let row = first + min(i, count - 1u);
#if LTI
        dt[i] = select(0.0, delta[d], i < count);
#else
        dt[i] = select(0.0, delta[row * p.d_inner + d], i < count);
#endif
        let s = grad_y[row * p.d_inner + d] * gate(xz[row * p.xz_stride + p.z_offset + d]).x;
        grad_s[i] = select(0.0, s, i < count);
    }
    for (var g = 0u; g < QUADS; g++) {
        var a = vec4f();
        for (var j = 0u; j < 4u; j++) { a[j] = A[d * D_STATE + min(4u * g + j, D_STATE - 1u)] * LOG2_E; }
        var carry = vec4f();
        for (var k = 0u; k < CHUNK; k++) {
            let i = CHUNK - 1u - k;
#if LTI
            let at = d * D_STATE + 4u * g;
#else
            let at = (first + min(i, count - 1u)) * p.x_dbl_stride + p.c_offset + 4u * g;
#endif
            let c = select(vec4f(), vec4f(x_dbl[at], x_dbl[at + 1u], x_dbl[at + 2u], x_dbl[at + 3u]), inside4(g));
            carry = exp2(dt[i] * a) * fma(c, vec4f(grad_s[i]), carry);
        }
        for (var j = 0u; j < 4u; j++) {
            let n = 4u * g + j;
            if n < D_STATE {
                scratch[aggregate(reversed(wid.y), n, d)] = carry[j];
                if wid.y == 0u { scratch[p.coefficients + n * p.d_inner + d] = A[d * D_STATE + n]; }
            }
        }
    }
    var sum = 0.0;
    for (var i = 0u; i < CHUNK; i++) { sum += dt[i]; }
    scratch[aggregate(reversed(wid.y), D_STATE, d)] = sum;
    if wid.y == 0u { scratch[p.coefficients + D_STATE * p.d_inner + d] = D[d]; }
}
