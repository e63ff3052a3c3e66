//! Twin of `shaders/embedding.wgsl`: rows of the embedding table.

use super::Real;

/// `out[t] = table[tokens[t]]`.
///
/// `out` (L, d_model), `table` (vocab_size, d_model), `tokens` (L), each below vocab_size.
pub fn embedding<T: Real>(out: &mut [T], table: &[T], tokens: &[u32], d_model: usize) {
    debug_assert_eq!(out.len(), tokens.len() * d_model);
    debug_assert_eq!(table.len() % d_model, 0);
    for (row, &token) in out.chunks_exact_mut(d_model).zip(tokens) {
        let start = token as usize * d_model;
        row.copy_from_slice(&table[start..start + d_model]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn gathers_rows() {
        let table = [0.0f32, 0.5, 1.0, 1.5, 2.0, 2.5];
        let mut out = [f32::NAN; 6];
        super::embedding(&mut out, &table, &[2, 0, 2], 2);
        assert_eq!(out, [2.0, 2.5, 0.0, 0.5, 2.0, 2.5]);
        super::embedding(&mut [], &table, &[], 2);
    }
}
