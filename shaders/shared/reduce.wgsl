// Sum and maximum over a workgroup of WG invocations (a power of two). Every invocation gets the result;
// the barriers must be reached by all of them.
var<workgroup> reduce_scratch: array<f32, WG>;

fn workgroup_sum(lid: u32, x: f32) -> f32 {
    workgroupBarrier();
    reduce_scratch[lid] = x;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lid < half { reduce_scratch[lid] += reduce_scratch[lid + half]; }
    }
    workgroupBarrier();
    return reduce_scratch[0];
}

fn workgroup_max(lid: u32, x: f32) -> f32 {
    workgroupBarrier();
    reduce_scratch[lid] = x;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lid < half { reduce_scratch[lid] = max(reduce_scratch[lid], reduce_scratch[lid + half]); }
    }
    workgroupBarrier();
    return reduce_scratch[0];
}
