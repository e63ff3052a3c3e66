//! Twin of `shaders/embedding.wgsl`: rows of the embedding table.

use super::{Real, Weights};

/// `out[t] = table[tokens[t]]`.
///
/// `out` (L, d_model), `table` (vocab_size, d_model), `tokens` (L), each below vocab_size.
pub fn embedding<'a, T: Real>(out: &mut [T], table: impl Into<Weights<'a, T>>, tokens: &[u32], d_model: usize) {
    debug_assert_eq!(out.len(), tokens.len() * d_model);
    let table = table.into();
    for (row, &token) in out.chunks_exact_mut(d_model).zip(tokens) {
        let token = token as usize;
        match table {
            Weights::Plain(table) => row.copy_from_slice(&table[token * d_model..(token + 1) * d_model]),
            Weights::Quantised { of, first, .. } => of.rows(first + token..first + token + 1, row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Quant, Quantised};

    #[test]
    fn gathers_rows() {
        let table = [0.0f32, 0.5, 1.0, 1.5, 2.0, 2.5];
        let mut out = [f32::NAN; 6];
        super::embedding(&mut out, &table, &[2, 0, 2], 2);
        assert_eq!(out, [2.0, 2.5, 0.0, 0.5, 2.0, 2.5]);
        super::embedding(&mut [], &table, &[], 2);
        let quantised = Quantised::new(Quant::Q8, 2, &table);
        super::embedding(&mut out, &quantised, &[2, 0, 2], 2);
        let values = quantised.values::<f32>();
        assert_eq!(out, [values[4], values[5], values[0], values[1], values[4], values[5]]);
    }
}
