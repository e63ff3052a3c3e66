// What both ways to the gradients of y = x w^T are told: backward/matmul_grad.wgsl, backward/matmul_grad_split.wgsl.
struct Params {
    rows: u32,       // of the result: tokens, or n
    cols: u32,       // of the result: k
    sum: u32,        // terms of the sum: n, or tokens
    run: u32,        // terms of one part, a multiple of a slice
    y_stride: u32,
    y_offset: u32,   // column of grad_y where this part of w begins
    b_stride: u32,   // quads of a row of w, or x_stride
    out_stride: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
