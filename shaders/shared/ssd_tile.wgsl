// A tile of a product, A (ROWS, k) B (COLS, k)^T, by a workgroup of COLS / 4 x ROWS / 8 invocations, each of which
// keeps eight rows and four columns in registers: as matmul.wgsl, k in slices of 16 through workgroup memory, as quads
// along k, the next slice read before the barrier so that it arrives while this one is multiplied. What A and B are, a
// kernel says by two functions:
//   operand_a(row, quad), operand_b(row, quad): elements 4 quad to 4 quad + 3 along k, zero where there are none
//   along_a(slice), along_b(slice): whether neighbours in memory are neighbours along k (else along the rows)
const SLICE: u32 = 4u;         // quads along k
const PITCH: u32 = SLICE + 1u; // one more, so that neighbouring rows lie in different banks
const LANES: u32 = COLS / 4u;
const LINES: u32 = ROWS / 8u;
const WG: u32 = LANES * LINES;
const LOADS_A: u32 = ROWS * SLICE / WG;
const LOADS_B: u32 = COLS * SLICE / WG;

var<workgroup> tile_a: array<vec4f, ROWS * PITCH>;
var<workgroup> tile_b: array<vec4f, COLS * PITCH>;

// Which row and quad of a slice the i-th load of an invocation brings.
fn load_at(i: u32, rows: u32, along: bool) -> vec2u {
    return select(vec2u(i % rows, i / rows), vec2u(i / SLICE, i % SLICE), along);
}

// Adds to acc the products over `slices` slices: acc[r][c] belongs to row_of(r) and column_of(c). Every invocation must
// call it.
fn multiply(acc: ptr<function, array<vec4f, 8>>, slices: u32, lid: u32) {
    var next_a: array<vec4f, LOADS_A>;
    var next_b: array<vec4f, LOADS_B>;
    for (var i = 0u; i < LOADS_A; i++) {
        let at = load_at(lid + i * WG, ROWS, along_a(0u));
        next_a[i] = operand_a(at.x, at.y);
    }
    for (var i = 0u; i < LOADS_B; i++) {
        let at = load_at(lid + i * WG, COLS, along_b(0u));
        next_b[i] = operand_b(at.x, at.y);
    }
    for (var s = 0u; s < slices; s++) {
        for (var i = 0u; i < LOADS_A; i++) {
            let at = load_at(lid + i * WG, ROWS, along_a(s));
            tile_a[at.x * PITCH + at.y] = next_a[i];
        }
        for (var i = 0u; i < LOADS_B; i++) {
            let at = load_at(lid + i * WG, COLS, along_b(s));
            tile_b[at.x * PITCH + at.y] = next_b[i];
        }
        if s + 1u < slices {
            for (var i = 0u; i < LOADS_A; i++) {
                let at = load_at(lid + i * WG, ROWS, along_a(s + 1u));
                next_a[i] = operand_a(at.x, (s + 1u) * SLICE + at.y);
            }
            for (var i = 0u; i < LOADS_B; i++) {
                let at = load_at(lid + i * WG, COLS, along_b(s + 1u));
                next_b[i] = operand_b(at.x, (s + 1u) * SLICE + at.y);
            }
        }
        workgroupBarrier();
        for (var kk = 0u; kk < SLICE; kk++) {
            let b0 = tile_b[(lid % LANES) * PITCH + kk];
            let b1 = tile_b[(lid % LANES + LANES) * PITCH + kk];
            let b2 = tile_b[(lid % LANES + 2u * LANES) * PITCH + kk];
            let b3 = tile_b[(lid % LANES + 3u * LANES) * PITCH + kk];
            // Four columns at each of four k.
            let k0 = vec4f(b0.x, b1.x, b2.x, b3.x);
            let k1 = vec4f(b0.y, b1.y, b2.y, b3.y);
            let k2 = vec4f(b0.z, b1.z, b2.z, b3.z);
            let k3 = vec4f(b0.w, b1.w, b2.w, b3.w);
            for (var r = 0u; r < 8u; r++) {
                let a = tile_a[(lid / LANES + r * LINES) * PITCH + kk];
                let sum = fma(vec4f(a.y), k1, fma(vec4f(a.x), k0, (*acc)[r]));
                (*acc)[r] = fma(vec4f(a.w), k3, fma(vec4f(a.z), k2, sum));
            }
        }
        workgroupBarrier();
    }
}

fn row_of(r: u32, lid: u32) -> u32 {
    return lid / LANES + r * LINES;
}
fn column_of(c: u32, lid: u32) -> u32 {
    return lid % LANES + c * LANES;
}
