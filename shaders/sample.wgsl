// One token from the logits: repetition penalty, temperature, top-k, top-p, min-p, then the inverse of the cumulative
// distribution at a counter-based random number. Temperature 0 takes the most likely.
// Grid: one workgroup. What is kept is a threshold on the value, found bit by bit (ties stay together), so that no
// sort is needed; every pass reads the logits again rather than keep a copy.
#include "shared/reduce.wgsl"
#include "shared/argmax.wgsl"
#include "shared/threefry.wgsl"

struct Params {
    vocab_size: u32,
    temperature: f32,        // 0: greedy
    top_k: u32,              // 0: off
    top_p: f32,              // 1: off
    log_min_p: f32,          // ln(min_p); very negative: off
    repetition_penalty: f32, // 1: off
    seed_low: u32,
    seed_high: u32,
}
struct Sampled {
    step: u32,  // tokens sampled so far: the random number's counter
    token: u32, // the last of them; NOT_A_NUMBER if the logits had NaN or left nothing to choose
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // (vocab_size)
@group(0) @binding(2) var<storage, read_write> seen: array<u32>;    // bit i % 32 of word i / 32: token i was seen
@group(0) @binding(3) var<storage, read_write> sampled: Sampled;
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;  // [0]: the model's next input

var<workgroup> prefix: array<f32, WG>;

fn value(i: u32) -> f32 {
    var x = logits[i];
    if ((seen[i / 32u] >> (i % 32u)) & 1u) == 1u {
        x = select(x / p.repetition_penalty, x * p.repetition_penalty, x < 0.0);
    }
    return select(x / p.temperature, x, p.temperature == 0.0);
}

// Largest key t with measure(values >= t) >= goal, where the measure counts (by_mass false) or adds exp(value - top),
// among the keys from floor on. Always 32 rounds: no branch depends on what was read.
fn threshold(lid: u32, floor_key: u32, top: f32, by_mass: bool, goal: f32) -> u32 {
    var t = 0u;
    for (var bit = 0u; bit < 32u; bit++) {
        let candidate = max(t | (0x80000000u >> bit), floor_key);
        var sum = 0.0;
        for (var i = lid; i < p.vocab_size; i += WG) {
            let x = value(i);
            if ordered(x) >= candidate { sum += select(1.0, exp(x - top), by_mass); }
        }
        let reached = workgroup_sum(lid, sum) >= goal;
        t = select(t, t | (0x80000000u >> bit), reached);
    }
    return max(t, floor_key);
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lid: u32) {
    var key = 0u;
    var index = 0u;
    for (var i = lid; i < p.vocab_size; i += WG) {
        let k = argmax_key_of(value(i));
        if k > key { key = k; index = i; }
    }
    let best = workgroup_argmax(lid, key, index);
    let valid = best != NOT_A_NUMBER;
    let top = value(min(best, p.vocab_size - 1u));

    var keep = 0u;
    if p.top_k > 0u && p.top_k < p.vocab_size && p.temperature > 0.0 {
        keep = threshold(lid, keep, top, false, f32(p.top_k));
    }
    if p.top_p < 1.0 && p.temperature > 0.0 {
        var mass = 0.0;
        for (var i = lid; i < p.vocab_size; i += WG) {
            let x = value(i);
            if ordered(x) >= keep { mass += exp(x - top); }
        }
        keep = threshold(lid, keep, top, true, p.top_p * workgroup_sum(lid, mass));
    }
    keep = max(keep, ordered(top + p.log_min_p));

    // Each invocation a contiguous run of tokens, so that the order of summation is the order of the ids.
    let run = (p.vocab_size + WG - 1u) / WG;
    let begin = min(lid * run, p.vocab_size);
    let end = min(begin + run, p.vocab_size);
    var mass = 0.0;
    for (var i = begin; i < end; i++) {
        let x = value(i);
        if ordered(x) >= keep { mass += exp(x - top); }
    }
    prefix[lid] = mass;
    workgroupBarrier();
    if lid == 0u {
        var token = best;
        if p.temperature > 0.0 && valid {
            var total = 0.0;
            for (var i = 0u; i < WG; i++) { total += prefix[i]; }
            let goal = uniform_01(vec2u(p.seed_low, p.seed_high), sampled.step) * total;
            var sum = 0.0;
            var i = 0u;
            while i + 1u < WG && sum + prefix[i] <= goal {
                sum += prefix[i];
                i++;
            }
            // Rounding may leave nothing above the goal in the run: then the last kept token of it, or else the best.
            for (var j = i * run; j < min((i + 1u) * run, p.vocab_size); j++) {
                let x = value(j);
                if ordered(x) >= keep {
                    token = j;
                    sum += exp(x - top);
                    if sum > goal { break; }
                }
            }
        }
        // All at -infinity is nothing to choose from.
        if bitcast<u32>(top) == 0xff800000u { token = NOT_A_NUMBER; }
        sampled.token = token;
        sampled.step += 1u;
        if token < p.vocab_size {
            tokens[0] = token;
            seen[token / 32u] |= 1u << (token % 32u);
        }
    }
}
