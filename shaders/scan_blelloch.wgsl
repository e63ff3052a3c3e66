// Rung (b): the textbook work-efficient scan (Blelloch 1990, section 1.3) of materialised pairs, in place, over time.
// A workgroup scans one block of 2 * WIDTH elements for LANES neighbouring (channel, state) lanes: up-sweep to the
// block's total, down-sweep to exclusive prefixes, then inclusive = combine(exclusive, element). The totals of all
// blocks go to sums_a, sums_b, which the host scans by this same kernel; scan_blelloch_add brings them back.
// Elements past the end are the identity, so that any length works. WIDTH, a power of two up to 32, is set by the host:
// less for short texts, whose blocks would be mostly identities.
// Grid: x over lanes, y over blocks.
#include "shared/scan_op.wgsl"

const LANES: u32 = 256u / WIDTH;
const BLOCK: u32 = 2u * WIDTH;

struct Params {
    l: u32,     // elements over time
    lanes: u32, // d_inner * d_state
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;      // (l, lanes)
@group(0) @binding(2) var<storage, read_write> b: array<f32>;      // (l, lanes)
@group(0) @binding(3) var<storage, read_write> sums_a: array<f32>; // (blocks, lanes)
@group(0) @binding(4) var<storage, read_write> sums_b: array<f32>; // (blocks, lanes)

var<workgroup> tree: array<ScanElement, 512>; // (BLOCK, LANES)

fn load(t: u32, lane: u32) -> ScanElement {
    if t < p.l && lane < p.lanes {
        return ScanElement(a[t * p.lanes + lane], b[t * p.lanes + lane]);
    }
    return ScanElement(1.0, 0.0);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let c = lid % LANES; // lane within the workgroup
    let k = lid / LANES; // place along time, 0..WIDTH
    let lane = wid.x * LANES + c;
    let t0 = wid.y * BLOCK;
    tree[k * LANES + c] = load(t0 + k, lane);
    tree[(k + WIDTH) * LANES + c] = load(t0 + k + WIDTH, lane);

    // Up-sweep: a node becomes the combination of its two halves.
    var step = 1u;
    for (var nodes = WIDTH; nodes > 0u; nodes >>= 1u) {
        workgroupBarrier();
        if k < nodes {
            let left = (step * (2u * k + 1u) - 1u) * LANES + c;
            let right = (step * (2u * k + 2u) - 1u) * LANES + c;
            tree[right] = combine(tree[left], tree[right]);
        }
        step <<= 1u;
    }
    workgroupBarrier();
    if k == 0u {
        let last = (BLOCK - 1u) * LANES + c;
        if lane < p.lanes {
            sums_a[wid.y * p.lanes + lane] = tree[last].a;
            sums_b[wid.y * p.lanes + lane] = tree[last].b;
        }
        tree[last] = ScanElement(1.0, 0.0);
    }
    // Down-sweep: the left child takes its parent's prefix, the right child that prefix and then the left half.
    for (var nodes = 1u; nodes <= WIDTH; nodes <<= 1u) {
        step >>= 1u;
        workgroupBarrier();
        if k < nodes {
            let left = (step * (2u * k + 1u) - 1u) * LANES + c;
            let right = (step * (2u * k + 2u) - 1u) * LANES + c;
            let half = tree[left];
            let prefix = tree[right];
            tree[left] = prefix;
            tree[right] = combine(prefix, half);
        }
    }
    workgroupBarrier();
    for (var i = 0u; i < 2u; i++) {
        let t = t0 + k + i * WIDTH;
        if t < p.l && lane < p.lanes {
            let e = combine(tree[(k + i * WIDTH) * LANES + c], load(t, lane));
            a[t * p.lanes + lane] = e.a;
            b[t * p.lanes + lane] = e.b;
        }
    }
}
