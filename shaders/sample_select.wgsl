// Sampling, a round of selection: the threshold of top-k or top-p is the key whose digits are found one after the other,
// largest first, by how many tokens (top-k) or how much mass (top-p) each digit has. Ties at the threshold stay together.
// Finds the digit of the round before and counts the next. Grid: a workgroup a block, and a
// row of them a text.
#include "shared/sample_find.wgsl"

@group(0) @binding(5) var<storage, read> values: array<f32>; // (rows, vocab_size)

var<workgroup> low: array<atomic<u32>, BINS>;

// Adds to a bin of the device's histogram.
fn add(at: u32, x: u32) {
    if atomicAdd(&histogram[at], x) > 0xffffffffu - x { atomicAdd(&histogram[at + BINS], 1u); }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    begin_text(wid.y);
    var found = vec4u(0u);
    if has_rounds() { found = find(lid); }
    let live = takes_part();
    if live && wid.x == 0u && lid == 0u { work[row].found[p.slot] = found; }
    let by_mass = is_by_mass(p.slot);
#if BATCH
    let top = unordered(best_of_all(lid).x);
#else
    var top = 0.0;
    if by_mass { top = unordered(best_of_all(lid).x); }
#endif

    for (var b = lid; b < BINS; b += WG) { atomicStore(&low[b], 0u); }
    workgroupBarrier();
    let at = round_at(p.slot);
    let shift = shift_of(p.slot);
    let masks = vec3u(0u, 0xffe00000u, 0xfffffc00u);
    let mask = masks[p.slot % 3u];
    for (var j = 0u; j < p.per; j++) {
        let i = (wid.x * p.per + j) * WG + lid;
        if live && i < p.vocab_size {
            let x = values[row * p.vocab_size + i];
            let key = ordered(x);
            if key >= found.w && (key & mask) == found.x {
                let digit = (key & ~mask) >> shift;
                var measure = 1u;
                if by_mass { measure = mass_of(x, top); }
                // A bin's carry goes to the device's at once.
                if atomicAdd(&low[digit], measure) > 0xffffffffu - measure {
                    atomicAdd(&histogram[at + BINS + digit], 1u);
                }
            }
        }
    }
    workgroupBarrier();
    for (var b = lid; b < BINS; b += WG) {
        let sum = atomicLoad(&low[b]);
        if sum > 0u { add(at + b, sum); }
    }
}
