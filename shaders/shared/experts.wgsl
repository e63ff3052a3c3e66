// Pairs of tokens and experts in the order of their experts: which rows of x and y are an expert's.
//   GATHER    x has a row a token, y a row a pair in that order
//   SCATTER   x has a row a pair in that order, y a row a pair in the tokens' order
@group(0) @binding(5) var<storage, read> order: array<u32>;   // (pairs)
@group(0) @binding(6) var<storage, read> offsets: array<u32>; // (experts + 1)

#if GATHER
fn x_row(i: u32) -> u32 { return order[i] / p.chosen; }
fn y_row(i: u32) -> u32 { return i; }
#else
fn x_row(i: u32) -> u32 { return i; }
fn y_row(i: u32) -> u32 { return order[i]; }
#endif
