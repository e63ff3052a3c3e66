//! Random numbers by their place, not by their order: any example of any step can be made alone, so that a resumed run sees the
//! data of one that was never interrupted.

use crate::reference::threefry2x32;

/// What numbers are for; one purpose's never touch another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Training = 1,
    Validation = 2,
    Evaluation = 3,
    Initialisation = 4,
}

/// The numbers of one example.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    example: u32,
    drawn: u32,
    spare: Option<u32>,
}

impl Stream {
    /// The numbers that `seed` has for the `example`-th example of a purpose.
    pub fn new(seed: u64, purpose: Purpose, example: u64) -> Self {
        let key = threefry2x32([seed as u32, (seed >> 32) as u32], [purpose as u32, (example >> 32) as u32]);
        Self { key, example: example as u32, drawn: 0, spare: None }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if let Some(bits) = self.spare.take() {
            return bits;
        }
        let [first, second] = threefry2x32(self.key, [self.drawn, self.example]);
        self.drawn += 1;
        self.spare = Some(second);
        first
    }

    /// One of 0, ..., n - 1 (0 for n = 0), by Lemire's multiplication: off from uniform by less than n / 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.bits()) * n as u64) >> 32) as usize
    }

    /// In (0, 1].
    pub fn unit(&mut self) -> f64 {
        (f64::from(self.bits()) + 1.0) / 4_294_967_296.0
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// `count` different numbers below `n`, in ascending order (all of them if there are no more). Floyd's algorithm.
    pub fn ascending(&mut self, count: usize, n: usize) -> Vec<usize> {
        let mut chosen = std::collections::BTreeSet::new();
        for last in n.saturating_sub(count)..n {
            let pick = self.below(last + 1);
            if !chosen.insert(pick) {
                chosen.insert(last);
            }
        }
        chosen.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_its_numbers() {
        let draw = |seed, purpose, example| Stream::new(seed, purpose, example).bits();
        let first = draw(7, Purpose::Training, 3);
        assert_eq!(first, draw(7, Purpose::Training, 3));
        for other in [
            draw(8, Purpose::Training, 3),
            draw(7, Purpose::Validation, 3),
            draw(7, Purpose::Training, 4),
            draw(7, Purpose::Training, 3 + (1 << 32)),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn choices_are_fair() {
        let mut counts = [0; 5];
        let mut s = Stream::new(1, Purpose::Training, 0);
        for _ in 0..2000 {
            let chosen = s.ascending(2, 5);
            assert!(chosen.len() == 2 && chosen[0] < chosen[1] && chosen[1] < 5);
            chosen.iter().for_each(|&i| counts[i] += 1);
        }
        assert!(counts.iter().all(|&n| (700..900).contains(&n)), "{counts:?}");
        assert_eq!(s.ascending(9, 3), [0, 1, 2]);
        let normals: Vec<f64> = (0..4000).map(|_| s.normal()).collect();
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / 4000.0;
        assert!((variance - 1.0).abs() < 0.1, "{variance}");
    }
}
