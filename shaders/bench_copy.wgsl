// The copy ceiling of `mamba-wgpu bench`: every byte is read once and written once, and nothing is computed.
// Grid: a workgroup of 256 invocations 1024 neighbouring quads; each copies four, 256 apart, so that four reads are
// under way at once.
struct Params {
    quads: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<vec4f>;            // (quads)
@group(0) @binding(2) var<storage, read_write> destination: array<vec4f>; // (quads)

const WG: u32 = 256u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * num.x + wid.x) * 4u * WG + lid;
    if i + 3u * WG < p.quads {
        let a = source[i];
        let b = source[i + WG];
        let c = source[i + 2u * WG];
        let d = source[i + 3u * WG];
        destination[i] = a;
        destination[i + WG] = b;
        destination[i + 2u * WG] = c;
        destination[i + 3u * WG] = d;
    } else {
        for (var q = i; q < p.quads; q += WG) { destination[q] = source[q]; }
    }
}
