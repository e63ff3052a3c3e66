// The largest value, as (argmax_key_of(value), id), from every block's.
@group(0) @binding(6) var<storage, read_write> work: array<Work>; // (rows)

fn best_of_all(lid: u32) -> vec2u {
    var pair = vec2u(0u, 0u);
    if lid < p.groups { pair = work[row].blocks[lid].best; }
    return workgroup_argmax_pair(lid, pair);
}
