// The loss of every row and, in the logits' own memory, its gradient:
//   nll = log sum exp(logits) - sum(wanted logits),   logits = scale (softmax(logits) - wanted)
//   wanted = (1 - label_smoothing) onehot(target) + label_smoothing / vocab_size
// A row whose target is IGNORE has neither. Grid: a workgroup a row.
#include "shared/reduce.wgsl"

struct Params {
    rows: u32,
    vocab_size: u32,
    label_smoothing: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>; // (rows, vocab_size)
@group(0) @binding(2) var<storage, read> targets: array<u32>;      // (rows)
@group(0) @binding(3) var<storage, read> scale: array<f32>;        // (1)
@group(0) @binding(4) var<storage, read_write> nll: array<f32>;    // (rows)

const IGNORE: u32 = 0xffffffffu;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let row = wid.y * num.x + wid.x;
    let n = select(0u, p.vocab_size, row < p.rows);
    let base = row * p.vocab_size;
    let target_token = targets[min(row, p.rows - 1u)];
    var top = -3.0e38;
    for (var i = lid; i < n; i += WG) { top = max(top, logits[base + i]); }
    top = workgroup_max(lid, top);
    var sum = 0.0;
    var below = 0.0; // how far logits lie below the largest, all together
    for (var i = lid; i < n; i += WG) {
        let v = logits[base + i] - top;
        sum += exp(v);
        below += v;
    }
    sum = workgroup_sum(lid, sum);
    below = workgroup_sum(lid, below);
    let share = p.label_smoothing / f32(p.vocab_size);
    let hot = 1.0 - p.label_smoothing;
    let counts = target_token != IGNORE;
    for (var i = lid; i < n; i += WG) {
        let v = logits[base + i];
        // The invocation that holds the target's logit knows it before it is overwritten.
        if i == target_token { nll[row] = log(sum) - hot * (v - top) - share * below; }
        let gradient = scale[0] * (exp(v - top) / sum - select(0.0, hot, i == target_token) - share);
        logits[base + i] = select(0.0, gradient, counts);
    }
    if lid == 0u && row < p.rows && !counts { nll[row] = 0.0; }
}
