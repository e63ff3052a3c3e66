// Sampling, last but one: the mass of every token that is kept, and every block's.
// Grid: a workgroup a block, and a row of them a text.
#include "shared/sample_find.wgsl"

// (rows, vocab_size), in: values as f32, out: masses, 0 for what is not kept.
@group(0) @binding(5) var<storage, read_write> masses: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    begin_text(wid.y);
    var keep = 0u;
    if has_rounds() { keep = select(0u, find(lid).w, p.slot > 0u); }
    let top = unordered(best_of_all(lid).x);
    keep = max(keep, ordered(top + p.log_min_p));

    let begin = (wid.x * WG + lid) * p.per;
    let at = row * p.vocab_size;
    var sum = vec2u(0u);
    for (var i = begin; i < min(begin + p.per, p.vocab_size); i++) {
        let x = bitcast<f32>(masses[at + i]);
        let mass = select(0u, mass_of(x, top), ordered(x) >= keep);
        masses[at + i] = mass;
        sum = wide_add(sum, vec2u(mass, 0u));
    }
    let through = wide_prefix_sum(lid, sum);
    if lid == WG - 1u { work[row].blocks[wid.x].mass = through; }
}
