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
