// y = w x for one token: the decode's linear layers, bound by the reading of w. What it is told to read as x:
//   PLAIN   an array (k)
//   WHOLE   the same, k a multiple of 4, read in quads
//   NORM    RMSNorm of the residual stream, k a multiple of 4: norm_j is multiplied in as x is read, and the row's
//           1 / sqrt(mean + eps) to the sum, so that nobody waits for it
// and what it does with the sum, besides the epilogue:
//   ADD     y += instead of y =
//   CONV    in_proj: some of the rows (x; of Mamba-2 x, B and C) go through the layer's convolution, whose state moves on
//   ALONE   an MLP's activation of it
//   EXPERTS w holds the matrices of several experts; a row of y is for a pair of a token and an expert, of which wid.y is the number
//   PAIR    the same of a gate: the first half of the rows are gates of the second half's sums, y has half as many
// Grid: a workgroup of WG invocations is WG / SPAN groups; the SPAN invocations of a group stride over ROWS rows of w in
// units of 16 bytes, UNROLL of each row in flight, since what counts is how many bytes are on their way at once. Sums meet
// in workgroup memory, eight to a row and then one.
#include "shared/linear.wgsl"
#include "${unit}"
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (n of the whole w; PAIR: n / 2)
#if PLAIN
#include "shared/rows.wgsl"
#endif
#if WHOLE
@group(0) @binding(2) var<storage, read> x: array<vec4f>; // (k / 4)
#endif
#if NORM
@group(0) @binding(2) var<storage, read> x: array<vec4f>;    // (k / 4), the residual stream
@group(0) @binding(5) var<storage, read> norm: array<vec4f>; // (k / 4)
#endif
#if ACTIVATION
#include "shared/activation.wgsl"
#endif
#if CONV
@group(0) @binding(6) var<storage, read> channels: array<f32>;         // (D_CONV + 1 or more, conv_count): taps, bias, ...
@group(0) @binding(8) var<storage, read_write> conv_state: array<f32>; // (D_CONV, conv_count), oldest first
#endif
#if EXPERTS
@group(0) @binding(6) var<storage, read> experts: array<u32>;          // (pairs)
#endif

const GROUPS: u32 = WG / SPAN;
const FOLD: u32 = 8u;
// The last is the sum of squares (NORM).
#if NORM
const SUMS: u32 = ROWS + 1u;
#else
const SUMS: u32 = ROWS;
#endif
// Rows for one output.
#if PAIR
const SIDES: u32 = 2u;
#else
const SIDES: u32 = 1u;
#endif
const OUTPUTS: u32 = ROWS / SIDES; // a group's

var<workgroup> partial: array<f32, SUMS * GROUPS * (SPAN + 1u)>; // (SUMS, GROUPS, SPAN, and one that keeps banks apart)
var<workgroup> folded: array<f32, SUMS * GROUPS * FOLD>;         // (SUMS, GROUPS, FOLD)

