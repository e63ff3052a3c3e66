//! Twin of `shaders/backward/cross_entropy.wgsl`: the loss and its gradient in one go, in the logits' own memory.

use crate::reference::Real;

/// A target that does not count: its row has no loss and no gradient.
pub const IGNORE: u32 = u32::MAX;

/// Sizes of [`cross_entropy`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    pub rows: usize,
    pub vocab_size: usize,
    /// The part of the wanted probability that is spread over the whole vocabulary; 0 for none (Szegedy et al. 2016, section 7).
    pub label_smoothing: f32,
}

/// nll (rows) = -sum(wanted log p), where wanted is onehot(target) with `label_smoothing` of it spread evenly, and logits (rows,
/// vocab_size) become scale (softmax(logits) - wanted), the gradient of scale times the sum of nll. 0 for both where the target is
/// [`IGNORE`]. Targets are below vocab_size: the caller checks.
pub fn cross_entropy<T: Real>(logits: &mut [T], nll: &mut [T], targets: &[u32], scale: T, shape: CrossEntropy) {
    let CrossEntropy { vocab_size, label_smoothing, .. } = shape;
    let smoothing = T::from_f32(label_smoothing);
    let (hot, share) = (T::one() - smoothing, smoothing / T::from_f32(vocab_size as f32));
    debug_assert_eq!((logits.len(), nll.len()), (targets.len() * vocab_size, targets.len()));
    for ((row, nll), &target) in logits.chunks_exact_mut(vocab_size).zip(nll).zip(targets) {
        if target == IGNORE {
            row.fill(T::zero());
            *nll = T::zero();
            continue;
        }
        let top = row.iter().fold(T::neg_infinity(), |top, &x| top.max(x));
        let sum = row.iter().fold(T::zero(), |sum, &x| sum + (x - top).exp());
        let below = row.iter().fold(T::zero(), |below, &x| below + (x - top));
        *nll = sum.ln() - hot * (row[target as usize] - top) - share * below;
        for (i, x) in row.iter_mut().enumerate() {
            let wanted = if i == target as usize { hot } else { T::zero() };
            *x = scale * ((*x - top).exp() / sum - wanted - share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothed_by_hand() {
        // p = (1/2, 1/4, 1/4); wanted (0.8, 0.1, 0.1).
        let (mut logits, mut nll) = ([2.0f64.ln(), 0.0, 0.0], [9.0]);
        let shape = CrossEntropy { rows: 1, vocab_size: 3, label_smoothing: 0.3 };
        cross_entropy(&mut logits, &mut nll, &[0], 1.0, shape);
        for (got, want) in logits.iter().zip([-0.3, 0.15, 0.15]) {
            assert!((got - want).abs() < 1e-7, "{logits:?}"); // 0.3 is an f32
        }
        assert!((nll[0] - (0.8 * 2.0f64.ln() + 0.2 * 4.0f64.ln())).abs() < 1e-7, "{nll:?}");
    }

    #[test]
    fn by_hand() {
        let shape = |rows, vocab_size| CrossEntropy { rows, vocab_size, label_smoothing: 0.0 };
        let (mut logits, mut nll) = ([2.0f64.ln(), 0.0, 0.0, 5.0, 6.0, 7.0], [9.0; 2]);
        cross_entropy(&mut logits, &mut nll, &[0, IGNORE], 0.5, shape(2, 3));
        for (got, want) in logits.iter().zip([-0.25, 0.125, 0.125, 0.0, 0.0, 0.0]) {
            assert!((got - want).abs() < 1e-15, "{logits:?}");
        }
        assert!((nll[0] - 2.0f64.ln()).abs() < 1e-15 && nll[1] == 0.0);
        let (mut logits, mut nll) = ([f32::NAN, 1.0], [0.0]);
        cross_entropy(&mut logits, &mut nll, &[1], 1.0, shape(1, 2));
        assert!(nll[0].is_nan() && logits.iter().all(|x| x.is_nan()));
    }
}
