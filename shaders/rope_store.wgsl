// Rotates queries and keys (transformers' rotate_half: column i of a head with column i + half, the columns past them
// pass), the queries in place, and puts keys and values into their texts' pages. Of a text's chunk, or (p.rows) of a
// token of each of some texts.
// No angle is computed here: what drivers make of the cosine of a large number differs. Cosines and sines come from a
// table, those of PAGE a + b by the addition theorem from those of PAGE a and of b.
// Grid: an invocation a token, head and pair of columns; heads are the queries', the keys', then the values'.
#include "shared/grid.wgsl"
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
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> q: array<f32>;      // (L, heads, head_dim)
@group(0) @binding(2) var<storage, read> k: array<f32>;            // (L, kv_heads, head_dim)
@group(0) @binding(3) var<storage, read> v: array<f32>;            // (L, kv_heads, head_dim)
@group(0) @binding(4) var<storage, read> rotations: array<vec2f>;  // (FAR + PAGE, half): of PAGE a, then of b
@group(0) @binding(5) var<storage, read> table: array<u32>;        // (slots, table_stride)
@group(0) @binding(6) var<storage, read> texts: array<Text>;
@group(0) @binding(7) var<storage, read_write> keys: array<f32>;   // (pages, kv_heads, head_dim, PAGE)
@group(0) @binding(8) var<storage, read_write> values: array<f32>; // (pages, kv_heads, PAGE, head_dim)

// Cosine and sine of a pair's angle at a position.
fn turn(position: u32, pair: u32) -> vec2f {
    let a = rotations[min(position / PAGE, FAR - 1u) * p.half + pair];
    let b = rotations[(FAR + position % PAGE) * p.half + pair];
    let cosine = fma(a.x, b.x, -a.y * b.y);
    let sine = fma(a.y, b.x, a.x * b.y);
    return vec2f(cosine, sine);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let pairs = p.head_dim / 2u;
    let heads = p.heads + 2u * p.kv_heads;
    let item = flat_index(wid, num, lid, 64u);
    if item >= p.l * heads * pairs { return; }
    let pair = item % pairs;
    let head = item / pairs % heads;
    let t = item / pairs / heads;
    let several = p.rows == 1u;
    let text = texts[select(0u, t, several)];
    let position = text.position + select(t, 0u, several);
    // Which two columns: those that rotate are half a rotation apart, of the others neighbours go together.
    let rotates = pair < p.half;
    let turned = vec2u(pair, pair + p.half);
    let passed = vec2u(2u * pair, 2u * pair + 1u);
    let columns = select(passed, turned, rotates);
    if head < p.heads {
        if rotates {
            let at = (t * p.heads + head) * p.head_dim + columns;
            let x = vec2f(q[at.x], q[at.y]);
            let by = turn(position, pair);
            q[at.x] = fma(x.x, by.x, -x.y * by.y);
            q[at.y] = fma(x.y, by.x, x.x * by.y);
        }
        return;
    }
    let page = table[text.slot * p.table_stride + position / PAGE] * p.kv_heads;
    let column = position % PAGE;
    if head < p.heads + p.kv_heads {
        let h = head - p.heads;
        let at = (t * p.kv_heads + h) * p.head_dim + columns;
        var x = vec2f(k[at.x], k[at.y]);
        if rotates {
            let by = turn(position, pair);
            x = vec2f(fma(x.x, by.x, -x.y * by.y), fma(x.y, by.x, x.x * by.y));
        }
        let to = ((page + h) * p.head_dim + columns) * PAGE + column;
        keys[to.x] = x.x;
        keys[to.y] = x.y;
    } else {
        let h = head - p.heads - p.kv_heads;
        let at = (t * p.kv_heads + h) * p.head_dim + passed;
        let to = ((page + h) * PAGE + column) * p.head_dim + passed;
        values[to.x] = v[at.x];
        values[to.y] = v[at.y];
    }
}
