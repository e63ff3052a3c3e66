// The most likely token of every row of logits; 0xffffffff for a row with NaN.
// Grid: a workgroup a row.
#include "shared/argmax.wgsl"

struct Params {
    rows: u32,
    vocab_size: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;      // (rows, vocab_size)
@group(0) @binding(2) var<storage, read_write> token: array<u32>; // (rows)

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let row = wid.y * num.x + wid.x;
    let n = select(0u, p.vocab_size, row < p.rows);
    var key = 0u;
    var index = 0u;
    for (var i = lid; i < n; i += WG) {
        let k = argmax_key_of(logits[row * p.vocab_size + i]);
        if k > key { key = k; index = i; }
    }
    let best = workgroup_argmax(lid, key, index);
    if lid == 0u && row < p.rows { token[row] = best; }
}