fn total(sum: u32) -> f32 {
    var t = 0.0;
    for (var i = 0u; i < FOLD; i++) { t += folded[sum * FOLD + i]; }
    return t;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let n = p.n / SIDES; // outputs
#if EXPERTS
    let e = experts[wid.y];
    if e < p.part || e >= p.part + p.tiles { return; }
    let w_row = (e - p.part) * p.n;
    let x_row = wid.y / p.chosen;
    let y_row = wid.y * p.y_stride;
    let j0 = wid.x * GROUPS * OUTPUTS;
#else
    let w_row = 0u;
    let x_row = 0u;
    let y_row = 0u;
    let j0 = (wid.y * num.x + wid.x) * GROUPS * OUTPUTS;
#endif
    let group = lid / SPAN;
    let lane = lid % SPAN;
    // The output that this invocation ends, if it ends one: that of sum lid / GROUPS (PAIR: and the next) of group lid % GROUPS.
    let mine = j0 + (lid % GROUPS) * OUTPUTS + lid / GROUPS;
    let ends = lid < OUTPUTS * GROUPS && mine < n;
#if CONV
    // Read now, used at the end.
    let d = p.y_offset + mine - p.conv_first; // a large number for rows before the first
    let convolves = ends && d < p.conv_count;
    var taps: array<f32, D_CONV>;
    var before: array<f32, D_CONV>;
    var conv_bias = 0.0;
    if convolves {
        for (var j = 0u; j < D_CONV; j++) {
            taps[j] = channels[j * p.conv_count + d];
            before[j] = conv_state[j * p.conv_count + d];
        }
        conv_bias = channels[D_CONV * p.conv_count + d];
    }
#endif
    let units = p.k4 / QUADS; // a row's
    // A row past the end reads the last one again and is not stored.
    var row: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        row[r] = (w_row + min(j0 + group * OUTPUTS + r / SIDES, n - 1u) + r % SIDES * n) * units;
    }
    var sum: array<f32, SUMS>;
    for (var first = lane; first < units; first += SPAN * UNROLL) {
        var unit: array<vec4u, ROWS * UNROLL>;
        var scale: array<f32, ROWS * UNROLL>;
        for (var i = 0u; i < UNROLL; i++) {
            let u = min(first + i * SPAN, units - 1u);
            for (var r = 0u; r < ROWS; r++) {
                unit[i * ROWS + r] = w[row[r] + u];
                scale[i * ROWS + r] = unit_scale(row[r] + u);
            }
        }
        for (var i = 0u; i < UNROLL; i++) {
            // Past the row x is zero: the unit that was read instead does not count.
            var xs: array<vec4f, QUADS>;
            for (var v = 0u; v < QUADS; v++) {
                let q = (first + i * SPAN) * QUADS + v;
#if PLAIN
                xs[v] = x4(x_row, q);
#else
                let inside = q < quads();
                let at = min(q, quads() - 1u);
                xs[v] = select(vec4f(), x[x_row * quads() + at], inside);
#endif
#if NORM
                sum[ROWS] += dot(xs[v], xs[v]);
                xs[v] *= norm[at];
#endif
            }
            for (var r = 0u; r < ROWS; r++) {
                sum[r] = fma(scale[i * ROWS + r], unit_times(unit[i * ROWS + r], xs), sum[r]);
            }
        }
    }
    for (var r = 0u; r < SUMS; r++) { partial[(r * GROUPS + group) * (SPAN + 1u) + lane] = sum[r]; }
    workgroupBarrier();
    for (var i = lid; i < SUMS * GROUPS * FOLD; i += WG) {
        var t = 0.0;
        for (var s = 0u; s < SPAN / FOLD; s++) { t += partial[(i / FOLD) * (SPAN + 1u) + (i % FOLD) + FOLD * s]; }
        folded[i] = t;
    }
    workgroupBarrier();
    if ends {
        let at_sum = lid / GROUPS * SIDES * GROUPS + lid % GROUPS;
#if NORM
        let by = inverseSqrt(total(ROWS * GROUPS + lid % GROUPS) / f32(p.k) + p.eps);
#else
        let by = 1.0;
#endif
        let at = y_row + p.y_offset + mine;
        var v = epilogue(mine, by * total(at_sum));
#if PAIR
        v = p.scale * epilogue(mine + n, by * total(at_sum + GROUPS)) * f(p.gate_scale * v);
#endif
#if ALONE
        v = p.scale * f(v);
#endif
#if CONV
        if convolves {
            var c = conv_bias;
            for (var j = 0u; j + 1u < D_CONV; j++) {
                c = fma(taps[j], before[j + 1u], c);
                conv_state[j * p.conv_count + d] = before[j + 1u];
            }
            conv_state[(D_CONV - 1u) * p.conv_count + d] = v;
            v = silu(fma(taps[D_CONV - 1u], v, c));
        }
#endif
#if ADD
        v += y[at];
#endif
        y[at] = v;
    }
}
