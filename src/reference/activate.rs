//! Twin of `shaders/activate.wgsl`: what stands between an MLP's projections, by its names in transformers (`ACT2FN`).

use super::{par, silu, Real};

/// The function of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x / (1 + e^-x): "silu", "swish".
    Silu,
    /// x times the normal distribution at x: "gelu".
    Gelu,
    /// The same by its approximation with tanh: "gelu_pytorch_tanh", "gelu_new".
    GeluTanh,
    /// max(x, 0)^2: "relu2".
    Relu2,
}

impl Activation {
    pub const ALL: [Self; 4] = [Self::Silu, Self::Gelu, Self::GeluTanh, Self::Relu2];

    /// Its value at x.
    pub fn of<F: Real>(self, x: F) -> F {
        match self {
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::GeluTanh => {
                // x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u))
                let u = F::from_f64(TWO_OVER_PI.sqrt()) * (x + F::from_f64(0.044_715) * x * x * x);
                x / (F::one() + (-(u + u)).exp_lane())
            }
            // A comparison instead of max: NaN stays NaN.
            Self::Relu2 => x * if x < F::zero() { F::zero() } else { x },
        }
    }
}

const TWO_OVER_PI: f64 = std::f64::consts::FRAC_2_PI;

/// x erfc(-x / sqrt(2)) / 2.
fn gelu<F: Real>(x: F) -> F {
    let half = F::from_f64(0.5);
    let tail = half * erfc(x.abs() * F::from_f64(std::f64::consts::FRAC_1_SQRT_2));
    if x < F::zero() {
        x * tail
    } else {
        x - x * tail
    }
}

/// Where erfc is below the smallest double.
const FARTHEST: f64 = 28.0;

/// Of ln(erfc(z)) + z^2 - ln(t) by Chebyshev's polynomials over t = 1 / (1 + z / 2), z from 0 to [`FARTHEST`]: found
/// with 60 digits, cut off where doubles end.
const ERFC: [f64; 26] = [
    -1.224225593895105,
    0.6066093233955929,
    0.0140721642657179,
    -0.008309243808055465,
    -0.0005536038880311841,
    0.0002912283504420601,
    1.6327895657316842e-05,
    -1.4009715542737064e-05,
    -3.741121336050479e-08,
    7.328204590957598e-07,
    -5.696809232795093e-08,
    -3.559657518631908e-08,
    6.844866119394046e-09,
    1.2903532564413175e-09,
    -5.505184661144976e-10,
    -4.989915225539563e-12,
    3.263457327734244e-11,
    -4.3459085348560314e-12,
    -1.2199958863280867e-12,
    4.3561126044838e-13,
    -3.2351977925595395e-15,
    -2.3088780841593068e-14,
    4.280159391996306e-15,
    3.783600458528094e-16,
    -2.8591057657366927e-16,
    4.351653701352541e-17,
];

/// The complementary error function of z >= 0, relatively within some roundings, by Clenshaw's sum.
fn erfc<F: Real>(z: F) -> F {
    // Comparisons instead of min: NaN stays NaN.
    let farthest = F::from_f64(FARTHEST);
    let z = if z > farthest { farthest } else { z };
    let t = (F::one() + F::from_f64(0.5) * z).recip();
    let low = 1.0 / (1.0 + 0.5 * FARTHEST);
    // [low, 1] as [-2, 2].
    let y = (t - F::from_f64(low)) * F::from_f64(4.0 / (1.0 - low)) - F::from_f64(2.0);
    let (mut b, mut before) = (F::zero(), F::zero());
    for &c in ERFC[1..].iter().rev() {
        (b, before) = (y * b - before + F::from_f64(c), b);
    }
    let p = F::from_f64(0.5) * (y * b + F::from_f64(ERFC[0])) - before;
    t * (p - z * z).exp_lane()
}

/// Rows of [`activate`], and where they lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivateShape {
    /// Positions.
    pub l: usize,
    /// Values a row.
    pub width: usize,
    /// Elements from one row of x to the next, and the column where its values begin.
    pub x: (usize, usize),
    /// The same of the rows that hold the gate.
    pub gate: (usize, usize),
    /// What the gate is multiplied by.
    pub gate_scale: f32,
    /// What all is multiplied by.
    pub scale: f32,
}

