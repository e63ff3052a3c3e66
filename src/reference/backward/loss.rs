//! Twin of `shaders/backward/cross_entropy.wgsl`: the loss and its gradient in one go, in the logits' own memory.

use crate::reference::Real;

/// A target that does not count: its row has no loss and no gradient.
pub const IGNORE: u32 = u32::MAX;

/// nll (rows) = -log p(target), and logits (rows, vocab_size) become scale (softmax(logits) - onehot(target)), the gradient of
/// scale times the sum of nll. 0 for both where the target is [`IGNORE`]. Targets are below vocab_size: the caller checks.
pub fn cross_entropy<T: Real>(logits: &mut [T], nll: &mut [T], targets: &[u32], scale: T, vocab_size: usize) {
    debug_assert_eq!((logits.len(), nll.len()), (targets.len() * vocab_size, targets.len()));
    for ((row, nll), &target) in logits.chunks_exact_mut(vocab_size).zip(nll).zip(targets) {
        if target == IGNORE {
            row.fill(T::zero());
            *nll = T::zero();
            continue;
        }
        let top = row.iter().fold(T::neg_infinity(), |top, &x| top.max(x));
        let sum = row.iter().fold(T::zero(), |sum, &x| sum + (x - top).exp());
        *nll = sum.ln() + top - row[target as usize];
        for (i, x) in row.iter_mut().enumerate() {
            let hot = if i == target as usize { T::one() } else { T::zero() };
            *x = scale * ((*x - top).exp() / sum - hot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let (mut logits, mut nll) = ([2.0f64.ln(), 0.0, 0.0, 5.0, 6.0, 7.0], [9.0; 2]);
        cross_entropy(&mut logits, &mut nll, &[0, IGNORE], 0.5, 3);
        for (got, want) in logits.iter().zip([-0.25, 0.125, 0.125, 0.0, 0.0, 0.0]) {
            assert!((got - want).abs() < 1e-15, "{logits:?}");
        }
        assert!((nll[0] - 2.0f64.ln()).abs() < 1e-15 && nll[1] == 0.0);
        let (mut logits, mut nll) = ([f32::NAN, 1.0], [0.0]);
        cross_entropy(&mut logits, &mut nll, &[1], 1.0, 2);
        assert!(nll[0].is_nan() && logits.iter().all(|x| x.is_nan()));
    }
}
