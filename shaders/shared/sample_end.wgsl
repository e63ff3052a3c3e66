// The end of sampling: the token goes to whoever reads it.
struct Sampled {
    step: u32,  // tokens sampled so far: the random number's counter
    token: u32, // the last of them; NOT_A_NUMBER if the logits had NaN or left nothing to choose
}
@group(0) @binding(2) var<storage, read_write> seen: array<u32>;       // (slots, words): bit i % 32 of word i / 32: token i was seen
@group(0) @binding(3) var<storage, read_write> sampled: array<Sampled>; // (slots)
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;     // (rows): the model's next input

// For one invocation.
fn end(token: u32) {
    sampled[kept].token = token;
    sampled[kept].step += 1u;
    tokens[row] = token;
    if token < p.vocab_size {
        seen[kept * words() + token / 32u] |= 1u << (token % 32u);
    }
}
// Of the token with the largest value: NaN, or all at -infinity, is nothing to choose from.
fn best_or_none(best: vec2u) -> u32 {
    let none = best.x == NOT_A_NUMBER || bitcast<u32>(unordered(best.x)) == 0xff800000u;
    return select(best.y, NOT_A_NUMBER, none);
}
