// Sampling: what its kernels share. A token's mass is exp((value - top) / temperature) in units of 2^-31: sums of whole
// numbers are the same in any order, so that every workgroup may add to the same histogram and every run gives the same
// token. With BATCH a token of each of several texts is drawn, a row of workgroups each, by the settings of its slot.
#include "shared/argmax.wgsl"
#include "shared/wide.wgsl"

struct Params {
    vocab_size: u32,
    per: u32,                // tokens an invocation; WG * per neighbours are a workgroup's block
    groups: u32,             // blocks, at most WG
    sharpness: f32,          // 1 / temperature; unused when greedy
    repetition_penalty: f32, // 1: off
    log_min_p: f32,          // temperature ln(min_p); very negative: off
    top_k: u32,
    top_p: u32,              // in units of 2^-32, at least 1
    slot: u32,               // rounds of selection before this dispatch; for the first dispatch, all there will be
    by_mass: u32,            // bit f: filter f (rounds 3 f to 3 f + 2) is top-p; else top-k
    greedy: u32,             // 1: the most likely token
    seed_low: u32,
    seed_high: u32,
}
struct Block {
    best: vec2u, // its largest value: (argmax_key_of(value), id)
    mass: vec2u, // of its kept tokens
}
// What passes from one dispatch to the next.
struct Work {
    blocks: array<Block, WG>,
    found: array<vec4u, 6>, // before each round: (key's digits so far, what is to be reached within them (low, high), floor)
}

#if BATCH
#include "shared/texts.wgsl"
struct Batch {
    vocab_size: u32,
    per: u32,
    groups: u32,
    slot: u32, // as Params has it, for the text with the most rounds
}
@group(0) @binding(0) var<uniform> batch: Batch;
// Params as a slot has them: vocab_size, per and groups are the batch's; slot is how many rounds the text has. A struct of its own,
// since naga 30's SPIR-V for one that lies in storage and in private memory too is not valid.
struct Settings {
    vocab_size: u32,
    per: u32,
    groups: u32,
    sharpness: f32,
    repetition_penalty: f32,
    log_min_p: f32,
    top_k: u32,
    top_p: u32,
    slot: u32,
    by_mass: u32,
    greedy: u32,
    seed_low: u32,
    seed_high: u32,
}
@group(0) @binding(8) var<storage, read> settings: array<Settings>; // (slots)
@group(0) @binding(9) var<storage, read> texts: array<Text>; // (rows)

var<private> p: Params;
var<private> row: u32;       // of the text
var<private> kept: u32;      // its slot
var<private> logits_at: u32; // where its logits begin

fn begin_text(y: u32) {
    row = y;
    kept = texts[y].slot;
    logits_at = texts[y].logits;
    let own = settings[kept];
    p = Params(batch.vocab_size, batch.per, batch.groups, own.sharpness, own.repetition_penalty, own.log_min_p, own.top_k,
        own.top_p, min(own.slot, batch.slot), own.by_mass, own.greedy, own.seed_low, own.seed_high);
}
// Whether there are rounds before this dispatch. Of a private variable nobody knows that a workgroup's invocations agree on it.
fn has_rounds() -> bool { return batch.slot > 0u; }
// Whether the text has a round of this number.
fn takes_part() -> bool { return batch.slot < settings[kept].slot; }
#else
@group(0) @binding(0) var<uniform> p: Params;

const row = 0u;
const kept = 0u;
const logits_at = 0u;

fn begin_text(y: u32) {}
fn has_rounds() -> bool { return p.slot > 0u; }
fn takes_part() -> bool { return true; }
#endif

// Of the bits of the tokens seen, a text's.
fn words() -> u32 { return (p.vocab_size + 31u) / 32u; }

// The difference is taken before it is divided: no temperature, however small, makes an infinity of the largest value.
fn mass_of(x: f32, top: f32) -> u32 {
    return u32(exp(max((x - top) * p.sharpness, -100.0)) * 0x1p31 + 0.5);
}
