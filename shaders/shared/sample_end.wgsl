// The end of sampling: the token goes to whoever reads it.
struct Sampled {
    step: u32,  // tokens sampled so far: the random number's counter
    token: u32, // the last of them; NOT_A_NUMBER if the logits had NaN or left nothing to choose
}
@group(0) @binding(2) var<storage, read_write> seen: array<u32>;    // bit i % 32 of word i / 32: token i was seen
@group(0) @binding(3) var<storage, read_write> sampled: Sampled;
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;  // [0]: the model's next input

// For one invocation.
fn end(token: u32) {
    sampled.token = token;
    sampled.step += 1u;
    if token < p.vocab_size {
        tokens[0] = token;
        seen[token / 32u] |= 1u << (token % 32u);
    }
}
