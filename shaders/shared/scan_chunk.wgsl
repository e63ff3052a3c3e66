// What reduce and apply read: a chunk's inputs. With LTI (no selectivity) delta is (d_inner), B is 1, and x_dbl is C (d_inner, d_state).
// act is the number format of activations, f32 or f16.
@group(0) @binding(1) var<storage, read> u: array<act>;     // (L, d_inner)
@group(0) @binding(2) var<storage, read> delta: array<act>; // (L, d_inner)
@group(0) @binding(3) var<storage, read> A: array<f32>;     // (d_inner, d_state)
@group(0) @binding(4) var<storage, read> x_dbl: array<f32>; // (L, x_dbl_stride): B, C

// Tokens whose inputs are read before the first of them is used.
const AHEAD: u32 = 8u;
const LOG2_E: f32 = 1.44269504;

#if LTI
fn stage(t: u32, lid: u32) {}
#else
var<workgroup> staged: array<vec4f, STAGE * KINDS * QUADS>; // (STAGE, KINDS, QUADS): B, and C where KINDS is 2

// Brings B (and C) of the tokens from t on. Every invocation must call it, and pass a barrier before reading and before
// calling it again.
fn stage(t: u32, lid: u32) {
    for (var i = lid; i < STAGE * KINDS * QUADS; i += CHANNELS) {
        let row = min(t + i / (KINDS * QUADS), p.batch * p.l - 1u) * p.x_dbl_stride;
        let kind = i / QUADS % KINDS;
        let n = i % QUADS * 4u;
        let at = row + select(p.c_offset, p.b_offset, kind == 0u) + n;
        var v = vec4f();
        for (var j = 0u; j < 4u; j++) { v[j] = select(0.0, x_dbl[at + j], n + j < D_STATE); }
        staged[i] = v;
    }
}
#endif

// A of channel d, scaled for exp2.
fn scaled_a(d: u32, g: u32) -> vec4f {
    var v = vec4f();
    for (var j = 0u; j < 4u; j++) {
        let n = 4u * g + j;
        v[j] = select(0.0, A[d * D_STATE + min(n, D_STATE - 1u)] * LOG2_E, n < D_STATE);
    }
    return v;
}
