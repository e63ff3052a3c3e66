// softplus(x) = log(1 + exp(x)), without overflow and without losing small values.
// WGSL has no log1p: with e = exp(-|x|) in (0, 1], log(1 + e) = 2 atanh(s), s = e / (2 + e) <= 1/3;
// eight terms of the series leave a relative error below 2e-9.
fn softplus(x: f32) -> f32 {
    let e = exp(-abs(x));
    let s = e / (2.0 + e);
    let q = s * s;
    var p = 1.0 / 15.0;
    p = fma(p, q, 1.0 / 13.0);
    p = fma(p, q, 1.0 / 11.0);
    p = fma(p, q, 1.0 / 9.0);
    p = fma(p, q, 1.0 / 7.0);
    p = fma(p, q, 1.0 / 5.0);
    p = fma(p, q, 1.0 / 3.0);
    p = fma(p, q, 1.0);
    return max(x, 0.0) + 2.0 * s * p;
}

// silu(x) = x / (1 + exp(-x)); exp is taken of a negative number only, so that it never overflows.
fn silu(x: f32) -> f32 {
    let e = exp(-abs(x));
    return x * select(e, 1.0, x >= 0.0) / (1.0 + e);
}

// exp(x) for the decay of a state, x = delta A <= 0. Over a long text the factors multiply, and where delta is small all
// of them lie just below 1, where an exp that is off by an ulp to one side (GPUs' are) adds up: 65,536 factors lose
// 0.4 %. There a polynomial, whose only error is the last rounding, which goes either way.
fn decay(x: f32) -> f32 {
    let near = fma(x, fma(x, fma(x, fma(x, 1.0 / 24.0, 1.0 / 6.0), 0.5), 1.0), 1.0);
    return select(exp(x), near, x > -0.0625);
}
