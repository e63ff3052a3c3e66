// 64-bit unsigned numbers as (low, high), and their running sum over a workgroup of WG invocations (a power of four).
fn wide_add(a: vec2u, b: vec2u) -> vec2u {
    let low = a.x + b.x;
    return vec2u(low, a.y + b.y + select(0u, 1u, low < b.x));
}

fn wide_subtract(a: vec2u, b: vec2u) -> vec2u {
    return vec2u(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn wide_less(a: vec2u, b: vec2u) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn wide_product(a: u32, b: u32) -> vec2u {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross_a = (a >> 16u) * (b & 0xffffu);
    let cross_b = (a & 0xffffu) * (b >> 16u);
    let middle = (low >> 16u) + (cross_a & 0xffffu) + (cross_b & 0xffffu);
    let high = (a >> 16u) * (b >> 16u) + (cross_a >> 16u) + (cross_b >> 16u) + (middle >> 16u);
    return vec2u((low & 0xffffu) | (middle << 16u), high);
}

// a f / 2^32, rounded down, or up if `up` is 1.
fn wide_share(a: vec2u, f: u32, up: u32) -> vec2u {
    let low = wide_product(a.x, f);
    let down = wide_add(wide_product(a.y, f), vec2u(low.y, 0u));
    return wide_add(down, vec2u(select(0u, up, low.x != 0u), 0u));
}

var<workgroup> wide_scratch: array<vec2u, WG>;

// The sum of x over the invocations up to this one; wide_total() is then that over all.
fn wide_prefix_sum(lid: u32, x: vec2u) -> vec2u {
    var sum = x;
    for (var step = 1u; step < WG; step *= 4u) {
        workgroupBarrier();
        wide_scratch[lid] = sum;
        workgroupBarrier();
        for (var j = step; j < 4u * step; j += step) {
            if lid >= j { sum = wide_add(sum, wide_scratch[lid - j]); }
        }
    }
    workgroupBarrier();
    wide_scratch[lid] = sum;
    workgroupBarrier();
    return sum;
}

// Of the last wide_prefix_sum.
fn wide_total() -> vec2u {
    return wide_scratch[WG - 1u];
}
