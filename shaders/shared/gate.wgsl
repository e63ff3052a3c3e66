// silu(x) and its slope s (1 + x (1 - s)), s = sigmoid(x); exp is taken of a negative number only.
fn gate(x: f32) -> vec2f {
    let e = exp(-abs(x));
    let large = 1.0 / (1.0 + e);
    let small = e / (1.0 + e);
    let s = select(small, large, x >= 0.0);
    return vec2f(x * s, s * fma(x, select(large, small, x >= 0.0), 1.0));
}

// The slope of softplus at x, 1 - exp(-y), from y = softplus(x); by its series where the difference would lose digits.
fn softplus_slope(y: f32) -> f32 {
    let near = y * fma(y, fma(y, fma(y, -1.0 / 24.0, 1.0 / 6.0), -0.5), 1.0);
    return select(1.0 - exp(-y), near, y < 0.0625);
}
