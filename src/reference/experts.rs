//! Twins of `shaders/route.wgsl`, `route_order.wgsl` and `experts_sum.wgsl`: a mixture of experts (Shazeer et al. 2017, arXiv 1701.06538).
//!
//! Of E experts each token is given to K. A token and one of its experts are a pair; the pairs of token t are t K ... t K + K - 1.

use super::Real;

/// Experts that a layer may have: route.wgsl has room for as many.
pub const MOST_EXPERTS: usize = 1024;

/// How the weights of a token's experts come of the router's logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gating {
    /// A softmax over the logits of the chosen (Granite).
    Chosen,
    /// A softmax over all logits; the chosen keep what is theirs (Jamba).
    All,
    /// A sigmoid of each. A correction decides with it who is chosen, and does not weigh; the experts are in groups, of which those count
    /// whose two best are best together (DeepSeek-V3, arXiv 2412.19437, section 2.1.2; Nemotron-H).
    Sigmoid {
        groups: usize,
        /// Groups that count.
        kept: usize,
        /// The weights of the chosen are divided by their sum.
        normed: bool,
    },
}

/// Which experts a token is given to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router {
    /// E.
    pub experts: usize,
    /// K.
    pub chosen: usize,
    pub gating: Gating,
    /// What all weights are multiplied by.
    pub scale: f32,
}

impl Router {
    /// Pairs of l tokens.
    pub fn pairs(&self, l: usize) -> usize {
        l * self.chosen
    }
}

/// How many of `scores` are better than the i-th, or as good and before it: its place among them.
fn place<T: Real>(scores: &[T], i: usize) -> usize {
    let better = |(j, s): (usize, &T)| *s > scores[i] || *s == scores[i] && j < i;
    scores.iter().copied().enumerate().filter(|(j, s)| better((*j, s))).count()
}

/// The experts and the weights (L, K) of each token, the best first, of the router's `logits` (L, E); `bias` (E) is the correction.
pub fn route<T: Real>(experts: &mut [u32], weights: &mut [T], logits: &[T], bias: Option<&[T]>, router: &Router) {
    let &Router { experts: e, chosen: k, gating, scale } = router;
    let scale = T::from_f32(scale);
    let rows = logits.chunks(e.max(1)).zip(experts.chunks_mut(k.max(1)).zip(weights.chunks_mut(k.max(1))));
    for (logits, (experts, weights)) in rows {
        let scores: Vec<T> = match gating {
            Gating::Chosen | Gating::All => logits.to_vec(),
            Gating::Sigmoid { .. } => logits.iter().map(|x| T::one() / (T::one() + (-*x).exp())).collect(),
        };
        let choice = choice(&scores, bias, gating);
        for (i, score) in scores.iter().enumerate() {
            let at = place(&choice, i);
            if at < k {
                (experts[at], weights[at]) = (i as u32, *score);
            }
        }
        let sum = match gating {
            Gating::Sigmoid { normed, .. } => {
                let sum = weights.iter().copied().fold(T::zero(), |sum, w| sum + w);
                if normed {
                    sum + T::from_f32(1e-20)
                } else {
                    T::one()
                }
            }
            Gating::Chosen | Gating::All => {
                let most = weights[0];
                weights.iter_mut().for_each(|w| *w = (*w - most).exp());
                let of = if gating == Gating::All { logits } else { &[] };
                let all = of.iter().fold(T::zero(), |sum, x| sum + (*x - most).exp());
                if gating == Gating::All {
                    all
                } else {
                    weights.iter().copied().fold(T::zero(), |sum, w| sum + w)
                }
            }
        };
        weights.iter_mut().for_each(|w| *w = *w / sum * scale);
    }
}

/// What decides who is chosen: the scores, with the correction, of groups that count.
fn choice<T: Real>(scores: &[T], bias: Option<&[T]>, gating: Gating) -> Vec<T> {
    let mut choice = scores.to_vec();
    if let Some(bias) = bias {
        choice.iter_mut().zip(bias).for_each(|(c, b)| *c += *b);
    }
    let Gating::Sigmoid { groups, kept, .. } = gating else { return choice };
    if kept >= groups {
        return choice;
    }
    let width = (choice.len() / groups).max(1);
    let two_best = |group: &[T]| {
        let best = (0..group.len()).filter(|i| place(group, *i) < 2);
        best.fold(T::zero(), |sum, i| sum + group[i])
    };
    let sums: Vec<T> = choice.chunks(width).map(two_best).collect();
    for (g, group) in choice.chunks_mut(width).enumerate() {
        if place(&sums, g) >= kept {
            group.fill(T::from_f32(f32::NEG_INFINITY));
        }
    }
    choice
}

