//! Twins of `shaders/rope_store.wgsl`, `shaders/attention.wgsl`, `shaders/attention_step.wgsl` and
//! `shaders/attention_join.wgsl`: softmax attention with grouped queries over the keys and values that a text keeps in
//! pages, and the rotation of queries and keys (transformers' `apply_rotary_pos_emb`, `eager_attention_forward`).

use super::{par, Real};

/// Tokens whose keys and values lie in one page.
pub const PAGE: usize = 256;

/// Positions that a text can have where heads are rotated on a device: 4,096 times [`PAGE`] (kernels/attention).
pub const ROTATIONS: usize = 1 << 20;

/// Sizes of a layer's attention. A page of it is, of keys, (kv_heads, head_dim, PAGE), a token a column, so that
/// neighbours in memory are neighbours in the text; of values (kv_heads, PAGE, head_dim).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Heads of queries, a multiple of `kv_heads`: as many neighbours as go into it share a head of keys and values.
    pub heads: usize,
    pub kv_heads: usize,
    /// Columns of a head: in the kernels a multiple of 4.
    pub head_dim: usize,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
    /// Tokens that a query sees, itself included; 0: all before it.
    pub window: usize,
}

impl AttentionShape {
    /// Values that a page holds, of keys as of values.
    pub fn page_len(&self) -> usize {
        self.kv_heads * self.head_dim * PAGE
    }

    /// The first token that the one at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        match self.window {
            0 => 0,
            window => (position + 1).saturating_sub(window),
        }
    }
}

