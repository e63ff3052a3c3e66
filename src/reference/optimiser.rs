//! Twins of `shaders/train/`: the gradient's norm, clipping, AdamW.

use super::Real;

/// What a step decides and the host says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep<T> {
    pub learning_rate: T,
    /// 1 - beta1^t
    pub correction1: T,
    /// sqrt(1 - beta2^t)
    pub correction2: T,
    /// What the gradient is multiplied by.
    pub clip: T,
}

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWeights<T> {
    pub beta1: T,
    pub beta2: T,
    pub eps: T,
    pub weight_decay: T,
}

/// sum of gradient^2.
pub fn gradient_norm<T: Real>(gradient: &[T]) -> T {
    gradient.iter().fold(T::zero(), |sum, &g| sum + g * g)
}

/// What a gradient is multiplied by, given the sum of its squares: min(1, max_norm / (norm + 1e-6)); 1 for a max_norm of 0.
pub fn gradient_clip<T: Real>(squares: T, max_norm: T) -> T {
    if max_norm > T::zero() {
        (max_norm / (squares.sqrt() + T::from_f64(1e-6))).min(T::one())
    } else {
        T::one()
    }
}

/// AdamW in place; the first `decayed` values decay.
pub fn adamw<T: Real>(
    value: &mut [T],
    gradient: &[T],
    m: &mut [T],
    v: &mut [T],
    decayed: usize,
    (w, step): (&AdamWeights<T>, &AdamStep<T>),
) {
    debug_assert!(value.len() == gradient.len() && value.len() == m.len() && value.len() == v.len());
    let one = T::one();
    for (i, (value, &gradient)) in value.iter_mut().zip(gradient).enumerate() {
        let g = gradient * step.clip;
        m[i] = w.beta1 * m[i] + (one - w.beta1) * g;
        v[i] = w.beta2 * v[i] + (one - w.beta2) * g * g;
        let decay = if i < decayed { step.learning_rate * w.weight_decay } else { T::zero() };
        let moved = (m[i] / step.correction1) / (v[i].sqrt() / step.correction2 + w.eps);
        *value = *value * (one - decay) - step.learning_rate * moved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_by_hand() {
        // Of the first step the corrected moments are g and g^2: the value moves by the rate, against the gradient's sign.
        let w = AdamWeights { beta1: 0.9, beta2: 0.95, eps: 0.0, weight_decay: 0.5 };
        let step = AdamStep { learning_rate: 0.1, correction1: 0.1, correction2: 0.05f64.sqrt(), clip: 0.5 };
        let (mut value, mut m, mut v) = ([2.0, 2.0], [0.0; 2], [0.0; 2]);
        adamw(&mut value, &[4.0, -4.0], &mut m, &mut v, 1, (&w, &step));
        assert!((value[0] - (2.0 * 0.95 - 0.1)).abs() < 1e-12 && (value[1] - 2.1).abs() < 1e-12, "{value:?}");
        assert!((m[0] - 0.2).abs() < 1e-12 && (v[1] - 0.2).abs() < 1e-12);
    }

    #[test]
    fn clipping_by_hand() {
        let squares = gradient_norm(&[3.0f64, 4.0]);
        assert_eq!(squares, 25.0);
        assert!((gradient_clip(squares, 1.0) - 0.2).abs() < 1e-6);
        assert_eq!(gradient_clip(squares, 10.0), 1.0);
        assert_eq!(gradient_clip(squares, 0.0), 1.0);
    }
}
