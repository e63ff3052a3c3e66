//! What LoRA adapters add to a matrix as its rows are read: W + scale B A (Hu et al., arXiv:2106.09685).

#![cfg_attr(target_arch = "wasm32", allow(dead_code))] // adapters are read from folders, which a page has not

use crate::reference::par;
use std::ops::Range;

/// The sum of several adapters' products for one matrix (n, k).
#[derive(Debug, Clone, Default)]
pub(super) struct Patch(Vec<Term>);

#[derive(Debug, Clone)]
struct Term {
    rank: usize,
    scale: f32,
    a: Vec<f32>, // (rank, k)
    b: Vec<f32>, // (n, rank)
}

impl Patch {
    /// Adds scale * b a, with a (rank, k) and b (n, rank).
    pub fn push(&mut self, rank: usize, scale: f32, a: Vec<f32>, b: Vec<f32>) {
        self.0.push(Term { rank, scale, a, b });
    }

    /// Adds to `values`, the rows `rows` of the matrix, whose rows have `k` elements.
    pub fn add(&self, rows: Range<usize>, k: usize, values: &mut [f32]) {
        for Term { rank, scale, a, b } in &self.0 {
            let each = par::piece(rows.len(), 1, values.len() * rank);
            par::chunks_mut(values, each * k, |i, values| {
                let first = rows.start + i * each;
                let mut delta = vec![0.0f32; k];
                for (row, values) in values.chunks_exact_mut(k).enumerate() {
                    delta.fill(0.0);
                    let b = &b[(first + row) * rank..][..*rank];
                    for (b, a) in b.iter().zip(a.chunks_exact(k)) {
                        delta.iter_mut().zip(a).for_each(|(d, a)| *d += b * a);
                    }
                    values.iter_mut().zip(&delta).for_each(|(w, d)| *w += scale * d);
                }
            });
        }
    }

    /// Every number of it, for a fingerprint.
    pub fn for_each_byte_chunk(&self, mut f: impl FnMut(&[u8])) {
        for Term { rank, scale, a, b } in &self.0 {
            f(&(*rank as u64).to_le_bytes());
            f(&scale.to_le_bytes());
            f(bytemuck::cast_slice(a));
            f(bytemuck::cast_slice(b));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_sum_of_products() {
        let mut patch = Patch::default();
        // (2, 3) = (2, 1) (1, 3), and (2, 2) (2, 3) at half.
        patch.push(1, 1.0, vec![1.0, 2.0, 3.0], vec![10.0, 100.0]);
        patch.push(2, 0.5, vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0], vec![2.0, 4.0, 6.0, 8.0]);
        let mut all = vec![1.0; 6];
        patch.add(0..2, 3, &mut all);
        assert_eq!(all, [12.0, 23.0, 31.0, 104.0, 205.0, 301.0]);
        let mut second = vec![1.0; 3];
        patch.add(1..2, 3, &mut second);
        assert_eq!(second, all[3..]);
    }

    #[test]
    fn threads_make_no_difference() {
        let (n, k, rank) = (301, 257, 3);
        let numbers = |n: usize| (0..n).map(|i| (i * 7 % 13) as f32 - 6.0).collect::<Vec<_>>();
        let mut patch = Patch::default();
        patch.push(rank, 0.25, numbers(rank * k), numbers(n * rank));
        let mut all = numbers(n * k);
        patch.add(0..n, k, &mut all);
        let mut by_rows = numbers(n * k);
        by_rows.chunks_exact_mut(k).enumerate().for_each(|(i, row)| patch.add(i..i + 1, k, row));
        assert_eq!(all, by_rows);
    }
}
