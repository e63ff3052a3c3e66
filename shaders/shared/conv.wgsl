struct Params {
    l: u32,        // tokens of a sequence
    d_inner: u32,
    d_conv: u32,
    x_stride: u32, // columns of xz
    batch: u32,    // sequences of l tokens, one after the other, each with a state
    x_offset: u32, // column of xz where x begins
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xz: array<xz_t>; // (L, x_stride)
