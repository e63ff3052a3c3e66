// An MLP's activation, f. shared/math.wgsl comes before.
#if SILU
fn f(x: f32) -> f32 { return silu(x); }
#endif
#if GELU
// x times the normal distribution at x, erfc(-x / sqrt(2)) / 2. For z >= 0 and t = 1 / (1 + z / 2) erfc(z) is
// t exp(P(t) - z^2), with a polynomial that is within 6e-8 up to z = 11, where f32 ends.
fn f(x: f32) -> f32 {
    let z = min(abs(x) * 0.70710678, 11.0);
    let t = 1.0 / fma(0.5, z, 1.0);
    var q = 0.156007701219;
    q = fma(q, t, -0.740447485143);
    q = fma(q, t, 1.29511838729);
    q = fma(q, t, -0.877499801608);
    q = fma(q, t, 0.0668377645151);
    q = fma(q, t, -0.0751989210798);
    q = fma(q, t, 0.0599563398587);
    q = fma(q, t, 0.381488547507);
    q = fma(q, t, 0.999213057994);
    q = fma(q, t, -1.26547553419);
    let tail = 0.5 * t * exp(q - z * z);
    return x * select(1.0 - tail, tail, x < 0.0);
}
#endif
#if GELU_TANH
// x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u)), and exp of a negative number only, so that it never overflows.
fn f(x: f32) -> f32 {
    let y = clamp(x, -1e4, 1e4);
    let u = 1.5957691216 * fma(0.044715 * y * y, y, y);
    let e = exp(-abs(u));
    return x * select(e, 1.0, x >= 0.0) / (1.0 + e);
}
#endif
#if RELU2
// No max: NaN stays NaN.
fn f(x: f32) -> f32 { return x * select(x, 0.0, x < 0.0); }
#endif
