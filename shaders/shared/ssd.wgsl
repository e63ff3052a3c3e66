// The shapes that Mamba-2's kernels share (state space duality, SSD: Dao and Gu 2024, arXiv 2405.21060). A head has
// head_dim channels x_h, a state S (head_dim, d_state), one A and one delta a token; group_heads neighbouring heads
// share B and C.
//   S[t] = exp(delta A) S[t-1] + delta x_h B^T,   y_h = S C + D x_h
struct Params {
    l: u32,             // tokens of this dispatch
    t0: u32,            // the first of them in xbc, zxbcdt and y: a long text goes through in segments
    n_chunks: u32,      // chunks of CHUNK tokens in l
    heads: u32,
    head_dim: u32,
    d_state: u32,
    groups: u32,
    group_heads: u32,   // heads / groups
    xbc_stride: u32,    // columns of xbc: x, B, C
    x_offset: u32,      // column where x (heads, head_dim) begins,
    b_offset: u32,      //   where B (groups, d_state) does,
    c_offset: u32,      //   and where C does
    zxbcdt_stride: u32, // columns of zxbcdt: z, x, B, C, dt
    z_offset: u32,      // column where z (heads, head_dim) begins,
    dt_offset: u32,     //   and where dt (heads) does
    d_has_hdim: u32,    // 1: D is (heads, head_dim); 0: (heads)
    dt_min: f32,        // limits of delta
    dt_max: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
