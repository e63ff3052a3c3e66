// grad_table[token] += the sum of grad_residual over the token's positions, which the host has sorted by token: the positions of
// a token are one run. A workgroup sums up the runs in one BLOCK of sorted positions; a run that crosses blocks leaves a partial
// sum in each (where the block begins, 0; where it ends, 1), and with JOIN the block in which it begins adds them up.
// Grid: a workgroup a block. The table may be split by rows into parts, each dispatched alone.
struct Params {
    l: u32,         // positions
    d_model: u32,
    stride: u32,    // elements of a table row
    row_start: u32, // first row of this part
    rows: u32,      // rows of this part
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;             // (L)
@group(0) @binding(2) var<storage, read> order: array<u32>;              // (L): positions sorted by token
@group(0) @binding(3) var<storage, read> grad_residual: array<f32>;      // (L, d_model)
@group(0) @binding(4) var<storage, read_write> grad_table: array<f32>;   // (rows, stride)
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;     // (blocks, 2, d_model)

const WG: u32 = 64u;

fn token_at(i: u32) -> u32 {
    return tokens[order[i]];
}

// Whether i and the position behind it hold the same token.
fn goes_on(i: u32) -> bool {
    return i + 1u < p.l && token_at(min(i + 1u, p.l - 1u)) == token_at(i);
}

fn add(token: u32, c: u32, sum: f32) {
    let row = token - p.row_start; // wraps to a large number for rows before this part
    if row < p.rows { grad_table[row * p.stride + c] += sum; }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let block = wid.y * num.x + wid.x;
    let begin = block * BLOCK;
    if begin >= p.l { return; }
    let end = min(begin + BLOCK, p.l);
    var came = false;
    if begin > 0u { came = goes_on(begin - 1u); }
#if JOIN
    let token = token_at(end - 1u);
    if !goes_on(end - 1u) || (came && token_at(begin) == token) { return; }
    for (var c = lid; c < p.d_model; c += WG) {
        var sum = partials[(2u * block + 1u) * p.d_model + c];
        for (var next = block + 1u; next * BLOCK < p.l; next++) {
            let last = min((next + 1u) * BLOCK, p.l) - 1u;
            let through = token_at(last) == token && goes_on(last);
            sum += partials[(2u * next + select(0u, 1u, through)) * p.d_model + c];
            if !through { break; }
        }
        add(token, c, sum);
    }
#else
    for (var c = lid; c < p.d_model; c += WG) {
        var sum = 0.0;
        var before = came;
        for (var i = begin; i < end; i++) {
            sum += grad_residual[order[i] * p.d_model + c];
            let more = goes_on(i);
            if more && i + 1u < end { continue; }
            if more {
                partials[(2u * block + 1u) * p.d_model + c] = sum;
            } else if before {
                partials[2u * block * p.d_model + c] = sum;
            } else {
                add(token_at(i), c, sum);
            }
            before = false;
            sum = 0.0;
        }
    }
#endif
}
