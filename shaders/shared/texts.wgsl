// A step takes a token of several texts at once, a row each. What a text keeps lies in its slot.
struct Text {
    slot: u32,
    logits: u32,   // where its last logits begin
    position: u32, // tokens that it has before this step or chunk
}
