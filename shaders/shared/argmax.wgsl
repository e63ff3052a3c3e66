// The place of the largest value over a workgroup of WG invocations; the lowest place among equals, and
// NOT_A_NUMBER if any value was NaN. Every invocation gets the result and must reach it.
#include "shared/ordered.wgsl"

const NOT_A_NUMBER: u32 = 0xffffffffu;

// (key, index): key is ordered(value), 0 before any value was seen; NaN has a key above all others.
var<workgroup> argmax_key: array<u32, WG>;
var<workgroup> argmax_index: array<u32, WG>;

fn argmax_key_of(x: f32) -> u32 {
    return select(ordered(x), 0xffffffffu, is_nan(x));
}

fn workgroup_argmax(lid: u32, key: u32, index: u32) -> u32 {
    workgroupBarrier();
    argmax_key[lid] = key;
    argmax_index[lid] = index;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lid < half {
            let k0 = argmax_key[lid];
            let k1 = argmax_key[lid + half];
            let i1 = argmax_index[lid + half];
            if k1 > k0 || (k1 == k0 && i1 < argmax_index[lid]) {
                argmax_key[lid] = k1;
                argmax_index[lid] = i1;
            }
        }
    }
    workgroupBarrier();
    return select(argmax_index[0], NOT_A_NUMBER, argmax_key[0] == 0xffffffffu);
}
