//! Twins of `shaders/argmax.wgsl`, `shaders/token_nll.wgsl` and `shaders/sample_*.wgsl`: from logits to a token.

use std::cmp::Ordering;

use super::{uniform, Real};
use crate::settings::SamplingParams;

/// The index of the largest value, the lowest one where several are equal; `None` without values or with a NaN among them.
pub fn argmax<T: Real>(logits: &[T]) -> Option<usize> {
    let mut best: Option<(usize, T)> = None;
    for (i, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, largest)| logit > largest) {
            best = Some((i, logit));
        }
    }
    best.map(|(i, _)| i)
}

/// `-ln softmax(logits)[target] = logsumexp(logits) - logits[target]`; NaN when a logit is NaN.
///
/// `target` is below `logits.len()`.
pub fn token_nll<T: Real>(logits: &[T], target: u32) -> T {
    let max = logits.iter().fold(T::neg_infinity(), |max, &x| max.max(x));
    let mut sum = T::zero();
    for &x in logits {
        sum += (x - max).exp_lane();
    }
    // Not (max + ln sum) - logit: a likely token's loss would drown in the rounding of max.
    sum.ln() + (max - logits[target as usize])
}

/// Draws a token: repetition penalty, temperature, top-k, top-p, min-p, in this order.
///
/// `logits` (vocab_size); `seen` a bit a token (bit i % 32 of word i / 32; words that are missing count as 0) for the
/// repetition penalty; `step` the number of tokens drawn before, the counter of the random numbers. `params` are valid
/// ([`SamplingParams::validate`]). Equal logits are kept or dropped together. `None` if a logit is NaN, if all are -inf or
/// if there are none; an infinite logit has no distribution and gives `None` too unless the choice is greedy.
pub fn sample<T: Real>(logits: &[T], seen: &[u32], params: &SamplingParams, step: u32) -> Option<u32> {
    sample_at(logits, seen, params, T::from_f32(uniform(params.seed, step)))
}

/// The same at a given random number `r` in [0, 1).
pub fn sample_at<T: Real>(logits: &[T], seen: &[u32], params: &SamplingParams, r: T) -> Option<u32> {
    if params.is_greedy() && params.repetition_penalty == 1.0 {
        let best = argmax(logits)?;
        let found = logits[best] > T::neg_infinity();
        return found.then_some(best).and_then(|best| u32::try_from(best).ok());
    }
    let mut logits = logits.to_vec();
    penalise(&mut logits, seen, T::from_f32(params.repetition_penalty));
    let best = argmax(&logits)?;
    let max = logits[best];
    if max == T::neg_infinity() {
        return None;
    }
    if params.is_greedy() {
        return u32::try_from(best).ok();
    }
    if !max.is_finite() {
        return None;
    }

    // The difference is taken before it is divided: no temperature, however small, makes an infinity of the largest
    // logit.
    let temperature = T::from_f32(params.temperature);
    let mass = |logit: T| ((logit - max) / temperature).exp_lane();

    // Logits from here on are kept.
    let mut threshold = T::neg_infinity();
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < logits.len() {
        let mut order = logits.clone();
        threshold = *order.select_nth_unstable_by(top_k - 1, descending).1;
    }
    if params.top_p < 1.0 {
        threshold = nucleus(&logits, threshold, mass, T::from_f32(params.top_p));
    }
    if params.min_p > 0.0 {
        threshold = threshold.max(max + T::from_f32(params.min_p).ln() * temperature);
    }

    let weight = |logit: T| {
        if logit >= threshold {
            mass(logit)
        } else {
            T::zero()
        }
    };
    let mut total = T::zero();
    for &logit in &logits {
        total += weight(logit);
    }
    let r = r * total;
    let mut sum = T::zero();
    let mut last = None;
    for (i, &logit) in logits.iter().enumerate() {
        let weight = weight(logit);
        sum += weight;
        if weight > T::zero() {
            last = Some(i);
            if sum > r {
                break;
            }
        }
    }
    // r rounded up to the total lands on the last one kept.
    last.and_then(|i| u32::try_from(i).ok())
}

