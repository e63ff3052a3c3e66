// The last d_conv inputs after a chunk of L tokens: row j is time L - d_conv + j, from the chunk where it reaches
// that far back, else from the old state. In place: an invocation owns a channel and goes forward, reading row
// L + j > j only before it is overwritten.
// Grid: an invocation a channel of a sequence.
#include "shared/grid.wgsl"
#include "shared/conv.wgsl"
@group(0) @binding(2) var<storage, read_write> conv_state: array<f32>; // (batch, d_conv, d_inner), oldest first

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 64u);
    let sequence = i / p.d_inner;
    if sequence >= p.batch { return; }
    let d = i % p.d_inner;
    let column = p.x_offset + d;
    let row0 = sequence * p.d_conv;
    for (var j = 0u; j < p.d_conv; j++) {
        if p.l + j >= p.d_conv {
            let t = p.l + j - p.d_conv;
            conv_state[(row0 + j) * p.d_inner + d] = f32(xz[(sequence * p.l + t) * p.x_stride + column]);
        } else {
            conv_state[(row0 + j) * p.d_inner + d] = conv_state[(row0 + p.l + j) * p.d_inner + d];
        }
    }
}
