// The parts of attention_step.wgsl added up: their weights are by each one's largest score, and become those by the
// largest of all.
// Grid: an invocation a text, head and quad of columns.
#include "shared/grid.wgsl"
#include "shared/texts.wgsl"
#include "shared/pages.wgsl"
#include "shared/attention_step.wgsl"
@group(0) @binding(1) var<storage, read> parts: array<vec4f>;     // (rows, heads, parts, 1 + HEAD_QUADS)
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>; // (rows, heads, HEAD_QUADS)
@group(0) @binding(3) var<storage, read> texts: array<Text>;      // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let item = flat_index(wid, num, lid, 64u);
    if item >= p.rows * p.heads * HEAD_QUADS { return; }
    let begin = item / HEAD_QUADS * p.parts * (1u + HEAD_QUADS);
    let count = min(p.parts, pages_seen(texts[item / HEAD_QUADS / p.heads].position));
    let end = begin + count * (1u + HEAD_QUADS);
    var best = LEAST;
    for (var at = begin; at < end; at += 1u + HEAD_QUADS) { best = max(best, parts[at].x); }
    var sum = 0.0;
    var o = vec4f();
    for (var at = begin; at < end; at += 1u + HEAD_QUADS) {
        let part = parts[at];
        let weight = exp(part.x - best);
        sum += weight * part.y;
        o = fma(vec4f(weight), parts[at + 1u + item % HEAD_QUADS], o);
    }
    out[item] = o / sum;
}