/// Rotates x (L, heads, head_dim) in place, token i of which stands at `position + i`: column i of a head with column
/// i + r / 2 of the first r = 2 `frequencies.len()` (rotate_half), the others pass. `frequencies`: radians a token;
/// cosine and sine are multiplied by `attention_factor`.
pub fn rope<F: Real>(
    x: &mut [F],
    (heads, head_dim): (usize, usize),
    position: usize,
    frequencies: &[f32],
    attention_factor: f32,
) {
    let (width, half) = (heads * head_dim, frequencies.len());
    debug_assert!(2 * half <= head_dim);
    if half == 0 || width == 0 {
        return;
    }
    let factor = f64::from(attention_factor);
    // A sine and a cosine cost as much as some ten multiply-adds.
    let piece = par::piece(x.len() / width, 1, x.len() + 20 * half * (x.len() / width));
    par::chunks_mut(x, piece * width, |i, rows| {
        let mut turns = vec![(F::zero(), F::zero()); half];
        for (t, row) in rows.chunks_exact_mut(width).enumerate() {
            for (turn, &frequency) in turns.iter_mut().zip(frequencies) {
                let (sin, cos) = ((position + i * piece + t) as f64 * f64::from(frequency)).sin_cos();
                *turn = (F::from_f64(factor * cos), F::from_f64(factor * sin));
            }
            for head in row.chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(&turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    });
}

/// Puts k and v (L, kv_heads, head_dim) of the tokens from `position` on into the text's pages: `keys[p]` and
/// `values[p]` have its tokens from `p * PAGE` on.
pub fn store_keys_values<F: Real>(
    keys: &mut [&mut [F]],
    values: &mut [&mut [F]],
    k: &[F],
    v: &[F],
    position: usize,
    s: &AttentionShape,
) {
    let (width, head_dim) = (s.kv_heads * s.head_dim, s.head_dim);
    debug_assert_eq!(k.len(), v.len());
    if width == 0 {
        return;
    }
    for (t, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
        let (page, column) = ((position + t) / PAGE, (position + t) % PAGE);
        for (row, &k) in keys[page].chunks_exact_mut(PAGE).zip(k) {
            row[column] = k;
        }
        for (head, v) in values[page].chunks_exact_mut(PAGE * head_dim).zip(v.chunks_exact(head_dim)) {
            head[column * head_dim..][..head_dim].copy_from_slice(v);
        }
    }
}

/// `sums[i] += a[0] * rows[i] + a[1] * rows[stride + i] + ...`: four rows at a time, so that a sum is loaded and stored
/// once for four products.
fn add_rows<F: Real>(sums: &mut [F], a: &[F], rows: &[F], stride: usize) {
    let n = sums.len();
    for (i, a) in a.chunks(4).enumerate() {
        let row = |r: usize| &rows[(4 * i + r) * stride..][..n];
        if let &[a0, a1, a2, a3] = a {
            let (first, second) = (row(0).iter().zip(row(1)), row(2).iter().zip(row(3)));
            for (sum, ((&r0, &r1), (&r2, &r3))) in sums.iter_mut().zip(first.zip(second)) {
                *sum += a0 * r0 + a1 * r1 + (a2 * r2 + a3 * r3);
            }
        } else {
            for (r, &a) in a.iter().enumerate() {
                sums.iter_mut().zip(row(r)).for_each(|(sum, &x)| *sum += a * x);
            }
        }
    }
}

/// out (L, heads, head_dim) of q (L, heads, head_dim), whose first token stands at `position`; the pages (as
/// [`store_keys_values`] has them) hold its own key and value too.
pub fn attention<F: Real>(out: &mut [F], q: &[F], keys: &[&[F]], values: &[&[F]], position: usize, s: &AttentionShape) {
    let (head_dim, width) = (s.head_dim, s.heads * s.head_dim);
    debug_assert_eq!(out.len(), q.len());
    debug_assert!(s.heads.is_multiple_of(s.kv_heads));
    if width == 0 || q.is_empty() {
        return;
    }
    let (group, last) = (s.heads / s.kv_heads, position + q.len() / width);
    let piece = par::piece(out.len() / head_dim, 1, 2 * q.len() * last);
    par::chunks_mut(out, piece * head_dim, |i, rows| {
        // Of one row's scores, those of the tokens that it sees.
        let mut scores = vec![F::zero(); last];
        for (row, out) in rows.chunks_exact_mut(head_dim).enumerate() {
            let row = i * piece + row;
            let (end, head) = (position + row / s.heads + 1, row % s.heads / group);
            let first = s.first_seen(end - 1);
            let q = &q[row * head_dim..][..head_dim];
            let scores = &mut scores[first..end];
            scores.fill(F::zero());
            for_pages(first, end, |page, column, seen| {
                add_rows(&mut scores[seen.clone()], q, &keys[page][head * head_dim * PAGE + column..], PAGE);
            });
            softmax(scores, F::from_f32(s.scale));
            out.fill(F::zero());
            for_pages(first, end, |page, column, seen| {
                let values = &values[page][(head * PAGE + column) * head_dim..];
                add_rows(out, &scores[seen], values, head_dim);
            });
        }
    });
}

/// Calls `f(page, column, seen)` for every page that tokens `first..end` lie in: from which column of it on they do,
/// and which of the tokens these are, the first being number 0.
fn for_pages(first: usize, end: usize, mut f: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut at = first;
    while at < end {
        let next = end.min((at / PAGE + 1) * PAGE);
        f(at / PAGE, at % PAGE, at - first..next - first);
        at = next;
    }
}

/// exp(scale x) over the sum of them all. A NaN makes NaN of all.
fn softmax<F: Real>(x: &mut [F], scale: F) {
    let mut largest = F::neg_infinity();
    for x in x.iter_mut() {
        *x *= scale;
        largest = if *x > largest { *x } else { largest };
    }
    let mut sum = F::zero();
    for x in x.iter_mut() {
        *x = (*x - largest).exp_lane();
        sum += *x;
    }
    let inverse = sum.recip();
    x.iter_mut().for_each(|x| *x *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::data::{difference, f64s, Random};

    /// Rows (l, heads, head_dim) of f32 as such of f64 whose head and column can be named.
    fn at(x: &[f32], (heads, head_dim): (usize, usize), token: usize, head: usize, column: usize) -> f64 {
        f64::from(x[(token * heads + head) * head_dim + column])
    }

    /// Attention as its formula says it, a value at a time, of a text from its first token on.
    fn naive(q: &[f32], k: &[f32], v: &[f32], s: &AttentionShape) -> Vec<f64> {
        let (all, few) = ((s.heads, s.head_dim), (s.kv_heads, s.head_dim));
        let mut out = Vec::new();
        for token in 0..q.len() / (s.heads * s.head_dim) {
            for head in 0..s.heads {
                let of = head * s.kv_heads / s.heads;
                let seen = |&other: &usize| s.window == 0 || token - other < s.window;
                let score = |other: usize| {
                    let products = (0..s.head_dim).map(|c| at(q, all, token, head, c) * at(k, few, other, of, c));
                    (f64::from(s.scale) * products.sum::<f64>()).exp()
                };
                let weights: Vec<_> = (0..=token).filter(seen).map(|other| (other, score(other))).collect();
                let sum: f64 = weights.iter().map(|(_, w)| w).sum();
                for c in 0..s.head_dim {
                    out.push(weights.iter().map(|&(other, w)| w * at(v, few, other, of, c)).sum::<f64>() / sum);
                }
            }
        }
        out
    }

    struct Text {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
    }

    fn text(l: usize, s: &AttentionShape, random: &mut Random) -> Text {
        let mut row = |heads: usize| random.vec(l * heads * s.head_dim, -1.5, 1.5);
        Text { q: row(s.heads), k: row(s.kv_heads), v: row(s.kv_heads) }
    }

    /// The twin over the same text in chunks, through pages full of NaN.
    fn in_chunks<F: Real>(text: &Text, chunks: &[usize], s: &AttentionShape) -> Vec<F> {
        let from = |x: &[f32]| -> Vec<F> { x.iter().map(|&x| F::from_f32(x)).collect() };
        let pages = chunks.iter().sum::<usize>().div_ceil(PAGE);
        let mut keys = vec![vec![F::nan(); s.page_len()]; pages];
        let mut values = keys.clone();
        let (wide, narrow) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let (mut position, mut all) = (0, Vec::new());
        for &l in chunks {
            let part = |x: &[f32], width: usize| from(&x[position * width..][..l * width]);
            let (q, k, v) = (part(&text.q, wide), part(&text.k, narrow), part(&text.v, narrow));
            let mut to: Vec<_> = keys.iter_mut().map(Vec::as_mut_slice).collect();
            let mut to_values: Vec<_> = values.iter_mut().map(Vec::as_mut_slice).collect();
            store_keys_values(&mut to, &mut to_values, &k, &v, position, s);
            let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
            let values: Vec<_> = values.iter().map(Vec::as_slice).collect();
            let mut out = vec![F::nan(); q.len()];
            attention(&mut out, &q, &keys, &values, position, s);
            all.extend(out);
            position += l;
        }
        all
    }

    #[test]
    fn attention_is_its_formula_in_both_precisions_and_any_chunks() {
        let mut random = Random(41);
        let shape = |heads, kv_heads, head_dim, window| AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window,
        };
        for (i, l) in [1, 2, 5, 255, 256, 257, 512].into_iter().enumerate() {
            for s in
                [shape(4, 2, 8, 0), shape(3, 1, 4, 7), shape(2, 2, 20, 256), shape(4, 1, 12, 300), shape(2, 1, 6, 9)]
            {
                let text = text(l, &s, &mut random);
                let want = naive(&text.q, &text.k, &text.v, &s);
                let cut = (l * (i + 1)) / 8;
                for chunks in [vec![l], vec![cut, l - cut]] {
                    let doubles: Vec<f64> = in_chunks(&text, &chunks, &s);
                    let furthest = doubles.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(doubles.len() == want.len() && furthest < 1e-13, "{s:?} {chunks:?}: {furthest}");
                    let singles: Vec<f32> = in_chunks(&text, &chunks, &s);
                    assert_eq!(difference(&singles, &want, 2e-6, 0.0), None, "{s:?} {chunks:?}");
                }
            }
        }
    }

    #[test]
    fn nan_stays_in_the_rows_that_see_it() {
        let s = AttentionShape { heads: 2, kv_heads: 2, head_dim: 4, scale: 0.5, window: 3 };
        let mut text = text(8, &s, &mut Random(42));
        text.k[(2 * 2 + 1) * 4] = f32::NAN;
        let out: Vec<f32> = in_chunks(&text, &[3, 5], &s);
        for (row, out) in out.chunks(4).enumerate() {
            let sees = row % 2 == 1 && (2..5).contains(&(row / 2));
            assert!(out.iter().all(|x| x.is_nan() == sees), "row {row}: {out:?}");
        }
    }

    #[test]
    fn scores_beyond_the_range_of_exp_are_no_trouble() {
        let s = AttentionShape { heads: 1, kv_heads: 1, head_dim: 4, scale: 1000.0, window: 0 };
        let one = |x: f32| vec![x, 0.0, 0.0, 0.0];
        let text = Text { q: one(1.0).repeat(2), k: [one(-3.0), one(3.0)].concat(), v: [one(5.0), one(7.0)].concat() };
        let out: Vec<f32> = in_chunks(&text, &[2], &s);
        assert_eq!((out[0], out[4]), (5.0, 7.0));
    }

    #[test]
    fn rope_turns_pairs_and_lets_the_rest_pass() {
        let mut random = Random(43);
        let frequencies = [1.0f32, 0.1, 0.01];
        // Two heads of eight columns, six of which turn; text at a million, where f32 would know no angle.
        for position in [0, 1, 5, 1_000_000] {
            let x = random.vec(3 * 2 * 8, -2.0, 2.0);
            let (mut doubles, mut singles) = (f64s(&x), x.clone());
            rope(&mut doubles, (2, 8), position, &frequencies, 0.5);
            rope(&mut singles, (2, 8), position, &frequencies, 0.5);
            for (i, &got) in doubles.iter().enumerate() {
                let (token, column) = (i / 16, i % 8);
                let x = |i: usize| f64::from(x[i]);
                let want = match column {
                    6.. => x(i),
                    _ => {
                        let angle = f64::from(frequencies[column % 3]) * (position + token) as f64;
                        let other = if column < 3 { -x(i + 3) } else { x(i - 3) };
                        0.5 * (x(i) * angle.cos() + other * angle.sin())
                    }
                };
                assert!((got - want).abs() < 1e-12, "{position} {i}: {got} {want}");
            }
            assert_eq!(difference(&singles, &doubles, 1e-6, 0.0), None);
        }
        let mut none = [1.0f32, 2.0, 3.0, 4.0];
        rope(&mut none, (1, 4), 3, &[], 1.0);
        assert_eq!(none, [1.0, 2.0, 3.0, 4.0]);
    }
}
