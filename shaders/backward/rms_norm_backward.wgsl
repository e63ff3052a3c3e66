// Of y = x r weight, r = 1 / sqrt(mean(x^2) + eps), with g = grad_y weight:
//   grad_x += r g - x r^3 mean(g x)
// r of every row goes to scratch: column_sums makes the weight's gradient of it.
// Grid: a workgroup a row.
#include "shared/reduce.wgsl"

struct Params {
    rows: u32,
    d: u32,
    row0: u32, // 0
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;             // (rows, d)
@group(0) @binding(2) var<storage, read> weight: array<f32>;        // (d)
@group(0) @binding(3) var<storage, read> grad_y: array<f32>;        // (rows, d)
@group(0) @binding(4) var<storage, read_write> grad_x: array<f32>;  // (rows, d)
@group(0) @binding(5) var<storage, read_write> scratch: array<f32>; // (rows): r

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let row = wid.y * num.x + wid.x;
    let n = select(0u, p.d, row < p.rows);
    let base = row * p.d;
    var squares = 0.0;
    var products = 0.0;
    for (var i = lid; i < n; i += WG) {
        let v = x[base + i];
        squares = fma(v, v, squares);
        products = fma(grad_y[base + i] * weight[i], v, products);
    }
    let r = inverseSqrt(workgroup_sum(lid, squares) / f32(p.d) + p.eps);
    let back = r * r * r * (workgroup_sum(lid, products) / f32(p.d));
    for (var i = lid; i < n; i += WG) {
        grad_x[base + i] += fma(r, grad_y[base + i] * weight[i], -x[base + i] * back);
    }
    if lid == 0u && row < p.rows { scratch[row] = r; }
}
