// Sampling at temperature 0, last: the most likely token of all blocks.
// Grid: a workgroup a text.
#include "shared/sample.wgsl"
#include "shared/sample_top.wgsl"
#include "shared/sample_end.wgsl"

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lid: u32) {
    begin_text(wid.y);
    let best = best_of_all(lid);
    if lid == 0u { end(best_or_none(best)); }
}
