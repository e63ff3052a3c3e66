//! Twin of `shaders/backward/embedding_backward.wgsl`.

use crate::reference::Real;

/// Positions sorted by token, equal ones in their order: what the kernel goes through, so that each row of the table is one run.
pub fn token_order(tokens: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|&t| tokens[t as usize]);
    order
}

/// grad_table (vocab_size, d_model) += the rows of grad_residual (rows, d_model), each to its token's row.
pub fn embedding_backward<T: Real>(grad_table: &mut [T], grad_residual: &[T], tokens: &[u32], d_model: usize) {
    for t in token_order(tokens) {
        let row = &mut grad_table[tokens[t as usize] as usize * d_model..][..d_model];
        row.iter_mut().zip(&grad_residual[t as usize * d_model..]).for_each(|(g, &x)| *g += x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_token_add_up() {
        let mut grad = [1.0f64; 6];
        embedding_backward(&mut grad, &[1.0, 2.0, 10.0, 20.0, 100.0, 200.0], &[2, 0, 2], 2);
        assert_eq!(grad, [11.0, 21.0, 1.0, 1.0, 102.0, 203.0]);
        assert_eq!(token_order(&[2, 0, 2, 0]), [1, 3, 0, 2]);
    }
}
