// Sampling, first: repetition penalty, and every block's largest value.
// Grid: a workgroup a block, and a row of them a text.
#include "shared/sample.wgsl"

@group(0) @binding(1) var<storage, read> logits: array<f32>;         // a text's: (vocab_size)
@group(0) @binding(2) var<storage, read> seen: array<u32>;           // (slots, words): bit i % 32 of word i / 32: token i was seen
#if VALUES
@group(0) @binding(5) var<storage, read_write> values: array<f32>;   // (rows, vocab_size)
#endif
@group(0) @binding(6) var<storage, read_write> work: array<Work>;    // (rows)
#if VALUES
@group(0) @binding(7) var<storage, read_write> histogram: array<u32>; // (rows, 6 rounds, 2, 2048)
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    begin_text(wid.y);
    var pair = vec2u(0u, 0u);
    for (var j = 0u; j < p.per; j++) {
        let i = (wid.x * p.per + j) * WG + lid;
        if i < p.vocab_size {
            var x = logits[logits_at + i];
            if ((seen[kept * words() + i / 32u] >> (i % 32u)) & 1u) == 1u {
                x = select(x / p.repetition_penalty, x * p.repetition_penalty, x < 0.0);
            }
#if VALUES
            values[row * p.vocab_size + i] = x;
#endif
            let key = argmax_key_of(x);
            if key > pair.x { pair = vec2u(key, i); }
        }
    }
    let best = workgroup_argmax_pair(lid, pair);
    if lid == 0u { work[row].blocks[wid.x].best = best; }
#if VALUES
    // The rounds of selection begin with empty histograms.
    for (var i = wid.x * WG + lid; i < p.slot * 4096u; i += p.groups * WG) { histogram[row * 24576u + i] = 0u; }
#endif
}
