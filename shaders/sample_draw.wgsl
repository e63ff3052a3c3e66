// Sampling, last: the token at which the running sum of masses, in the order of the ids, exceeds a random share of them.
// First which block, then which invocation's tokens in it, then which of these. Grid: a workgroup
// a text.
#include "shared/sample.wgsl"
#include "shared/sample_top.wgsl"
#include "shared/sample_end.wgsl"
#include "shared/threefry.wgsl"

@group(0) @binding(5) var<storage, read> masses: array<u32>; // (rows, vocab_size)

// Workgroup memory begins as anything: what nobody finds must stand there before.
var<workgroup> block: u32;
var<workgroup> rest: vec2u;
var<workgroup> token: u32;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    begin_text(wid.y);
    let at = row * p.vocab_size;
    if lid == 0u {
        block = 0u;
        rest = vec2u(0u);
        token = NOT_A_NUMBER;
    }
    let best = best_of_all(lid);
    var block_mass = vec2u(0u);
    if lid < p.groups { block_mass = work[row].blocks[lid].mass; }
    var through = wide_prefix_sum(lid, block_mass);
    let random = uniform_bits(vec2u(p.seed_low, p.seed_high), sampled[kept].step);
    let goal = wide_share(wide_total(), random, 0u);
    var before = wide_subtract(through, block_mass);
    if !wide_less(goal, before) && wide_less(goal, through) {
        block = lid;
        rest = wide_subtract(goal, before);
    }
    workgroupBarrier();

    let begin = (block * WG + lid) * p.per;
    let block_goal = rest;
    var sum = vec2u(0u);
    for (var i = begin; i < min(begin + p.per, p.vocab_size); i++) { sum = wide_add(sum, vec2u(masses[at + i], 0u)); }
    through = wide_prefix_sum(lid, sum);
    before = wide_subtract(through, sum);
    if !wide_less(block_goal, before) && wide_less(block_goal, through) {
        var i = begin;
        before = wide_add(before, vec2u(masses[at + i], 0u));
        while i + 1u < begin + p.per && !wide_less(block_goal, before) {
            i++;
            before = wide_add(before, vec2u(masses[at + i], 0u));
        }
        token = i;
    }
    workgroupBarrier();
    if lid == 0u {
        // NaN and infinities have no distribution; nor have logits that are all at -infinity.
        let top = bitcast<u32>(unordered(best.x));
        let finite = best.x != NOT_A_NUMBER && (top & 0x7f800000u) != 0x7f800000u;
        end(select(select(NOT_A_NUMBER, token, finite), best_or_none(best), p.greedy == 1u));
    }
}
