// Rows of xbc. Tokens are counted from the segment's first.
@group(0) @binding(1) var<storage, read> xbc: array<act>;         // (L, xbc_stride): x, B, C
#if QUADS
@group(0) @binding(2) var<storage, read> xbc4: array<vec4<act>>;  // the same, where rows, B and C are whole quads
#endif

fn xbc_row(token: u32) -> u32 {
    return (p.t0 + min(token, p.l - 1u)) * p.xbc_stride;
}

// Four states' B or C of a token from n on, by the column where its group's begin; zero past the states and past the
// last token.
fn states4(token: u32, column: u32, n: u32) -> vec4f {
    let at = xbc_row(token) + column + n;
    let left = select(0u, p.d_state - min(n, p.d_state), token < p.l);
#if QUADS
    return select(vec4f(), vec4f(xbc4[at / 4u]), left > 0u);
#else
    return vec4f(
        select(0.0, f32(xbc[at]), left > 0u),
        select(0.0, f32(xbc[at + 1u]), left > 1u),
        select(0.0, f32(xbc[at + 2u]), left > 2u),
        select(0.0, f32(xbc[at + 3u]), left > 3u),
    );
#endif
}
