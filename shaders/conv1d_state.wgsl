// The last d_conv inputs after a chunk of L tokens: row j is time L - d_conv + j, from the chunk where it reaches
// that far back, else from the old state. In place: an invocation owns a channel and goes forward, reading row
// L + j > j only before it is overwritten.
// Grid: an invocation a channel.
#include "shared/grid.wgsl"
#include "shared/conv.wgsl"
@group(0) @binding(2) var<storage, read_write> conv_state: array<f32>; // (d_conv, d_inner), oldest first

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let d = flat_index(wid, num, lid, 64u);
    if d >= p.d_inner { return; }
    for (var j = 0u; j < p.d_conv; j++) {
        if p.l + j >= p.d_conv {
            conv_state[j * p.d_inner + d] = f32(xz[(p.l + j - p.d_conv) * p.x_stride + d]);
        } else {
            conv_state[j * p.d_inner + d] = conv_state[(p.l + j) * p.d_inner + d];
        }
    }
}
