//! Twin of `shaders/shared/weight_q8.wgsl` and `weight_q4.wgsl`: weights as small integers with a scale for every 32 of
//! them. docs/quantisation.md has the format and its reasons.
//!
//! A row of k values is cut into blocks of [`BLOCK`], the last one filled up with zeros. Of a block are kept
//!
//! - `q8`: 32 bytes, two's complement, in order; value = q scale, q in -127 ..= 127;
//! - `q4`: 16 bytes; byte 4 i + j holds value 8 i + j in its low half and value 8 i + 4 + j in its high half (i, j < 4), so
//!   that a shift and a mask of a 32-bit word give four neighbours; value = (q - 8) scale, q in 0 ..= 15;
//! - `scale`: a bf16 (the upper half of an f32), of either sign.
//!
//! bf16 and not f16: WGSL lets a device flush f16's subnormal numbers to zero, and the scale of weights below 0.008 would be
//! one. An integer times a bf16 is exact in f32, so that every device and the CPU multiply by the same weights.

use super::{linear::Weights, par, Real};
use half::bf16;
use std::fmt;
use std::ops::Range;

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// How many bits a value keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quant {
    Q8,
    Q4,
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.tag())
    }
}

impl Quant {
    pub const ALL: [Quant; 2] = [Quant::Q8, Quant::Q4];

    /// `q8` or `q4`: in names of tensors and shaders.
    pub fn tag(self) -> &'static str {
        match self {
            Quant::Q8 => "q8",
            Quant::Q4 => "q4",
        }
    }

    /// The largest magnitude of an integer.
    pub fn largest(self) -> f32 {
        match self {
            Quant::Q8 => 127.0,
            Quant::Q4 => 8.0,
        }
    }

    /// Bytes of a block's integers.
    pub fn block_bytes(self) -> usize {
        match self {
            Quant::Q8 => BLOCK,
            Quant::Q4 => BLOCK / 2,
        }
    }

    /// Bytes of the integers of a row of k values.
    pub fn row_bytes(self, k: usize) -> usize {
        k.div_ceil(BLOCK) * self.block_bytes()
    }

    /// Bytes of the scales of a row of k values.
    pub fn row_scale_bytes(k: usize) -> usize {
        k.div_ceil(BLOCK) * 2
    }
}

/// A matrix (n, k) held quantised; rows are made as they are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    pub quant: Quant,
    pub k: usize,
    /// (n, blocks a row) blocks of integers.
    pub packed: Vec<u8>,
    /// (n, blocks a row), bf16, little-endian.
    pub scales: Vec<u8>,
}

impl Quantised {
    /// Quantises rows of k finite values.
    pub fn new(quant: Quant, k: usize, values: &[f32]) -> Self {
        let mut out = Self { quant, k, packed: Vec::new(), scales: Vec::new() };
        quantise(quant, values, k, &mut out.packed, &mut out.scales);
        out
    }

    /// Rows.
    pub fn n(&self) -> usize {
        self.packed.len() / self.quant.row_bytes(self.k).max(1)
    }

    /// The values of some rows, one row after the other, to `out` (rows, k).
    pub fn rows<T: Real>(&self, rows: Range<usize>, out: &mut [T]) {
        let (p, s) = (self.quant.row_bytes(self.k), Quant::row_scale_bytes(self.k));
        let (packed, scales) = (&self.packed[rows.start * p..rows.end * p], &self.scales[rows.start * s..rows.end * s]);
        dequantise(self.quant, packed, scales, self.k, out);
    }

    /// All values (n, k).
    pub fn values<T: Real>(&self) -> Vec<T> {
        let mut out = vec![T::zero(); self.n() * self.k];
        self.rows(0..self.n(), &mut out);
        out
    }
}

