// The end of a round of selection: which digit of the key the threshold has, from the histogram of that digit.
// A key is 32 bits in three digits of 11, 11 and 10 bits. Every workgroup finds the same.
#include "shared/sample.wgsl"
#include "shared/sample_top.wgsl"

const BINS: u32 = 2048u;
const ROUNDS: u32 = 6u;
const BINS_EACH: u32 = BINS / WG;

// (rows): (BINS) low words, then (BINS) high words; again for every round.
@group(0) @binding(7) var<storage, read_write> histogram: array<atomic<u32>>;

var<workgroup> found_digit: u32;
var<workgroup> found_rest: vec2u;

fn shift_of(slot: u32) -> u32 {
    let shifts = vec3u(21u, 10u, 0u);
    return shifts[slot % 3u];
}

fn is_by_mass(slot: u32) -> bool {
    return ((p.by_mass >> (slot / 3u)) & 1u) == 1u;
}

// Where a round's bins begin.
fn round_at(slot: u32) -> u32 { return (row * ROUNDS + slot) * 2u * BINS; }

fn bin(slot: u32, digit: u32) -> vec2u {
    let at = round_at(slot) + digit;
    return vec2u(atomicLoad(&histogram[at]), atomicLoad(&histogram[at + BINS]));
}

// work.found for p.slot; where that is 0 there is nothing before it and what comes back is of no use. All invocations must reach it.
fn find(lid: u32) -> vec4u {
    let slot = max(p.slot, 1u) - 1u;
    let before = work[row].found[slot];
    if lid == 0u { // for logits with NaN, of which nothing need be found
        found_digit = 0u;
        found_rest = vec2u(0u);
    }
    // From the largest digit down: invocation 0 has the last BINS_EACH bins.
    let end = BINS - lid * BINS_EACH;
    var sum = vec2u(0u);
    for (var j = 1u; j <= BINS_EACH; j++) { sum = wide_add(sum, bin(slot, end - j)); }
    let through = wide_prefix_sum(lid, sum);
    var goal = before.yz;
    if slot % 3u == 0u {
        goal = vec2u(p.top_k, 0u);
        if is_by_mass(slot) { goal = wide_share(wide_total(), p.top_p, 1u); }
    }
    var reached = wide_subtract(through, sum);
    if wide_less(reached, goal) && !wide_less(through, goal) {
        var digit = end;
        var rest = goal;
        while digit > end - BINS_EACH && wide_less(reached, goal) {
            digit--;
            rest = wide_subtract(goal, reached);
            reached = wide_add(reached, bin(slot, digit));
        }
        found_digit = digit;
        found_rest = rest;
    }
    workgroupBarrier();
    let key = before.x | (found_digit << shift_of(slot));
    // The whole key is the floor of the filter that follows.
    return select(vec4u(key, found_rest, before.w), vec4u(0u, 0u, 0u, key), slot % 3u == 2u);
}
