// What the kernels of a step's attention are told.
struct Params {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    window: u32, // 0: none
    blocks: u32, // of the queries' heads that share a head of keys and values
    parts: u32,  // that a text's pages are dealt out to
    table_stride: u32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;

// The first token that the one at a position sees.
fn first_seen(position: u32) -> u32 {
    let window = select(p.window, 0xffffffffu, p.window == 0u);
    return position + 1u - min(window, position + 1u);
}

// Pages that it sees some of: of parts past these there is nothing, and they are not read.
fn pages_seen(position: u32) -> u32 {
    return position / PAGE - first_seen(position) / PAGE + 1u;
}