/// Quantises rows of k finite values; integers and scales are added behind what `packed` and `scales` hold.
pub fn quantise(quant: Quant, values: &[f32], k: usize, packed: &mut Vec<u8>, scales: &mut Vec<u8>) {
    if k == 0 {
        return;
    }
    let (p, s) = (quant.row_bytes(k), Quant::row_scale_bytes(k));
    let rows = values.len() / k;
    let (p0, s0) = (packed.len(), scales.len());
    packed.resize(p0 + rows * p, 0);
    scales.resize(s0 + rows * s, 0);
    // The search for a scale costs some hundred operations a value.
    let each = par::piece(rows, 1, values.len() * 64);
    par::zip_chunks_mut(&mut packed[p0..], each * p, &mut scales[s0..], each * s, |i, packed, scales| {
        let rows = values[i * each * k..].chunks_exact(k);
        for ((row, packed), scales) in rows.zip(packed.chunks_exact_mut(p)).zip(scales.chunks_exact_mut(s)) {
            let blocks = packed.chunks_exact_mut(quant.block_bytes()).zip(scales.chunks_exact_mut(2));
            for (values, (packed, scale)) in row.chunks(BLOCK).zip(blocks) {
                let mut x = [0.0; BLOCK];
                x[..values.len()].copy_from_slice(values);
                let chosen = match quant {
                    Quant::Q8 => q8_block(&x, packed),
                    Quant::Q4 => q4_block(&x, packed),
                };
                scale.copy_from_slice(&chosen.to_le_bytes());
            }
        }
    });
}

/// The value of the largest magnitude.
fn extreme(x: &[f32; BLOCK]) -> f32 {
    x.iter().fold(0.0, |a: f32, &b| if b.abs() > a.abs() { b } else { a })
}

/// The bf16 nearest to a scale; none so small that its inverse were infinite.
fn to_scale(d: f32) -> bf16 {
    if d == 0.0 {
        return bf16::ZERO;
    }
    let nearest = bf16::from_f32(d);
    if nearest.to_f32().abs() < f32::MIN_POSITIVE {
        bf16::from_f32(f32::MIN_POSITIVE.copysign(d))
    } else {
        nearest
    }
}

/// The nearest whole number, of ties the even one (|x| below 2^22): without a call, so that loops over it are vectorised.
fn nearest(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + ROUND) - ROUND
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 {
        0.0
    } else {
        1.0 / d
    }
}

/// Largest to 127: a scale rounded to bf16's eight bits moves it by a quarter at most, so that it stays 127.
fn q8_block(x: &[f32; BLOCK], packed: &mut [u8]) -> bf16 {
    let scale = to_scale(extreme(x).abs() / 127.0);
    let inverse = inverse(scale.to_f32());
    for (to, &x) in packed.iter_mut().zip(x) {
        *to = nearest(x * inverse).clamp(-127.0, 127.0) as i8 as u8;
    }
    scale
}

/// What the extreme of a block may become. The whole numbers are exact where the block was quantised before.
const EXTREMES: [f32; 18] =
    [-8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, -7.0, -7.5, -8.5, -9.0, -9.5, 6.5, 7.5, 8.0, 8.5, 9.0];

/// The scale of the least squared error among a few, each improved once by least squares for the integers it gives.
fn q4_block(x: &[f32; BLOCK], packed: &mut [u8]) -> bf16 {
    let extreme = extreme(x);
    let mut best = (f32::INFINITY, bf16::ZERO);
    if extreme != 0.0 {
        // In units of the extreme, so that no square overflows.
        let unit = x.map(|x| x / extreme);
        let mut consider = |d: f32| -> f32 {
            let scale = to_scale(d);
            let d = scale.to_f32();
            if !d.is_finite() {
                return f32::NAN;
            }
            let (relative, inverse) = (d / extreme, inverse(d));
            let (mut error, mut xq, mut qq) = ([0.0f32; 8], [0.0f32; 8], [0.0f32; 8]);
            for (x, unit) in x.chunks_exact(8).zip(unit.chunks_exact(8)) {
                for i in 0..8 {
                    let q = nearest(x[i] * inverse).clamp(-8.0, 7.0);
                    let e = (x[i] * inverse - q) * relative;
                    error[i] += e * e;
                    xq[i] += unit[i] * q;
                    qq[i] += q * q;
                }
            }
            let sum = |x: [f32; 8]| x.iter().sum::<f32>();
            let error = sum(error);
            if error < best.0 {
                best = (error, scale);
            }
            sum(xq) / sum(qq) * extreme
        };
        for to in EXTREMES {
            let better = consider(extreme / to);
            if better.is_finite() {
                consider(better);
            }
        }
    }
    let scale = best.1;
    let inverse = inverse(scale.to_f32());
    let q = x.map(|x| (nearest(x * inverse).clamp(-8.0, 7.0) + 8.0) as u8);
    for (to, q) in packed.chunks_exact_mut(4).zip(q.chunks_exact(8)) {
        for (j, to) in to.iter_mut().enumerate() {
            *to = q[j] | q[4 + j] << 4;
        }
    }
    scale
}

