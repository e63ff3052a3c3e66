// A tile of a product, A (ROWS, k) B (k, COLS), by cooperative matrices (16 x 16 x 16, f16 factors, f32 sums, subgroups of 32), for
// shared/ssd_matrix_multiply.wgsl. A workgroup of eight subgroups, each with a 32 x 32 piece; both factors pass through workgroup
// memory in slices of SLICE terms along k, in quads: of A four terms of a row, with ACROSS four rows of a term; of B four columns of a
// term, with ALONG four terms of a column. What they are, a kernel says by four functions:
//   load_a(i, k), load_b(i, k): quad i of the slice from term k on, as it lies in memory; read a slice ahead, so nothing may wait for it
//   ready_a(v, row, term), ready_b(v, term): factors from that
// STRIPS: what is written is f16, in out_t, and sums are rounded in workgroup memory; else it is f32.
// HALVES: activations are f32, and so is the product: each factor is hi + lo, two f16. Neither half is scaled: below 6e-5 f16's steps
// are 6e-8 wide, which is what a factor of any size may be off by. Else activations and factors are f16. In both, what f16 cannot hold
// becomes infinite, not the largest that it can: so y shows it to the kernel that watches (shared/watch.wgsl).
#include "shared/halves.wgsl"

const ROWS: u32 = 128u;
const COLS: u32 = 64u;
const THREADS: u32 = 256u;
// Quads from one row (or term) to the next: two more than there are, so that neighbours lie in different banks.
#if ACROSS
const PITCH_A: u32 = ROWS / 4u + 2u;
const QUADS_A: u32 = SLICE * PITCH_A;
#else
const PITCH_A: u32 = SLICE / 4u + 2u;
const QUADS_A: u32 = ROWS * PITCH_A;
#endif
#if ALONG
const PITCH_B: u32 = SLICE / 4u + 2u;
const QUADS_B: u32 = COLS * PITCH_B;
#else
const PITCH_B: u32 = COLS / 4u + 2u;
const QUADS_B: u32 = SLICE * PITCH_B;
#endif

#if HALVES
// The products of halves: hi hi, hi lo, lo hi.
const PARTS: u32 = 3u;
var<workgroup> tile_a: array<vec4<f16>, 2u * QUADS_A>;
var<workgroup> tile_b: array<vec4<f16>, 2u * QUADS_B>;
#else
const PARTS: u32 = 1u;
var<workgroup> tile_a: array<vec4<f16>, QUADS_A>;
var<workgroup> tile_b: array<vec4<f16>, QUADS_B>;
#endif
var<workgroup> strips: array<f32, 8 * 256>; // (subgroups, 16, 16): results of tiles past an edge

#if ACROSS
fn row_a(i: u32) -> u32 { return i % (ROWS / 4u) * 4u; }
fn term_a(i: u32) -> u32 { return i / (ROWS / 4u); }
fn at_a(row: u32, term: u32) -> u32 { return term * PITCH_A + row / 4u; }
#else
fn row_a(i: u32) -> u32 { return i / (SLICE / 4u); }
fn term_a(i: u32) -> u32 { return i % (SLICE / 4u) * 4u; }
fn at_a(row: u32, term: u32) -> u32 { return row * PITCH_A + term / 4u; }
#endif
#if ALONG
fn column_b(i: u32) -> u32 { return i / (SLICE / 4u); }
fn term_b(i: u32) -> u32 { return i % (SLICE / 4u) * 4u; }
fn at_b(term: u32, column: u32) -> u32 { return column * PITCH_B + term / 4u; }
#else
fn column_b(i: u32) -> u32 { return i % (COLS / 4u) * 4u; }
fn term_b(i: u32) -> u32 { return i / (COLS / 4u); }
fn at_b(term: u32, column: u32) -> u32 { return term * PITCH_B + column / 4u; }
#endif

fn put_a(at: u32, v: vec4<act>) {
#if HALVES
    let hi = high(v);
    tile_a[at] = vec4<f16>(hi);
    tile_a[QUADS_A + at] = vec4<f16>(v - hi);
#else
    tile_a[at] = v;
#endif
}
fn put_b(at: u32, v: vec4<act>) {
#if HALVES
    let hi = high(v);
    tile_b[at] = vec4<f16>(hi);
    tile_b[QUADS_B + at] = vec4<f16>(v - hi);
#else
    tile_b[at] = v;
#endif
}

// Four columns of a token of xbc from `column` on; zero where they are not `inside`.
fn xbc_quad(token: u32, column: u32, inside: bool) -> vec4<act> {
    return select(vec4<act>(), xbc4[(xbc_row(token) + column) / 4u], inside);
}
