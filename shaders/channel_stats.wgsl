// What a token does to each channel, from the zero state: how much of the states it leaves, and how large they are after it.
//   forget = mean_n exp(delta A_n),   energy = sum_n h_n^2,   h_n = exp(delta A_n) h_n + delta B_n u
// In Mamba-2 (HEADS) the channels of a head (a unit: `width` of them) share delta and A, which is one for all states.
// A channel's states go through registers STATES at a time, so that there may be any number; both sums gather what each add.
// Grid: an invocation a channel.
#include "shared/grid.wgsl"
#include "shared/math.wgsl"

struct Params {
    l: u32,
    units: u32,
    width: u32,       // channels of a unit
    d_state: u32,
    group_units: u32, // units that share B
    u_stride: u32,    // columns of u
    u_offset: u32,    // column where the channels begin
    bc_stride: u32,   // columns of the rows that hold B
    b_offset: u32,    // column where B (groups, d_state) begins
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> u: array<f32>;            // (L, u_stride)
@group(0) @binding(2) var<storage, read> delta: array<f32>;        // (L, units)
@group(0) @binding(3) var<storage, read> A: array<f32>;            // (units, d_state); HEADS: (units)
@group(0) @binding(4) var<storage, read> bc: array<f32>;           // (L, bc_stride): B
@group(0) @binding(5) var<storage, read_write> forget: array<f32>; // (L, units)
@group(0) @binding(6) var<storage, read_write> energy: array<f32>; // (L, units, width)

const STATES: u32 = 16u;

#if HEADS
fn rate(unit: u32, n: u32) -> f32 { return A[unit]; }
#else
fn rate(unit: u32, n: u32) -> f32 { return A[unit * p.d_state + n]; }
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let channel = flat_index(wid, num, lid, 64u);
    if channel >= p.units * p.width { return; }
    let unit = channel / p.width;
    let b = p.b_offset + unit / p.group_units * p.d_state;
    for (var n0 = 0u; n0 < p.d_state; n0 += STATES) {
        let count = min(STATES, p.d_state - n0);
        var h: array<f32, STATES>;
        for (var t = 0u; t < p.l; t++) {
            let dt = delta[t * p.units + unit];
            let dtu = dt * u[t * p.u_stride + p.u_offset + channel];
            let row = t * p.bc_stride + b + n0;
            var left = 0.0;
            var sum = 0.0;
            for (var n = 0u; n < STATES; n++) {
                // Past the last state nothing comes to a sum, whatever lies there.
                let a = decay(dt * rate(unit, n0 + n));
                left += select(0.0, a, n < count);
                h[n] = select(0.0, fma(a, h[n], dtu * bc[row + n]), n < count);
                sum = fma(h[n], h[n], sum);
            }
            left /= f32(p.d_state);
            let at = t * p.units * p.width + channel;
            energy[at] = sum + select(0.0, energy[at], n0 > 0u);
            if channel % p.width == 0u {
                let at = t * p.units + unit;
                forget[at] = left + select(0.0, forget[at], n0 > 0u);
            }
        }
    }
}
