// The pairs of tokens and experts in the order of their experts, and where each expert's begin. An invocation looks through a run of
// pairs of its own, first to count, then to place.
// Grid: a workgroup an expert.

struct Params {
    pairs: u32,
    experts: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> experts: array<u32>;        // (pairs)
@group(0) @binding(2) var<storage, read_write> order: array<u32>;    // (pairs)
@group(0) @binding(3) var<storage, read_write> offsets: array<u32>;  // (experts + 1)

const WG: u32 = 256u;

var<workgroup> earlier: array<u32, WG>; // pairs in each run of experts before this one,
var<workgroup> own: array<u32, WG>;     //   and of this one

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let e = wid.x;
    let run = (p.pairs + WG - 1u) / WG;
    let first = min(lid * run, p.pairs);
    let end = min(first + run, p.pairs);
    var less = 0u;
    var equal = 0u;
    for (var i = first; i < end; i++) {
        let other = experts[i];
        less += select(0u, 1u, other < e);
        equal += select(0u, 1u, other == e);
    }
    earlier[lid] = less;
    own[lid] = equal;
    workgroupBarrier();
    var begin = 0u;
    var at = 0u;
    for (var i = 0u; i < WG; i++) {
        begin += earlier[i];
        at += select(0u, own[i], i < lid);
    }
    if lid == 0u {
        offsets[e] = begin;
        if e + 1u == p.experts { offsets[p.experts] = p.pairs; }
    }
    at += begin;
    for (var i = first; i < end; i++) {
        if experts[i] == e {
            order[at] = i;
            at++;
        }
    }
}
