// The place of the largest value over a workgroup of WG invocations (a power of four); the lowest place among equals, and
// NOT_A_NUMBER if any value was NaN. Every invocation gets the result and must reach it.
#include "shared/ordered.wgsl"

const NOT_A_NUMBER: u32 = 0xffffffffu;

// (key, index): key is ordered(value), 0 before any value was seen; NaN has a key above all others.
var<workgroup> argmax_pair: array<vec2u, WG>;

fn argmax_key_of(x: f32) -> u32 {
    return select(ordered(x), NOT_A_NUMBER, is_nan(x));
}

// The larger of two pairs.
fn argmax_of(a: vec2u, b: vec2u) -> vec2u {
    return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}

// The largest of all invocations' pairs. Four at a time: a barrier costs as much as the loads between two of them.
fn workgroup_argmax_pair(lid: u32, pair: vec2u) -> vec2u {
    workgroupBarrier();
    argmax_pair[lid] = pair;
    for (var n = WG / 4u; n > 0u; n /= 4u) {
        workgroupBarrier();
        if lid < n {
            let low = argmax_of(argmax_pair[lid], argmax_pair[lid + n]);
            let high = argmax_of(argmax_pair[lid + 2u * n], argmax_pair[lid + 3u * n]);
            argmax_pair[lid] = argmax_of(low, high);
        }
    }
    workgroupBarrier();
    return argmax_pair[0];
}

fn workgroup_argmax(lid: u32, key: u32, index: u32) -> u32 {
    let best = workgroup_argmax_pair(lid, vec2u(key, index));
    return select(best.y, NOT_A_NUMBER, best.x == NOT_A_NUMBER);
}
