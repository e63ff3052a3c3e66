// One channel of xbc (of x or B) at four tokens from `token` on; zero past the last token and where there is no such
// channel.
fn tokens4(token: u32, column: u32, inside: bool) -> vec4f {
    let left = select(0u, p.l - min(token, p.l), inside);
    return vec4f(
        select(0.0, f32(xbc[xbc_row(token) + column]), left > 0u),
        select(0.0, f32(xbc[xbc_row(token + 1u) + column]), left > 1u),
        select(0.0, f32(xbc[xbc_row(token + 2u) + column]), left > 2u),
        select(0.0, f32(xbc[xbc_row(token + 3u) + column]), left > 3u),
    );
}
