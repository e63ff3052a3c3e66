// Sampling at temperature 0, last: the most likely token of all blocks.
// Grid: one workgroup.
#include "shared/sample.wgsl"
#include "shared/sample_top.wgsl"
#include "shared/sample_end.wgsl"

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lid: u32) {
    let best = best_of_all(lid);
    if lid == 0u {
        // NaN, or all at -infinity, is nothing to choose from.
        let none = best.x == NOT_A_NUMBER || bitcast<u32>(unordered(best.x)) == 0xff800000u;
        end(select(best.y, NOT_A_NUMBER, none));
    }
}