/// l = l < 0 ? l * penalty : l / penalty for the tokens seen (CTRL, Keskar et al., section 4.1).
fn penalise<T: Real>(logits: &mut [T], seen: &[u32], penalty: T) {
    if penalty == T::one() {
        return;
    }
    for (i, logit) in logits.iter_mut().enumerate() {
        let word = seen.get(i / 32).copied().unwrap_or(0);
        if word >> (i % 32) & 1 == 1 {
            *logit = if *logit < T::zero() { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// The largest logit t such that the logits of at least t have `top_p` of the mass of those of at least `threshold`.
fn nucleus<T: Real>(logits: &[T], threshold: T, mass: impl Fn(T) -> T, top_p: T) -> T {
    let mut kept: Vec<T> = logits.iter().copied().filter(|&logit| logit >= threshold).collect();
    kept.sort_unstable_by(descending);
    let mut total = T::zero();
    for &logit in &kept {
        total += mass(logit);
    }
    let mut sum = T::zero();
    for &logit in &kept {
        sum += mass(logit);
        // Those equal to this one are kept by the comparison with the threshold.
        if sum >= top_p * total {
            return logit;
        }
    }
    threshold
}

fn descending<T: Real>(a: &T, b: &T) -> Ordering {
    b.partial_cmp(a).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: SamplingParams =
        SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 42 };

    #[test]
    fn argmax_takes_the_first_of_equals_and_refuses_nan() {
        assert_eq!(argmax(&[1.0f32, 3.0, 3.0, -1.0]), Some(1));
        assert_eq!(argmax::<f32>(&[]), None);
        assert_eq!(argmax(&[5.0f32, f32::NAN]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), Some(0));
        assert_eq!(argmax(&[-0.0f32, 0.0]), Some(0));
    }

    #[test]
    fn token_nll_by_hand() {
        let logits = [1.0f64.ln(), 2.0f64.ln(), 5.0f64.ln()];
        assert!((token_nll(&logits, 1) - 4.0f64.ln()).abs() < 1e-15);
        // Far from 0 nothing overflows, and a sure token keeps its small loss.
        assert_eq!(token_nll(&[1000.0f32, 0.0], 1), 1000.0);
        let small = token_nll(&[1000.0f64, 980.0], 0);
        assert!((small / (-20.0f64).exp() - 1.0).abs() < 1e-6, "{small}");
        assert!(token_nll(&[0.0f32, f32::NAN], 0).is_nan());
    }

    #[test]
    fn refuses_what_has_no_distribution() {
        let greedy = SamplingParams { temperature: 0.0, ..PLAIN };
        for params in [&PLAIN, &greedy] {
            assert_eq!(sample::<f32>(&[], &[], params, 0), None);
            assert_eq!(sample(&[0.0f32, f32::NAN], &[], params, 0), None);
            assert_eq!(sample(&[f32::NEG_INFINITY; 3], &[], params, 0), None);
        }
        assert_eq!(sample(&[0.0, f32::INFINITY], &[], &PLAIN, 0), None);
        assert_eq!(sample(&[0.0, f32::NEG_INFINITY, -1.0f32], &[], &greedy, 0), Some(0));
    }

    #[test]
    fn penalty_moves_the_greedy_choice() {
        let params = SamplingParams { temperature: 0.0, repetition_penalty: 2.0, ..PLAIN };
        let logits = [3.0f32, 2.0, -1.0];
        assert_eq!(sample(&logits, &[], &params, 0), Some(0));
        assert_eq!(sample(&logits, &[0b001], &params, 0), Some(1));
        assert_eq!(sample(&logits, &[0b011], &params, 0), Some(0));
        assert_eq!(sample(&[-1.0f32, -1.5], &[0b01], &params, 0), Some(1));
        // The 33rd token's bit is the first of the second word.
        let mut logits = [0.0f32; 33];
        logits[32] = 1.0;
        logits[4] = 0.75;
        assert_eq!(sample(&logits, &[0, 1], &params, 0), Some(4));
    }

    /// How often each token is drawn in 4,000 steps.
    fn shares(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
        let mut shares = vec![0.0; logits.len()];
        for step in 0..4000 {
            let token = sample(logits, &[], params, step).expect("finite logits");
            shares[token as usize] += 1.0 / 4000.0;
        }
        shares
    }

    fn assert_shares(logits: &[f32], params: &SamplingParams, expected: &[f64]) {
        let shares = shares(logits, params);
        for (got, &expected) in shares.iter().zip(expected) {
            // Five standard deviations of a share of 1/2 are 0.04; what was filtered out must never appear.
            let ok = if expected == 0.0 { *got == 0.0 } else { (got - expected).abs() < 0.04 };
            assert!(ok, "{params:?}: {shares:?}, expected {expected:?}");
        }
    }

    #[test]
    fn draws_follow_the_filtered_softmax() {
        let p = [0.1f32, 0.4, 0.2, 0.2, 0.1];
        let logits = p.map(f32::ln);
        assert_shares(&logits, &PLAIN, &[0.1, 0.4, 0.2, 0.2, 0.1]);
        assert_shares(&logits, &SamplingParams { top_k: 1, ..PLAIN }, &[0.0, 1.0, 0.0, 0.0, 0.0]);
        // The second and third largest are equal: both stay. More than there are keeps all.
        let top_2 = SamplingParams { top_k: 2, ..PLAIN };
        assert_shares(&logits, &top_2, &[0.0, 0.5, 0.25, 0.25, 0.0]);
        assert_shares(&logits, &SamplingParams { top_k: 99, ..PLAIN }, &[0.1, 0.4, 0.2, 0.2, 0.1]);
        assert_shares(&logits, &SamplingParams { top_p: 0.39, ..PLAIN }, &[0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_shares(&logits, &SamplingParams { top_p: 0.5, ..PLAIN }, &[0.0, 0.5, 0.25, 0.25, 0.0]);
        // Of what top-k leaves (1/2, 1/4, 1/4), 0.49 is covered by the first.
        let both = SamplingParams { top_p: 0.49, ..top_2 };
        assert_shares(&logits, &both, &[0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_shares(&logits, &SamplingParams { min_p: 0.4, ..PLAIN }, &[0.0, 0.5, 0.25, 0.25, 0.0]);
        assert_shares(&logits, &SamplingParams { min_p: 1.0, ..PLAIN }, &[0.0, 1.0, 0.0, 0.0, 0.0]);
        // Temperature 1/2 squares the probabilities: 1 16 4 4 1.
        let cool = SamplingParams { temperature: 0.5, ..PLAIN };
        assert_shares(&logits, &cool, &[1.0 / 26.0, 16.0 / 26.0, 4.0 / 26.0, 4.0 / 26.0, 1.0 / 26.0]);
    }

    proptest! {
        #[test]
        fn the_draw_is_where_the_running_sum_passes_r(
            logits in prop::collection::vec(-5.0f32..5.0, 1..80), seed in any::<u64>(), step in any::<u32>(),
        ) {
            let params = SamplingParams { seed, ..PLAIN };
            let token = sample(&logits, &[], &params, step).expect("finite logits") as usize;
            let p: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
            let r = f64::from(uniform(seed, step)) * p.iter().sum::<f64>();
            let before: f64 = p[..token].iter().sum();
            prop_assert!(before <= r * (1.0 + 1e-5) && before + p[token] >= r * (1.0 - 1e-5));
            prop_assert_eq!(sample(&logits, &[], &params, step), Some(token as u32));
        }
    }
}
