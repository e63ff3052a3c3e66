// Last pass of the scan's gradient (shared/scan_backward.wgsl): a chunk's states again, then against time all that follows from
// them. An invocation takes four states of one channel through the chunk; sums over a channel's states and over the channels go
// through workgroup memory, token by token. Sums over time and over the workgroups' channels are left in scratch, for sum_partials.
// delta becomes its gradient (before the softplus), grad_y that of u: each value is read and written by one workgroup.
// Grid: x over groups of CHANNELS channels, y over the chunks of all sequences; invocation q CHANNELS + c has quad q of channel c.
#include "shared/gate.wgsl"
#include "shared/scan_backward.wgsl"
@group(0) @binding(1) var<storage, read> u: array<f32>;              // (rows, d_inner)
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;    // (rows, d_inner)
@group(0) @binding(3) var<storage, read> x_dbl: array<f32>;          // (rows, x_dbl_stride): B, C
@group(0) @binding(4) var<storage, read> xz: array<f32>;             // (rows, xz_stride): z
@group(0) @binding(5) var<storage, read> states: array<f32>;         // aggregates of scan_train: each chunk's initial state
@group(0) @binding(6) var<storage, read_write> grad_y: array<f32>;   // (rows, d_inner)
@group(0) @binding(7) var<storage, read_write> grad_xz: array<f32>;  // (rows, xz_stride): z
// Adjoints from behind, A and D (scan_backward_reduce), then partial sums over time at p.c_partials: (chunks, KINDS, d_inner), of A_log
// (D_STATE), D, dt_bias, and with LTI C (D_STATE); without it partial sums over channels at p.bc_partials: (groups, 2, rows, d_state).
@group(0) @binding(8) var<storage, read_write> scratch: array<f32>;

const WG: u32 = CHANNELS * QUADS;
#if LTI
const KINDS: u32 = 2u * D_STATE + 2u;
#else
const KINDS: u32 = D_STATE + 2u;
// Invocations that share a sum over the channels.
const SHARE: u32 = min(8u, CHANNELS);
var<workgroup> staged: array<vec4f, CHUNK * 2u * QUADS>; // (CHUNK, B or C, QUADS)
var<workgroup> of_bc: array<vec4f, 2u * WG>;             // (B or C, QUADS, CHANNELS): one token's terms
var<workgroup> shares: array<vec4f, 2u * QUADS * SHARE>; // (B or C, QUADS, SHARE)
#endif
var<workgroup> of_state: array<vec3f, WG>;               // (QUADS, CHANNELS): of y, grad_u, grad_delta

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let channel = wid.x * CHANNELS + lid % CHANNELS;
    let q = lid / CHANNELS;
    let d = min(channel, p.d_inner - 1u);
    let start = wid.y % p.n_chunks * CHUNK;
    let first = wid.y / p.n_chunks * p.l + start;
    let count = min(CHUNK, p.l - start);
    let skip = scratch[p.coefficients + D_STATE * p.d_inner + d];
    var a = vec4f();
    var h = vec4f();
    var carry = vec4f();
    for (var j = 0u; j < 4u; j++) {
        let n = min(4u * q + j, D_STATE - 1u);
        a[j] = scratch[p.coefficients + n * p.d_inner + d];
        h[j] = states[aggregate(wid.y, n, d)];
        carry[j] = scratch[aggregate(reversed(wid.y), n, d)];
    }
    h = select(vec4f(), h, inside4(q));
    carry = select(vec4f(), carry, inside4(q));
    let rate = a * LOG2_E;
#if LTI
    let b = select(vec4f(), vec4f(1.0), inside4(q));
    let c0 = d * D_STATE + 4u * q;
    let c = select(vec4f(), vec4f(x_dbl[c0], x_dbl[c0 + 1u], x_dbl[c0 + 2u], x_dbl[c0 + 3u]), inside4(q));
    let step = delta[d];
    var grad_c = vec4f();
#else
    for (var i = lid; i < CHUNK * 2u * QUADS; i += WG) {
        let row = first + min(i / (2u * QUADS), count - 1u);
        let at = row * p.x_dbl_stride + select(p.c_offset, p.b_offset, i / QUADS % 2u == 0u) + 4u * (i % QUADS);
        staged[i] = select(vec4f(), vec4f(x_dbl[at], x_dbl[at + 1u], x_dbl[at + 2u], x_dbl[at + 3u]), inside4(i % QUADS));
    }
    workgroupBarrier();
