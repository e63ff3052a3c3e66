// x of a linear layer as rows of scalars of type x_t, read four at a time.
@group(0) @binding(2) var<storage, read> x: array<x_t>; // (L, x_stride)

// Four neighbours of one row of x; zero past k, so that what lies behind the row (the next one, or nothing) never counts.
fn x4(t: u32, q: u32) -> vec4f {
    let base = t * p.x_stride + 4u * q;
    let left = p.k - min(p.k, 4u * q);
    return vec4f(
        select(0.0, f32(x[base]), left > 0u),
        select(0.0, f32(x[base + 1u]), left > 1u),
        select(0.0, f32(x[base + 2u]), left > 2u),
        select(0.0, f32(x[base + 3u]), left > 3u),
    );
}
