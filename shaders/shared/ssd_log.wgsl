// The logarithm of a decay as 16 whole + rest, whole a number below or equal to zero and rest in (-16, 0]. Over a chunk
// with large deltas the sums of delta A go into the thousands, where f32 has three digits left behind the point; the
// difference of two of them, which is what matters, would have no more. So split, it is good to 1e-6. The whole part is
// an integer so that no compiler puts the two together before the difference is taken.
struct Log { whole: i32, rest: f32 }

// In storage: naga 30's SPIR-V for a structure that lies there and in workgroup memory too is not valid.
fn packed(x: Log) -> vec2i {
    return vec2i(x.whole, bitcast<i32>(x.rest));
}
fn unpacked(x: vec2i) -> Log {
    return Log(x.x, bitcast<f32>(x.y));
}

fn settle(whole: i32, rest: f32) -> Log {
    let over = trunc(rest / 16.0);
    return Log(whole + i32(over), fma(-16.0, over, rest));
}

// exp(-128) is 0 in f32, and so is what decays further. A comparison instead of max: NaN stays NaN, in rest.
fn log_of(x: f32) -> Log {
    return settle(0, select(x, -128.0, x < -128.0));
}

fn log_sum(a: Log, b: Log) -> Log {
    return settle(a.whole + b.whole, a.rest + b.rest);
}

fn log_value(x: Log) -> f32 {
    return fma(16.0, f32(x.whole), x.rest);
}

// The logarithm of what is left, at the later of two tokens of a chunk, of the earlier one.
fn log_span(later: Log, earlier: Log) -> f32 {
    return fma(16.0, f32(later.whole - earlier.whole), later.rest - earlier.rest);
}