#endif
    // Behind the last token delta is zero, so that nothing changes, and so is grad_y.
    var before: array<vec4f, CHUNK>;
    for (var i = 0u; i < CHUNK; i++) {
        let at = (first + min(i, count - 1u)) * p.d_inner + d;
#if LTI
        let dt = select(0.0, step, i < count);
#else
        let dt = select(0.0, delta[at], i < count);
        let b = staged[2u * i * QUADS + q];
#endif
        before[i] = h;
        h = fma(exp2(dt * rate), h, dt * u[at] * b);
    }
    var grad_a = vec4f();
    var grad_d = 0.0;
    var grad_bias = 0.0;
    for (var k = 0u; k < CHUNK; k++) {
        let i = CHUNK - 1u - k;
        let row = first + min(i, count - 1u);
        let at = row * p.d_inner + d;
        let ut = u[at];
#if LTI
        let dt = select(0.0, step, i < count);
#else
        let dt = select(0.0, delta[at], i < count);
        let b = staged[2u * i * QUADS + q];
        let c = staged[(2u * i + 1u) * QUADS + q];
#endif
        let gy = select(0.0, grad_y[at], i < count);
        let z = gate(xz[row * p.xz_stride + p.z_offset + d]);
        let grad_s = gy * z.x;
        let kept = exp2(dt * rate) * before[i]; // h[t] less what came in
        let lambda = fma(c, vec4f(grad_s), carry);
        carry = exp2(dt * rate) * lambda;
        grad_a = fma(lambda * a, dt * kept, grad_a);
        of_state[lid] = vec3f(dot(c, h), dot(lambda, b), dot(lambda, fma(a, kept, ut * b)));
#if LTI
        grad_c = fma(vec4f(grad_s), h, grad_c);
#else
        let inside = channel < p.d_inner;
        of_bc[lid] = select(vec4f(), dt * ut * lambda, inside);
        of_bc[WG + lid] = select(vec4f(), grad_s * h, inside);
#endif
        h = before[i];
        // Everyone has read this token of delta and grad_y before they are overwritten.
        storageBarrier();
        workgroupBarrier();
        if q == 0u {
            var sum = of_state[lid];
            for (var g = 1u; g < QUADS; g++) { sum += of_state[g * CHANNELS + lid]; }
            let grad_dt = sum.z * softplus_slope(dt);
            grad_d = fma(grad_s, ut, grad_d);
            grad_bias += grad_dt;
            if channel < p.d_inner && i < count {
                grad_y[at] = fma(dt, sum.y, skip * grad_s);
                grad_xz[row * p.xz_stride + p.z_offset + d] = gy * fma(skip, ut, sum.x) * z.y;
#if PER_TOKEN
                delta[at] = grad_dt;
#endif
            }
        }
#if PER_TOKEN
        for (var s = WG - 1u - lid; s < 2u * QUADS * SHARE; s += WG) {
            var sum = vec4f();
            for (var j = s % SHARE; j < CHANNELS; j += SHARE) { sum += of_bc[s / SHARE * CHANNELS + j]; }
            shares[s] = sum;
        }
#endif
        workgroupBarrier();
#if PER_TOKEN
        for (var o = lid; o < 2u * QUADS; o += WG) {
            var sum = vec4f();
            for (var j = 0u; j < SHARE; j++) { sum += shares[o * SHARE + j]; }
            let to = p.bc_partials + ((2u * wid.x + o / QUADS) * p.batch * p.l + row) * D_STATE + 4u * (o % QUADS);
            for (var j = 0u; j < 4u; j++) {
                if i < count && 4u * (o % QUADS) + j < D_STATE { scratch[to + j] = sum[j]; }
            }
        }
#endif
    }
    if channel < p.d_inner {
        let to = p.c_partials + wid.y * KINDS * p.d_inner + d;
        for (var j = 0u; j < 4u; j++) {
            let n = 4u * q + j;
            if n < D_STATE {
                scratch[to + n * p.d_inner] = grad_a[j];
#if LTI
                scratch[to + (D_STATE + 2u + n) * p.d_inner] = grad_c[j];
#endif
            }
        }
        if q == 0u {
            scratch[to + D_STATE * p.d_inner] = grad_d;
            scratch[to + (D_STATE + 1u) * p.d_inner] = grad_bias;
        }
    }
}
