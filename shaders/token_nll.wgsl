// -log p(target) of every row: log sum exp(logits) - logits[target], natural logarithm, largest logit taken out first.
// Grid: a workgroup a row.
#include "shared/reduce.wgsl"

struct Params {
    rows: u32,
    vocab_size: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;    // (rows, vocab_size)
@group(0) @binding(2) var<storage, read> targets: array<u32>;   // (rows)
@group(0) @binding(3) var<storage, read_write> nll: array<f32>; // (rows)

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let row = wid.y * num.x + wid.x;
    let n = select(0u, p.vocab_size, row < p.rows);
    let base = row * p.vocab_size;
    var top = -3.0e38;
    for (var i = lid; i < n; i += WG) { top = max(top, logits[base + i]); }
    top = workgroup_max(lid, top);
    var sum = 0.0;
    for (var i = lid; i < n; i += WG) { sum += exp(logits[base + i] - top); }
    sum = workgroup_sum(lid, sum);
    if lid == 0u && row < p.rows {
        nll[row] = log(sum) + top - logits[base + targets[row]];
    }
}