/// The pairs (L K) by their experts, in order, and where each expert's begin; `offsets` (E + 1) ends with the number of pairs.
pub fn route_order(order: &mut [u32], offsets: &mut [u32], experts: &[u32]) {
    let mut at = 0;
    for (e, offset) in offsets.iter_mut().enumerate() {
        *offset = at as u32;
        for (pair, _) in experts.iter().enumerate().filter(|(_, of)| **of as usize == e) {
            order[at] = pair as u32;
            at += 1;
        }
    }
}

/// out (L, width) = the sum of what a token's experts make of it, y (L, K, width), by their weights (L, K); added to what is there, or
/// instead of it.
pub fn experts_sum<T: Real>(out: &mut [T], y: &[T], weights: &[T], (chosen, width): (usize, usize), add: bool) {
    for (t, out) in out.chunks_mut(width.max(1)).enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            let terms = (t * chosen..(t + 1) * chosen).map(|pair| weights[pair] * y[pair * width + j]);
            let sum = terms.fold(T::zero(), |sum, term| sum + term);
            *out = if add { *out + sum } else { sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(router: &Router, logits: &[f64], bias: Option<&[f64]>) -> (Vec<u32>, Vec<f64>) {
        let pairs = router.pairs(logits.len() / router.experts);
        let (mut experts, mut weights) = (vec![9; pairs], vec![f64::NAN; pairs]);
        route(&mut experts, &mut weights, logits, bias, router);
        (experts, weights)
    }

    fn near(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(a, b)| assert!((a - b).abs() < 1e-7, "{got:?} {want:?}"));
    }

    #[test]
    fn softmax_over_the_chosen_and_over_all() {
        let logits = [1.0, 3.0, 2.0, 0.0].map(f64::ln_1p); // softmax: 2, 4, 3 and 1 tenths
        let router = |gating, scale| Router { experts: 4, chosen: 2, gating, scale };
        let (experts, weights) = routed(&router(Gating::Chosen, 1.0), &logits, None);
        assert_eq!(experts, [1, 2]);
        near(&weights, &[4.0 / 7.0, 3.0 / 7.0]);
        let (experts, weights) = routed(&router(Gating::All, 0.5), &logits, None);
        assert_eq!(experts, [1, 2]);
        near(&weights, &[0.2, 0.15]);
        // Of equals the first; large logits do not overflow.
        let (experts, weights) = routed(&router(Gating::Chosen, 1.0), &[900.0, 7.0, 900.0, 900.0], None);
        assert_eq!(experts, [0, 2]);
        near(&weights, &[0.5, 0.5]);
    }

    #[test]
    fn groups_count_by_their_two_best_and_a_correction_chooses_without_weighing() {
        // Sigmoids of 0.9, 0.1 | 0.6, 0.5 | 0.3, 0.4 in groups of two.
        let logits = [0.9f64, 0.1, 0.6, 0.5, 0.3, 0.4].map(|p| (p / (1.0 - p)).ln());
        let gating = |kept, normed| Gating::Sigmoid { groups: 3, kept, normed };
        let router = |gating| Router { experts: 6, chosen: 2, gating, scale: 2.0 };
        let (experts, weights) = routed(&router(gating(3, false)), &logits, Some(&[0.0; 6]));
        assert_eq!(experts, [0, 2]);
        near(&weights, &[1.8, 1.2]);
        // The second group has 1.1 together, the first 1.0, and the third 1.7 with the correction.
        let bias = [0.0, 0.0, 0.0, 0.0, 0.5, 0.5];
        let (experts, weights) = routed(&router(gating(1, true)), &logits, Some(&bias));
        assert_eq!(experts, [5, 4]);
        near(&weights, &[2.0 * 4.0 / 7.0, 2.0 * 3.0 / 7.0]);
        let (experts, _) = routed(&router(gating(2, true)), &logits, Some(&bias));
        assert_eq!(experts, [5, 4]);
        let (experts, _) = routed(&router(gating(1, true)), &logits, Some(&[0.0; 6]));
        assert_eq!(experts, [2, 3]);
    }

    #[test]
    fn pairs_lie_by_expert_and_are_summed_by_weight() {
        let experts = [2, 0, 0, 3, 2, 3];
        let (mut order, mut offsets) = ([9; 6], [9; 5]);
        route_order(&mut order, &mut offsets, &experts);
        assert_eq!((order, offsets), ([1, 2, 0, 4, 3, 5], [0, 2, 2, 4, 6]));
        let mut out = [1.0, 1.0];
        let y = [1.0, 2.0, 3.0, 4.0];
        experts_sum(&mut out, &y, &[10.0, 1.0, 0.5, 2.0], (2, 1), false);
        assert_eq!(out, [12.0, 9.5]);
        experts_sum(&mut out[..1], &y[..2], &[1.0, f64::NAN], (2, 1), true);
        assert!(out[0].is_nan());
    }
}
