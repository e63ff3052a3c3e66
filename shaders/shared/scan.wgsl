// The shapes that every rung of the scan shares.
struct Params {
    l: u32,            // tokens of this dispatch
    d_inner: u32,
    d_state: u32,
    x_dbl_stride: u32, // columns of x_dbl: dt_rank + 2 d_state
    b_offset: u32,     // column of x_dbl where B begins
    c_offset: u32,     // column where C begins
    xz_stride: u32,    // columns of xz
    z_offset: u32,     // column where z begins
    t0: u32,           // first token: rungs (a) and (b) work through a long chunk in segments
    chunk: u32,        // fused: tokens a chunk
    n_chunks: u32,     // fused: chunks of a sequence
    batch: u32,        // fused: sequences, one after the other in every array over tokens
    coefficients: u32, // gradients: where in scratch A and D are,
    c_partials: u32,   //   partial sums over time, by channels,
    bc_partials: u32,  //   and partial sums over channels, of B and C
    beyond: u32,       // fused: where behind the aggregates the flag is
}
@group(0) @binding(0) var<uniform> p: Params;
