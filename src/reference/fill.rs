//! Twin of `shaders/fill.wgsl`: numbers to measure with, counted by their place.

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillKind {
    F32,
    /// Two.
    F16,
    /// Four 8-bit weights.
    Q8,
    /// Eight 4-bit weights.
    Q4,
    /// Two scales, bf16.
    Scales,
}

impl FillKind {
    /// Values a word.
    pub fn per_word(self) -> usize {
        match self {
            FillKind::F32 => 1,
            FillKind::F16 | FillKind::Scales => 2,
            FillKind::Q8 => 4,
            FillKind::Q4 => 8,
        }
    }
}

/// What is to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fill {
    pub kind: FillKind,
    /// Words a row.
    pub row_words: usize,
    /// Values a row; the words behind them hold zeros.
    pub row_values: usize,
    pub seed: u32,
    /// f32 and f16 lie in [low, low + span); scales are `low`, which is a bf16, or up to a quarter more.
    pub low: f32,
    pub span: f32,
}

/// PCG's output permutation as a hash.
fn bits(seed: u32, i: u32) -> u32 {
    let state = (i ^ seed).wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// Fills `words`, whole rows of `fill.row_words`.
pub fn fill(words: &mut [u32], fill: &Fill) {
    let Fill { kind, row_words, row_values, seed, low, span } = *fill;
    let value = |i: usize| low + span * ((bits(seed, i as u32) >> 8) as f32 * (1.0 / 16_777_216.0));
    for (i, word) in words.iter_mut().enumerate() {
        let first = i % row_words.max(1) * kind.per_word();
        let kept = |j: usize| first + j < row_values;
        let random = bits(seed, i as u32);
        *word = match kind {
            FillKind::F32 => {
                if kept(0) {
                    value(i).to_bits()
                } else {
                    0
                }
            }
            FillKind::F16 => (0..2)
                .filter(|&j| kept(j))
                .fold(0, |word, j| word | u32::from(half::f16::from_f32(value(2 * i + j)).to_bits()) << (16 * j)),
            FillKind::Q8 => (0..4).filter(|&j| kept(j)).fold(0, |word, j| {
                let byte = random >> (8 * j) & 255;
                word | (if byte == 128 { 129 } else { byte }) << (8 * j)
            }),
            FillKind::Q4 => (0..8).fold(0, |word, j| {
                let at = 8 * (j % 4) + 4 * (j / 4);
                word | (if kept(j) { random >> at & 15 } else { 8 }) << at
            }),
            FillKind::Scales => {
                let least = low.to_bits() >> 16;
                (least + (random & 31)) | ((least + (random >> 5 & 31)) << 16)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_spread_over_their_range_and_rows_end_in_zeros() {
        let mut words = vec![0; 3 * 1000];
        let plain = Fill { kind: FillKind::F32, row_words: 1000, row_values: 998, seed: 7, low: -0.5, span: 2.0 };
        fill(&mut words, &plain);
        let values: Vec<f32> =
            words.chunks(1000).flat_map(|row| row[..998].iter().map(|w| f32::from_bits(*w))).collect();
        assert!(values.iter().all(|x| (-0.5..1.5).contains(x)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        assert!(words.chunks(1000).all(|row| row[998..] == [0, 0]));
        let mut others = vec![0; 3000];
        fill(&mut others, &Fill { seed: 8, ..plain });
        assert!(words.iter().zip(&others).filter(|(a, b)| a == b).count() < 20, "another seed, other values");
    }

    #[test]
    fn scales_and_weights_are_what_the_formats_allow() {
        let mut words = vec![0; 1000];
        fill(
            &mut words,
            &Fill { kind: FillKind::Scales, row_words: 1000, row_values: 2000, seed: 1, low: 0.0078125, span: 0.0 },
        );
        let scales = words.iter().flat_map(|w| [w << 16, w & 0xffff_0000]).map(f32::from_bits);
        assert!(scales.into_iter().all(|s| (0.0078125..0.0078125 * 1.25).contains(&s)));
        fill(&mut words, &Fill { kind: FillKind::Q8, row_words: 10, row_values: 37, seed: 1, low: 0.0, span: 0.0 });
        assert!(words.iter().flat_map(|w| w.to_le_bytes()).all(|byte| byte != 128));
        assert!(words.chunks(10).all(|row| row[9] > 0 && row[9] < 256), "a value in the last word, and zeros");
        fill(&mut words, &Fill { kind: FillKind::Q4, row_words: 5, row_values: 36, seed: 1, low: 0.0, span: 0.0 });
        assert!(words.chunks(5).all(|row| row[4] & 0xf0f0_f0f0 == 0x8080_8080), "eights behind the last value");
    }
}
