// Attention of a chunk: out = softmax(scale q k^T) v over the tokens that each query sees, those before it and itself,
// within the window where there is one. As FlashAttention does it (arXiv 2205.14135): tile by tile of keys, with the
// largest score so far, what the sum is by it, and outputs that are scaled anew where a larger one comes.
// Grid: a workgroup of 16 x 16 invocations a tile of TILE queries (x) and head (y). An invocation keeps the scores of
// four queries with four keys in registers and, of the same four queries, QUADS quads of the output. Weights go through
// workgroup memory, half a tile of keys at a time: a whole one would not fit. Keys, values and queries are read as they
// are multiplied: an invocation's neighbours read the same. Loops take several steps a round, since llvmpipe counts
// rounds (kernels/attention.rs).
#include "shared/texts.wgsl"
#include "shared/pages.wgsl"

struct Params {
    l: u32,
    heads: u32,
    kv_heads: u32,
    window: u32, // 0: none
    table_stride: u32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;         // (L, heads, head_dim)
@group(0) @binding(2) var<storage, read> keys: array<vec4f>;      // (pages, kv_heads, head_dim, PAGE)
@group(0) @binding(3) var<storage, read> values: array<vec4f>;    // (pages, kv_heads, PAGE, head_dim)
@group(0) @binding(4) var<storage, read> table: array<u32>;       // (slots, table_stride)
@group(0) @binding(5) var<storage, read> texts: array<Text>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4f>; // (L, heads, head_dim)

const TILE: u32 = 64u;
const HALF: u32 = 8u;            // quads of keys in half a tile
const PAGE_QUADS: u32 = PAGE / 4u;

var<workgroup> meet: array<vec4f, 256>;    // (TILE / 4, LANES): of four queries, the lanes'
var<workgroup> weights: array<vec4f, 512>; // (TILE, HALF)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let lane = lid % LANES;
    let group = lid / LANES;
    // The last queries have most to do, and begin.
    let t0 = (num.x - 1u - wid.x) * TILE;
    let head = wid.y;
    let kv_head = head / (p.heads / p.kv_heads);
    let text = texts[0];
    let pages = text.slot * p.table_stride;
    // Tokens that some query of the tile sees: from `begin` to before `end`.
    let first = text.position + t0;
    let end = text.position + min(t0 + TILE, p.l);
    let window = select(p.window, 0xffffffffu, p.window == 0u);
    let begin = first + 1u - min(window, first + 1u);
    let rows = 4u * group;
    var best = vec4f(LEAST);
    var sum = vec4f();
#repeat r 4
    // Queries past the last are the last one's again, and not stored.
    let at_${r} = (min(t0 + rows + ${r}u, p.l - 1u) * p.heads + head) * HEAD_QUADS;
    let position_${r} = first + rows + ${r}u;
    let from_${r} = position_${r} + 1u - min(window, position_${r} + 1u);
#repeat c QUADS
    var o_${r}_${c} = vec4f();
#end
#end
#repeat c QUADS
    let column_${c} = min(lane + ${c}u * LANES, HEAD_QUADS - 1u);
#end
    for (var j0 = begin / TILE * TILE; j0 < end; j0 += TILE) {
        let page = (table[pages + j0 / PAGE] * p.kv_heads + kv_head) * HEAD_QUADS * PAGE;
        let k_at = page + j0 % PAGE / 4u + lane;
#repeat r 4
        var s_${r} = vec4f();
#end
        for (var d0 = 0u; d0 < HEAD_QUADS; d0 += UNROLL) {
#repeat u UNROLL
            let d_${u} = d0 + ${u}u;
#repeat i 4
            let k_${u}_${i} = keys[k_at + (4u * d_${u} + ${i}u) * PAGE_QUADS];
#end
#repeat r 4
            let q_${u}_${r} = q[at_${r} + d_${u}];
            s_${r} = fma(vec4f(q_${u}_${r}.y), k_${u}_1, fma(vec4f(q_${u}_${r}.x), k_${u}_0, s_${r}));
            s_${r} = fma(vec4f(q_${u}_${r}.w), k_${u}_3, fma(vec4f(q_${u}_${r}.z), k_${u}_2, s_${r}));
#end
#end
        }
        let key = vec4u(j0 + 4u * lane) + vec4u(0u, 1u, 2u, 3u);
#repeat r 4
        let seen_${r} = (key <= vec4u(position_${r})) & (key >= vec4u(from_${r}));
        s_${r} = select(vec4f(LEAST), p.scale * s_${r}, seen_${r});
        let top_${r} = max(max(s_${r}.x, s_${r}.y), max(s_${r}.z, s_${r}.w));
#end
        meet[lid] = vec4f(top_0, top_1, top_2, top_3);
        workgroupBarrier();
        var next = best;
#repeat i LANES
        next = max(next, meet[group * LANES + ${i}u]);
#end
        let kept = exp(best - next);
        best = next;
#repeat r 4
        // Where a query sees nothing of a tile yet, LEAST is the largest: no weight comes of that.
        s_${r} = select(vec4f(), exp(s_${r} - vec4f(next[${r}])), seen_${r});
        sum[${r}] = fma(sum[${r}], kept[${r}], s_${r}.x + s_${r}.y + s_${r}.z + s_${r}.w);
#repeat c QUADS
        o_${r}_${c} *= kept[${r}];
#end
#end
#repeat part 2
        if lane / HALF == ${part}u {
#repeat r 4
            weights[(rows + ${r}u) * HALF + lane % HALF] = s_${r};
#end
        }
        workgroupBarrier();
        // Eight keys a round.
        for (var i = 0u; i < HALF; i += 2u) {
            let token = j0 + 4u * (${part}u * HALF + i);
            if token >= end { break; }
            let v_at = page + token % PAGE * HEAD_QUADS;
#repeat u 2
#repeat r 4
            let w_${u}_${r} = weights[(rows + ${r}u) * HALF + i + ${u}u];
#end
#repeat i 4
            // What lies past the text may be anything, and zero times that is no zero.
            let there_${u}_${i} = token + 4u * ${u}u + ${i}u < end;
#repeat c QUADS
            let v_${u}_${i}_${c} = select(
                vec4f(),
                values[v_at + (4u * ${u}u + ${i}u) * HEAD_QUADS + column_${c}],
                there_${u}_${i},
            );
#repeat r 4
            o_${r}_${c} = fma(vec4f(w_${u}_${r}[${i}]), v_${u}_${i}_${c}, o_${r}_${c});
#end
#end
#end
#end
        }
        workgroupBarrier();
#end
    }
    meet[lid] = sum;
    workgroupBarrier();
    var total = vec4f();
    for (var i = 0u; i < LANES; i++) { total += meet[group * LANES + i]; }
#repeat r 4
    if t0 + rows + ${r}u < p.l {
#repeat c QUADS
        if lane + ${c}u * LANES < HEAD_QUADS { out[at_${r} + column_${c}] = o_${r}_${c} / total[${r}]; }
#end
    }
#end
}
