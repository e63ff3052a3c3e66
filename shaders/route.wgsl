// Which experts a token is given to, the best first, and by which weights (reference/experts.rs). An expert's place is the number of
// those that are better, so nobody waits for a round of choosing.
//   CHOSEN    weights are a softmax over the logits of the chosen,
//   ALL       over all logits, or
//   SIGMOID   sigmoids, and a correction and groups decide with them who is chosen
// Grid: a workgroup a token.

struct Params {
    l: u32,
    experts: u32,
    chosen: u32,
    groups: u32, // SIGMOID: groups of experts,
    kept: u32,   //   how many of them count,
    normed: u32, //   and whether the weights of the chosen are divided by their sum
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;         // (L, experts)
@group(0) @binding(2) var<storage, read_write> experts: array<u32>;  // (L, chosen)
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;  // (L, chosen)
#if SIGMOID
@group(0) @binding(4) var<storage, read> correction: array<f32>;     // (experts)
#endif

const WG: u32 = 128u;
const LEAST: f32 = -3.4028234e38;

var<workgroup> score: array<f32, MOST>;  // of each expert
var<workgroup> choice: array<f32, MOST>; // what decides
var<workgroup> sums: array<f32, MOST>;   // of each group its two best
var<workgroup> best: array<f32, MOST>;   // scores of the chosen, by their places

// Whether the score b at j is before the score a at i.
fn before(a: f32, i: u32, b: f32, j: u32) -> bool {
    return b > a || (b == a && j < i);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let t = wid.y * num.x + wid.x;
    // Workgroups past the last token do nothing, but reach every barrier.
    let n = select(0u, p.experts, t < p.l);
    for (var i = lid; i < n; i += WG) {
        let x = logits[t * p.experts + i];
#if SIGMOID
        score[i] = 1.0 / (1.0 + exp(-x));
        choice[i] = score[i] + correction[i];
#else
        score[i] = x;
        choice[i] = x;
#endif
    }
    workgroupBarrier();
#if SIGMOID
    let width = p.experts / p.groups;
    for (var g = lid; g < p.groups; g += WG) {
        var first = LEAST;
        var second = LEAST;
        for (var i = 0u; i < width; i++) {
            let c = choice[g * width + i];
            second = select(max(second, c), first, c > first);
            first = max(first, c);
        }
        sums[g] = first + select(second, 0.0, width < 2u);
    }
    workgroupBarrier();
    for (var i = lid; i < n; i += WG) {
        let g = i / width;
        var place = 0u;
        for (var j = 0u; j < p.groups; j++) { place += select(0u, 1u, before(sums[g], g, sums[j], j)); }
        if place >= p.kept { choice[i] = LEAST; }
    }
    workgroupBarrier();
#endif
    for (var i = lid; i < n; i += WG) {
        var place = 0u;
        for (var j = 0u; j < n; j++) { place += select(0u, 1u, before(choice[i], i, choice[j], j)); }
        if place < p.chosen {
            best[place] = score[i];
            experts[t * p.chosen + place] = i;
        }
    }
    workgroupBarrier();
    for (var at = lid; at < min(n, p.chosen); at += WG) {
        var sum = 0.0;
#if SIGMOID
        for (var j = 0u; j < p.chosen; j++) { sum += best[j]; }
        let w = best[at] / select(1.0, sum + 1e-20, p.normed != 0u);
#else
        let w = exp(best[at] - best[0]);
#endif
#if CHOSEN
        for (var j = 0u; j < p.chosen; j++) { sum += exp(best[j] - best[0]); }
        weights[t * p.chosen + at] = p.scale * w / sum;
#endif
#if ALL
        for (var j = 0u; j < n; j++) { sum += exp(score[j] - best[0]); }
        weights[t * p.chosen + at] = p.scale * w / sum;
#endif
#if SIGMOID
        weights[t * p.chosen + at] = p.scale * w;
#endif
    }
}
