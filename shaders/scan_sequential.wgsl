// Rung (a) of the ladder: sequential over time. The oracle: slow, plainly the recurrence.
// Grid: an invocation a channel.
#include "shared/scan_sequential.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let d = flat_index(wid, num, lid, 64u);
    if d < p.d_inner { scan_channel(d, p.l); }
}
