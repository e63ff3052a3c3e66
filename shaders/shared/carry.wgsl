// The work-efficient scan over the totals of SEGMENTS runs (Blelloch 1990, section 1.4), for WIDTH lanes beside each
// other.
#include "shared/scan_op.wgsl"

var<workgroup> tree: array<ScanElement, SEGMENTS * WIDTH>; // (SEGMENTS, WIDTH)

// What comes before an invocation's run, from each run's total. Every invocation must call it.
fn carry_before(lid: u32, total: ScanElement) -> ScanElement {
    let segment = lid / WIDTH;
    tree[lid] = total;
    // Up-sweep: each node becomes the composition of what is below it.
    for (var step = 1u; step < SEGMENTS; step <<= 1u) {
        workgroupBarrier();
        if segment % (2u * step) == 2u * step - 1u { tree[lid] = combine(tree[lid - step * WIDTH], tree[lid]); }
    }
    workgroupBarrier();
    if segment == SEGMENTS - 1u { tree[lid] = ScanElement(1.0, 0.0); }
    // Down-sweep: each node hands its prefix to the left, and that with the left's total to the right.
    for (var step = SEGMENTS / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if segment % (2u * step) == 2u * step - 1u {
            let left = tree[lid - step * WIDTH];
            let prefix = tree[lid];
            tree[lid - step * WIDTH] = prefix;
            tree[lid] = combine(prefix, left);
        }
    }
    workgroupBarrier();
    return tree[lid];
}
