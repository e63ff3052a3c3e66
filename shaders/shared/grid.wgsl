// A flat invocation index over a grid whose x dimension may be full (65,535 groups): the host spills into y.
fn flat_index(wid: vec3u, num: vec3u, lid: u32, size: u32) -> u32 {
    return (wid.y * num.x + wid.x) * size + lid;
}
