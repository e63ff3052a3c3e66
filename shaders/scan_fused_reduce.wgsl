// Fused scan, first pass: each chunk's aggregate, and Blelloch over the block's chunks in workgroup memory.
// Grid: x over groups of CHANNELS channels, y over blocks.
#include "shared/scan_op.wgsl"
#include "shared/scan_fused.wgsl"
@group(0) @binding(1) var<storage, read> u: array<f32>;                // (L, d_inner)
@group(0) @binding(2) var<storage, read> delta: array<f32>;            // (L, d_inner)
@group(0) @binding(3) var<storage, read> A: array<f32>;                // (d_inner, d_state)
@group(0) @binding(4) var<storage, read> x_dbl: array<f32>;            // (L, x_dbl_stride): B
@group(0) @binding(5) var<storage, read_write> aggregates: array<f32>; // see shared/scan_fused.wgsl

const QUADS: u32 = (D_STATE + 3u) / 4u;

var<workgroup> tree: array<ScanElement4, 256>; // (CHUNKS, CHANNELS)
var<workgroup> sums: array<f32, 256>;          // (CHUNKS, CHANNELS) sum of delta a chunk

// Four states from n on; the last quad repeats the last state, which is then not stored.
fn quad_of(v: ptr<function, array<f32, D_STATE>>, n: u32) -> vec4f {
    return vec4f(
        (*v)[min(n, D_STATE - 1u)],
        (*v)[min(n + 1u, D_STATE - 1u)],
        (*v)[min(n + 2u, D_STATE - 1u)],
        (*v)[min(n + 3u, D_STATE - 1u)],
    );
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let c = lid % CHANNELS;
    let k = lid / CHANNELS;
    let d = wid.x * CHANNELS + c;
    let block = wid.y;
    let chunk = block * CHUNKS + k;
    let inside = d < p.d_inner && chunk < p.n_chunks;
    let dd = min(d, p.d_inner - 1u);

    // The chunk from a zero state. A chunk past the end stays the identity.
    var A_d: array<f32, D_STATE>;
    var h: array<f32, D_STATE>;
    for (var n = 0u; n < D_STATE; n++) {
        A_d[n] = A[dd * D_STATE + n];
        h[n] = 0.0;
    }
    var s = 0.0;
    let t1 = select(0u, min((chunk + 1u) * p.chunk, p.l), inside);
    for (var t = chunk * p.chunk; t < t1; t++) {
        let dt = delta[t * p.d_inner + d];
        let dtu = dt * u[t * p.d_inner + d];
        let b_at = t * p.x_dbl_stride + p.b_offset;
        s += dt;
        for (var n = 0u; n < D_STATE; n++) {
            h[n] = fma(exp(dt * A_d[n]), h[n], dtu * x_dbl[b_at + n]);
        }
    }

    // Sums of delta before this chunk and over the block: eight values, added in order.
    sums[lid] = s;
    workgroupBarrier();
    var before = 0.0;
    var total = 0.0;
    for (var i = 0u; i < CHUNKS; i++) {
        if i == k { before = total; }
        total += sums[i * CHANNELS + c];
    }
    if inside { aggregates[prefix_s(chunk, d)] = before; }
    if d < p.d_inner && k == 0u { aggregates[block_s(block, d)] = total; }

    for (var g = 0u; g < QUADS; g++) {
        tree[lid] = ScanElement4(exp(s * quad_of(&A_d, 4u * g)), quad_of(&h, 4u * g));
        // Up-sweep.
        var step = 1u;
        for (var nodes = CHUNKS / 2u; nodes > 0u; nodes >>= 1u) {
            workgroupBarrier();
            if k < nodes {
                let left = (step * (2u * k + 1u) - 1u) * CHANNELS + c;
                let right = (step * (2u * k + 2u) - 1u) * CHANNELS + c;
                tree[right] = combine4(tree[left], tree[right]);
            }
            step <<= 1u;
        }
        workgroupBarrier();
        if k == 0u {
            let last = (CHUNKS - 1u) * CHANNELS + c;
            let b = tree[last].b;
            for (var j = 0u; j < 4u; j++) {
                let n = 4u * g + j;
                if n < D_STATE && d < p.d_inner { aggregates[block_h(block, n, d)] = b[j]; }
            }
            tree[last] = ScanElement4(vec4f(1.0), vec4f());
        }
        // Down-sweep.
        for (var nodes = 1u; nodes < CHUNKS; nodes <<= 1u) {
            step >>= 1u;
            workgroupBarrier();
            if k < nodes {
                let left = (step * (2u * k + 1u) - 1u) * CHANNELS + c;
                let right = (step * (2u * k + 2u) - 1u) * CHANNELS + c;
                let half = tree[left];
                let prefix = tree[right];
                tree[left] = prefix;
                tree[right] = combine4(prefix, half);
            }
        }
        workgroupBarrier();
        let b = tree[lid].b;
        for (var j = 0u; j < 4u; j++) {
            let n = 4u * g + j;
            if n < D_STATE && inside { aggregates[prefix_h(chunk, n, d)] = b[j]; }
        }
        // An invocation overwrites only its own place next, which nobody else reads before the next barrier.
    }
}
