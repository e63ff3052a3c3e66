// Sampling, last but one: the mass of every token that is kept, and every block's.
// Grid: a workgroup a block.
#include "shared/sample_find.wgsl"

// (vocab_size), in: values as f32, out: masses, 0 for what is not kept.
@group(0) @binding(5) var<storage, read_write> masses: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    var keep = 0u;
    if p.slot > 0u { keep = find(lid).w; }
    let top = unordered(best_of_all(lid).x);
    keep = max(keep, ordered(top + p.log_min_p));

    let begin = (wid.x * WG + lid) * p.per;
    var sum = vec2u(0u);
    for (var i = begin; i < min(begin + p.per, p.vocab_size); i++) {
        let x = bitcast<f32>(masses[i]);
        let mass = select(0u, mass_of(x, top), ordered(x) >= keep);
        masses[i] = mass;
        sum = wide_add(sum, vec2u(mass, 0u));
    }
    let through = wide_prefix_sum(lid, sum);
    if lid == WG - 1u { work.blocks[wid.x].mass = through; }
}
