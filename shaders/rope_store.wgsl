// Rotates queries and keys (transformers' rotate_half: column i of a head with column i + half, the columns past them
// pass), with NORMS through an RMSNorm of each head before, and puts keys and values into their texts' pages. Of a
// text's chunk, or (p.rows) of a token of each of some texts.
// No angle is computed here: what drivers make of the cosine of a large number differs. Cosines and sines come from a
// table, those of PAGE a + b by the addition theorem from those of PAGE a and of b.
// Grid: a workgroup a token and head, an invocation a pair of columns or several; heads are the queries', the keys',
// then the values'.
#include "shared/texts.wgsl"
#include "shared/pages.wgsl"

struct Params {
    l: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    half: u32, // pairs of columns that rotate
    table_stride: u32,
    rows: u32, // whether every token is another text's
    value_scale: f32,
    norms: u32, // NORMS: 1 for the queries' heads, 2 for the keys', 3 for both
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;          // (L, heads + 2 kv_heads, head_dim)
@group(0) @binding(2) var<storage, read_write> q: array<f32>;      // (L, heads, head_dim)
#if NORMS
@group(0) @binding(3) var<storage, read> norms: array<f32>;        // (2, head_dim): the queries' weights, the keys'
#endif
@group(0) @binding(4) var<storage, read> rotations: array<vec2f>;  // (FAR + PAGE, half): of PAGE a, then of b
@group(0) @binding(5) var<storage, read> table: array<u32>;        // (slots, table_stride)
@group(0) @binding(6) var<storage, read> texts: array<Text>;
@group(0) @binding(7) var<storage, read_write> keys: array<f32>;   // (pages, kv_heads, head_dim, PAGE)
@group(0) @binding(8) var<storage, read_write> values: array<f32>; // (pages, kv_heads, PAGE, head_dim)

const WG: u32 = 32u;
#if NORMS
var<workgroup> partial: array<f32, WG>;
#endif

// Cosine and sine of a pair's angle at a position.
fn turn(position: u32, pair: u32) -> vec2f {
    let a = rotations[min(position / PAGE, FAR - 1u) * p.half + pair];
    let b = rotations[(FAR + position % PAGE) * p.half + pair];
    let cosine = fma(a.x, b.x, -a.y * b.y);
    let sine = fma(a.y, b.x, a.x * b.y);
    return vec2f(cosine, sine);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let heads = p.heads + 2u * p.kv_heads;
    let item = wid.y * num.x + wid.x;
    if item >= p.l * heads { return; }
    let head = item % heads;
    let t = item / heads;
    let first = item * p.head_dim;
    let is_value = head >= p.heads + p.kv_heads;
#if NORMS
    let whose = select(1u, 0u, head < p.heads);
    let normed = !is_value && ((p.norms >> whose) & 1u) == 1u;
    var squares = 0.0;
    for (var c = lid; c < p.head_dim; c += WG) { squares = fma(qkv[first + c], qkv[first + c], squares); }
    partial[lid] = squares;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < WG; i++) { total += partial[i]; }
    let by = select(1.0, inverseSqrt(total / f32(p.head_dim) + p.eps), normed);
#endif
    let several = p.rows == 1u;
    let text = texts[select(0u, t, several)];
    let position = text.position + select(t, 0u, several);
    let page = table[text.slot * p.table_stride + position / PAGE] * p.kv_heads;
    let column = position % PAGE;
    for (var pair = lid; pair < p.head_dim / 2u; pair += WG) {
        // Which two columns: those that rotate are half a rotation apart, of the others neighbours go together.
        let rotates = pair < p.half && !is_value;
        let columns = select(vec2u(2u * pair, 2u * pair + 1u), vec2u(pair, pair + p.half), rotates);
        var x = vec2f(qkv[first + columns.x], qkv[first + columns.y]);
#if NORMS
        let weights = vec2f(norms[whose * p.head_dim + columns.x], norms[whose * p.head_dim + columns.y]);
        x *= select(vec2f(1.0), by * weights, normed);
#endif
        if rotates {
            let by = turn(position, pair);
            x = vec2f(fma(x.x, by.x, -x.y * by.y), fma(x.y, by.x, x.x * by.y));
        }
        if head < p.heads {
            let to = (t * p.heads + head) * p.head_dim + columns;
            q[to.x] = x.x;
            q[to.y] = x.y;
        } else if !is_value {
            let to = ((page + head - p.heads) * p.head_dim + columns) * PAGE + column;
            keys[to.x] = x.x;
            keys[to.y] = x.y;
        } else {
            let to = ((page + head - p.heads - p.kv_heads) * PAGE + column) * p.head_dim + columns;
            values[to.x] = p.value_scale * x.x;
            values[to.y] = p.value_scale * x.y;
        }
    }
}