/// The values of quantised rows of k, to `out` (rows, k). Exact in f32: a product of 8 and 8 bits.
pub fn dequantise<T: Real>(quant: Quant, packed: &[u8], scales: &[u8], k: usize, out: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if super::dots::has_avx2_fma() {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { dequantise_avx2(quant, packed, scales, k, out) };
    }
    dequantise_rows(quant, packed, scales, k, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dequantise_avx2<T: Real>(quant: Quant, packed: &[u8], scales: &[u8], k: usize, out: &mut [T]) {
    dequantise_rows(quant, packed, scales, k, out);
}

#[inline(always)]
fn dequantise_rows<T: Real>(quant: Quant, packed: &[u8], scales: &[u8], k: usize, out: &mut [T]) {
    if k == 0 {
        return;
    }
    let (p, s) = (quant.row_bytes(k), Quant::row_scale_bytes(k));
    let rows = packed.chunks_exact(p).zip(scales.chunks_exact(s));
    for (row, (packed, scales)) in out.chunks_exact_mut(k).zip(rows) {
        let blocks = packed.chunks_exact(quant.block_bytes()).zip(scales.chunks_exact(2));
        for (out, (packed, scale)) in row.chunks_mut(BLOCK).zip(blocks) {
            let scale = T::from_f32(bf16::from_le_bytes([scale[0], scale[1]]).to_f32());
            match <&mut [T; BLOCK]>::try_from(&mut *out) {
                Ok(out) => block(quant, packed, scale, out),
                Err(_) => {
                    let mut whole = [T::zero(); BLOCK];
                    block(quant, packed, scale, &mut whole);
                    out.copy_from_slice(&whole[..out.len()]);
                }
            }
        }
    }
}

#[inline(always)]
fn block<T: Real>(quant: Quant, packed: &[u8], scale: T, out: &mut [T; BLOCK]) {
    match quant {
        Quant::Q8 => {
            for (out, &q) in out.iter_mut().zip(packed) {
                *out = T::from_f32(f32::from(q as i8)) * scale;
            }
        }
        Quant::Q4 => {
            // Loops of a fixed length over all low halves and all high ones: they are vectorised however little is inlined around
            // them (web/build.sh).
            let Some(packed) = packed.first_chunk::<{ BLOCK / 2 }>() else { return };
            let (low, high) = (packed.map(|q| q & 15), packed.map(|q| q >> 4));
            let (mut values, mut others) = ([T::zero(); BLOCK / 2], [T::zero(); BLOCK / 2]);
            for i in 0..BLOCK / 2 {
                values[i] = T::from_f32(f32::from(low[i]) - 8.0) * scale;
                others[i] = T::from_f32(f32::from(high[i]) - 8.0) * scale;
            }
            for (i, out) in out.chunks_exact_mut(8).enumerate() {
                out[..4].copy_from_slice(&values[4 * i..][..4]);
                out[4..].copy_from_slice(&others[4 * i..][..4]);
            }
        }
    }
}

impl<'a, T> From<&'a Quantised> for Weights<'a, T> {
    fn from(w: &'a Quantised) -> Self {
        Weights::Quantised { of: w, first: 0, n: w.n() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scale(w: &Quantised, block: usize) -> f32 {
        bf16::from_le_bytes([w.scales[2 * block], w.scales[2 * block + 1]]).to_f32()
    }

    #[test]
    fn by_hand() {
        // Scale 0.5: -63.5 is -127, 1.0 is 2, 0.24 is 0, 0.26 is 1.
        let w = Quantised::new(Quant::Q8, 5, &[-63.5, 1.0, 0.24, 0.26, 63.5]);
        assert_eq!(scale(&w, 0), 0.5);
        assert_eq!(w.packed[..6].iter().map(|&q| q as i8).collect::<Vec<_>>(), [-127, 2, 0, 1, 127, 0]);
        assert_eq!((w.packed.len(), w.scales.len(), w.n()), (32, 2, 1));
        assert_eq!(w.values::<f32>(), [-63.5, 1.0, 0.0, 0.5, 63.5]);

        // Whole numbers -8 ..= 7 are exact with scale 1; the order of halves is as the header says.
        let values: Vec<f32> = (0..40).map(|i| (i * 5 % 16) as f32 - 8.0).collect();
        let w = Quantised::new(Quant::Q4, 40, &values);
        assert_eq!((w.packed.len(), w.scales.len()), (32, 4));
        assert_eq!(w.values::<f64>(), values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        assert_eq!((scale(&w, 0), scale(&w, 1)), (1.0, 1.0));
        // Byte 4 is value 8 (0: q 8) and value 12 (4: q 12).
        assert_eq!((values[8], values[12], w.packed[4]), (0.0, 4.0, 12 << 4 | 8));
        // What fills a row up is zero.
        assert_eq!(&w.packed[20..32], &[0x88; 12]);

        let zero = Quantised::new(Quant::Q4, 3, &[0.0; 6]);
        assert_eq!((zero.n(), zero.values::<f32>(), scale(&zero, 0)), (2, vec![0.0; 6], 0.0));
    }

    /// Rows of weights of all magnitudes, with zeros and outliers.
    fn rows() -> impl Strategy<Value = (usize, Vec<f32>)> {
        let value = prop_oneof![6 => -1.0f32..1.0, 1 => Just(0.0f32), 1 => -30.0f32..30.0];
        let magnitude =
            prop_oneof![Just(1.0f32), Just(1e-3), Just(1e-7), Just(1e-30), Just(1e-38), Just(1e30), Just(1e36)];
        (1usize..100, 1usize..4, magnitude).prop_flat_map(move |(k, n, m)| {
            (Just(k), prop::collection::vec(value.clone().prop_map(move |x| x * m), n * k))
        })
    }

    fn squared(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

        /// A value within the integers' range is off by half a scale at most. For q8 all are.
        #[test]
        fn the_error_is_half_a_scale((k, values) in rows()) {
            for quant in Quant::ALL {
                let w = Quantised::new(quant, k, &values);
                let back = w.values::<f32>();
                for (i, (x, y)) in values.iter().zip(&back).enumerate() {
                    let d = f64::from(scale(&w, i / k * k.div_ceil(BLOCK) + i % k / BLOCK));
                    let (x, y) = (f64::from(*x), f64::from(*y));
                    let inside = quant == Quant::Q8 || (-8.5 * d.abs() <= x * d.signum() && x * d.signum() <= 7.5 * d.abs());
                    if inside {
                        // Up to 127 scales are divided and multiplied in f32: each rounds by 127 * 2^-24 of a scale.
                        prop_assert!((x - y).abs() <= d.abs() * 0.500_02 + 1e-45, "{quant:?} {i}: {x} {y} scale {d}");
                    } else {
                        prop_assert!((x - y).abs() < x.abs() / 2.0, "{quant:?} {i}: clipped {x} to {y} scale {d}");
                    }
                }
            }
        }

        /// What was quantised already stays as it is.
        #[test]
        fn quantising_again_changes_no_value((k, values) in rows()) {
            for quant in Quant::ALL {
                let once: Vec<f32> = Quantised::new(quant, k, &values).values();
                let twice: Vec<f32> = Quantised::new(quant, k, &once).values();
                prop_assert_eq!(&once, &twice, "{:?}", quant);
            }
        }

        /// The search never does worse than the plain choice (the extreme to 7).
        #[test]
        fn four_bits_are_well_chosen(values in prop::collection::vec(-1.0f32..1.0, BLOCK)) {
            let found: Vec<f32> = Quantised::new(Quant::Q4, BLOCK, &values).values();
            let largest = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let d = bf16::from_f32(largest / 7.0).to_f32();
            let plain: Vec<f32> = values.iter().map(|x| (x / d).round().clamp(-8.0, 7.0) * d).collect();
            prop_assert!(squared(&values, &found) <= squared(&values, &plain) * 1.0001);
        }

        /// f32 and f64 are the same numbers, with AVX2 and without.
        #[test]
        fn dequantised_values_are_exact((k, values) in rows()) {
            for quant in Quant::ALL {
                let w = Quantised::new(quant, k, &values);
                let mut plain = vec![0.0f32; values.len()];
                dequantise_rows(quant, &w.packed, &w.scales, k, &mut plain);
                prop_assert_eq!(&w.values::<f32>(), &plain);
                for (a, b) in plain.iter().zip(w.values::<f64>()) {
                    // Below the smallest normal number f32 rounds.
                    prop_assert!((f64::from(*a) - b).abs() <= 1e-45);
                }
            }
        }
    }
}