/// out (L, width): of a gated MLP scale f(gate_scale gate) x, else scale f(x).
pub fn activate<F: Real>(out: &mut [F], x: &[F], gate: Option<&[F]>, f: Activation, shape: &ActivateShape) {
    let width = shape.width.max(1);
    debug_assert_eq!(out.len(), shape.l * shape.width);
    // A value costs as much as some twenty multiply-adds.
    let piece = par::piece(shape.l * shape.width, 1, 20 * out.len());
    par::chunks_mut(out, piece, |i, out| {
        for (at, out) in out.iter_mut().enumerate() {
            let (t, column) = ((i * piece + at) / width, (i * piece + at) % width);
            let x = x[t * shape.x.0 + shape.x.1 + column];
            let value = match gate {
                Some(gate) => {
                    let gate = gate[t * shape.gate.0 + shape.gate.1 + column];
                    f.of(F::from_f32(shape.gate_scale) * gate) * x
                }
                None => f.of(x),
            };
            *out = F::from_f32(shape.scale) * value;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (x, erfc(x)), found with 60 digits.
    const KNOWN: [(f64, f64); 6] = [
        (0.0, 1.0),
        (0.5, 0.4795001221869535),
        (1.0, 0.15729920705028513),
        (2.5, 0.0004069520174449589),
        (6.0, 2.1519736712498913e-17),
        (20.0, 5.395865611607901e-176),
    ];

    #[test]
    fn erfc_is_right_in_both_precisions() {
        for (x, want) in KNOWN {
            assert!((erfc(x) / want - 1.0).abs() < 2e-14, "{x}: {} {want}", erfc(x));
            if x < 9.0 {
                let got = f64::from(erfc(x as f32));
                assert!((got / want - 1.0).abs() < 2e-5, "{x}: {got} {want}");
            }
        }
        assert!((f64::from(erfc(0.5f32)) - KNOWN[1].1).abs() < 2e-7);
        assert_eq!((erfc(1e9f64), erfc(f32::INFINITY)), (0.0, 0.0));
        assert!(erfc(f64::NAN).is_nan());
    }

    #[test]
    fn each_function_by_hand() {
        let values = |f: Activation| [-1e4, -1.0, 0.0, 2.0, 1e4].map(|x: f64| f.of(x));
        let close = |got: [f64; 5], want: [f64; 5]| {
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?} {want:?}");
        };
        close(values(Activation::Silu), [0.0, -0.268_941_421_369_995_1, 0.0, 1.761_594_155_955_764_9, 1e4]);
        close(values(Activation::Gelu), [0.0, -0.158_655_253_931_457_05, 0.0, 1.954_499_736_103_641_6, 1e4]);
        close(values(Activation::GeluTanh), [0.0, -0.1588080093917233, 0.0, 1.954597694087775, 1e4]);
        close(values(Activation::Relu2), [0.0, 0.0, 0.0, 4.0, 1e8]);
        for f in Activation::ALL {
            assert!(f.of(f32::NAN).is_nan() && f.of(-1e30f32).abs() < 1e-30 && f.of(-0.0f32) == 0.0, "{f:?}");
        }
    }

    #[test]
    fn rows_may_be_columns_of_wider_ones() {
        // Two rows: the gate's two columns, one that is nothing's, x's two.
        let x = [0.0, 1.0, 9.0, 3.0, 4.0, -1.0, 2.0, 9.0, 5.0, 6.0];
        let mut out = [f64::NAN; 4];
        let shape = ActivateShape { l: 2, width: 2, x: (5, 3), gate: (5, 0), gate_scale: 1.0, scale: 1.0 };
        activate(&mut out, &x, Some(&x), Activation::Relu2, &shape);
        assert_eq!(out, [0.0, 4.0, 0.0, 24.0]);
        activate(&mut out, &x, None, Activation::Relu2, &shape);
        assert_eq!(out, [9.0, 16.0, 25.0, 36.0]);
    }
}
