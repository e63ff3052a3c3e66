// Attention of one token of each of some texts, in parts: a part has of a text's pages every p.parts-th, and leaves the
// largest score, the sum of weights by it and, by these weights, the sum of values (attention_join.wgsl adds parts up).
// Parts without a page leave nothing.
// Grid: x over parts, y over texts, heads of keys and values, and blocks of HEADS of the queries' heads that share one.
// A workgroup takes a page at a time: an invocation a key, of which neighbours lie side by side; then an invocation a
// quad of columns and every SLICES-th value.
#include "shared/texts.wgsl"
#include "shared/pages.wgsl"
#include "shared/attention_step.wgsl"
@group(0) @binding(1) var<storage, read> q: array<vec4f>;           // (rows, heads, head_dim)
@group(0) @binding(2) var<storage, read> keys: array<f32>;          // (pages, kv_heads, head_dim, PAGE)
@group(0) @binding(3) var<storage, read> values: array<vec4f>;      // (pages, kv_heads, PAGE, head_dim)
@group(0) @binding(4) var<storage, read> table: array<u32>;         // (slots, table_stride)
@group(0) @binding(5) var<storage, read> texts: array<Text>;        // (rows)
@group(0) @binding(6) var<storage, read_write> parts: array<vec4f>; // (rows, heads, parts, 1 + HEAD_QUADS)

// Invocations that add up the PAGE values of a head, 16 each: spelt out, so that all are read at once.
const LANES: u32 = 16u;

var<workgroup> weights: array<f32, HEADS * PAGE>;
var<workgroup> lanes: array<f32, HEADS * LANES>;
var<workgroup> best: array<f32, HEADS>;
var<workgroup> kept: array<f32, HEADS>;
var<workgroup> slices: array<vec4f, PAGE>; // first the queries, (HEADS, HEAD_QUADS), at the end (SLICES, HEAD_QUADS) sums

@compute @workgroup_size(PAGE)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    let group = p.heads / p.kv_heads;
    let block = wid.y % p.blocks;
    let kv_head = wid.y / p.blocks % p.kv_heads;
    let row = wid.y / p.blocks / p.kv_heads;
    let text = texts[row];
    if wid.x >= pages_seen(text.position) { return; }
    let first = first_seen(text.position);
    let in_page = lid % HEAD_QUADS;
    let slice = lid / HEAD_QUADS;
#repeat h HEADS
    // Heads past the block's last are the last one's again, and not stored.
    let head_${h} = row * p.heads + kv_head * group + min(block * HEADS + ${h}u, group - 1u);
    var sum_${h} = 0.0;
    var o_${h} = vec4f();
#end
    if lid < HEADS { best[lid] = LEAST; }
    if lid < HEADS * HEAD_QUADS {
        let head = row * p.heads + kv_head * group + min(block * HEADS + slice, group - 1u);
        slices[lid] = q[head * HEAD_QUADS + in_page];
    }
    workgroupBarrier();
    for (var n = first / PAGE + wid.x; n * PAGE <= text.position; n += p.parts) {
        let page = table[text.slot * p.table_stride + n] * p.kv_heads + kv_head;
        let key = n * PAGE + lid;
        let seen = key >= first && key <= text.position;
#repeat h HEADS
        var s_${h} = 0.0;
#end
        if seen {
            let k_at = page * 4u * HEAD_QUADS * PAGE + lid;
            for (var d0 = 0u; d0 < HEAD_QUADS; d0 += UNROLL) {
#repeat u UNROLL
                let at_${u} = k_at + 4u * (d0 + ${u}u) * PAGE;
                let k_${u} = vec4f(keys[at_${u}], keys[at_${u} + PAGE], keys[at_${u} + 2u * PAGE], keys[at_${u} + 3u * PAGE]);
#end
#repeat u UNROLL
#repeat h HEADS
                s_${h} += dot(slices[${h}u * HEAD_QUADS + d0 + ${u}u], k_${u});
#end
#end
            }
        }
#repeat h HEADS
        s_${h} = select(LEAST, p.scale * s_${h}, seen);
        weights[${h}u * PAGE + lid] = s_${h};
#end
        workgroupBarrier();
        if lid < HEADS * LANES {
            let at = lid / LANES * PAGE + lid % LANES;
            var top = LEAST;
#repeat i 16
            top = max(top, weights[at + ${i}u * LANES]);
#end
            lanes[lid] = top;
        }
        workgroupBarrier();
        if lid < HEADS {
            var top = best[lid];
#repeat i 16
            top = max(top, lanes[lid * LANES + ${i}u]);
#end
            kept[lid] = exp(best[lid] - top);
            best[lid] = top;
        }
        workgroupBarrier();
#repeat h HEADS
        s_${h} = select(0.0, exp(s_${h} - best[${h}]), seen);
        sum_${h} = fma(sum_${h}, kept[${h}], s_${h});
        weights[${h}u * PAGE + lid] = s_${h};
        o_${h} *= kept[${h}];
#end
        workgroupBarrier();
        // What lies past the text may be anything, and zero times that is no zero.
        let end = select(0u, min(text.position + 1u - n * PAGE, PAGE), slice < SLICES);
        for (var i = max(first, n * PAGE) - n * PAGE + slice; i < end; i += 4u * SLICES) {
#repeat a 4
            let at_${a} = i + ${a}u * SLICES;
            let there_${a} = min(at_${a}, end - 1u);
            let v_${a} = select(vec4f(), values[(page * PAGE + there_${a}) * HEAD_QUADS + in_page], at_${a} < end);
#end
#repeat h HEADS
#repeat a 4
            o_${h} = fma(vec4f(weights[${h}u * PAGE + there_${a}]), v_${a}, o_${h});
#end
#end
        }
        workgroupBarrier();
    }
    // The part's sums: of weights over the invocations, of values over the slices.
#repeat h HEADS
    weights[${h}u * PAGE + lid] = sum_${h};
#end
    workgroupBarrier();
    if lid < HEADS * LANES {
        let at = lid / LANES * PAGE + lid % LANES;
        var sum = 0.0;
#repeat i 16
        sum += weights[at + ${i}u * LANES];
#end
        lanes[lid] = sum;
    }
    workgroupBarrier();
#repeat h HEADS
    slices[lid] = o_${h};
    workgroupBarrier();
    if block * HEADS + ${h}u < group {
        let to = (head_${h} * p.parts + wid.x) * (1u + HEAD_QUADS);
        if lid < HEAD_QUADS {
            var sum = vec4f();
#repeat i SLICES
            sum += slices[lid + ${i}u * HEAD_QUADS];
#end
            parts[to + 1u + lid] = sum;
        }
        if lid == 0u {
            var sum = 0.0;
#repeat i 16
            sum += lanes[${h}u * LANES + ${i}u];
#end
            parts[to] = vec4f(best[${h}], sum, 0.0, 0.0);
        }
    }
    workgroupBarrier();
#end
}
