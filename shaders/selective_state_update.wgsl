// One token of the recurrence: the decode's step (mamba-ssm's selective_state_update).
// Grid: an invocation a channel.
#include "shared/scan_sequential.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let d = flat_index(wid, num, lid, 64u);
    if d < p.d_inner { scan_channel(d, 1u); }
}
