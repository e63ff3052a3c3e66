//! Twin of `shaders/gated_rms_norm.wgsl`: Mamba-2's norm before out_proj, and the gate.
//!
//! mamba-ssm's `ops/triton/layernorm_gated.py` (norm_before_gate, group_size); without a norm `modules/mamba2.py` with
//! rmsnorm=False.

use super::{norm::inverse_rms, silu, Real};

/// What happens to y and its gate z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GatedNorm {
    /// RMSNorm(y silu(z)) weight: mamba-ssm's norm_before_gate = False, its default for Mamba-2.
    GateFirst,
    /// RMSNorm(y) weight silu(z): norm_before_gate = True.
    NormFirst,
    /// y silu(z).
    GateOnly,
}

/// Rows of [`gated_rms_norm`], and where they lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedShape {
    /// Positions.
    pub l: usize,
    /// Values a row.
    pub d_inner: usize,
    /// Groups of d_inner / groups neighbours, each with a mean of its own; d_inner is a multiple of it.
    pub groups: usize,
    /// Elements from one row of y to the next, and the column where its values begin.
    pub y: (usize, usize),
    /// The same of the rows that hold z.
    pub z: (usize, usize),
    /// The same of the output's rows.
    pub out: (usize, usize),
    pub eps: f32,
}

impl GatedShape {
    /// y and the output (L, d_inner) without gaps, z at a column of wider rows.
    pub fn dense(l: usize, d_inner: usize, groups: usize, z: (usize, usize), eps: f32) -> Self {
        Self { l, d_inner, groups, y: (d_inner, 0), z, out: (d_inner, 0), eps }
    }
}

/// The output's columns = y and z by `kind`, with `weight` (d_inner) or ones; what else is in its rows stays.
pub fn gated_rms_norm<T: Real>(
    out: &mut [T],
    y: &[T],
    z: &[T],
    weight: Option<&[T]>,
    kind: GatedNorm,
    shape: &GatedShape,
) {
    let &GatedShape { l, d_inner, groups, .. } = shape;
    debug_assert!(d_inner.is_multiple_of(groups));
    let width = d_inner / groups;
    let mut u = vec![T::zero(); width];
    for t in 0..l {
        for first in (0..d_inner).step_by(width.max(1)) {
            let y = &y[t * shape.y.0 + shape.y.1 + first..][..width];
            let z = &z[t * shape.z.0 + shape.z.1 + first..][..width];
            for ((u, &y), &z) in u.iter_mut().zip(y).zip(z) {
                *u = if kind == GatedNorm::NormFirst { y } else { y * silu(z) };
            }
            let scale = match kind {
                GatedNorm::GateOnly => T::one(),
                GatedNorm::GateFirst | GatedNorm::NormFirst => inverse_rms(&u, T::from_f32(shape.eps)),
            };
            let out = &mut out[t * shape.out.0 + shape.out.1 + first..][..width];
            for (i, (out, (&u, &z))) in out.iter_mut().zip(u.iter().zip(z)).enumerate() {
                let v = u * scale * weight.map_or(T::one(), |weight| weight[first + i]);
                *out = if kind == GatedNorm::NormFirst { v * silu(z) } else { v };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Y: [f64; 4] = [3.0, 4.0, 1.0, -1.0];
    const Z: [f64; 4] = [0.5, -1.0, 2.0, 30.0];

    fn outputs(kind: GatedNorm, groups: usize) -> [f64; 4] {
        let mut out = [f64::NAN; 4];
        let shape = GatedShape::dense(1, 4, groups, (5, 1), 0.0);
        gated_rms_norm(&mut out, &Y, &[9.0, Z[0], Z[1], Z[2], Z[3]], Some(&[1.0, 2.0, 3.0, 4.0]), kind, &shape);
        out
    }

    #[test]
    fn each_order_by_hand() {
        let gated: Vec<f64> = Y.iter().zip(Z).map(|(y, z)| y * silu(z)).collect();
        let rms = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
        for (i, w) in [1.0, 2.0, 3.0, 4.0].into_iter().enumerate() {
            let close = |got: [f64; 4], want: f64| assert!((got[i] - want).abs() < 1e-14, "{i}: {got:?} {want}");
            close(outputs(GatedNorm::GateOnly, 1), gated[i] * w);
            close(outputs(GatedNorm::GateFirst, 1), gated[i] / rms(&gated) * w);
            close(outputs(GatedNorm::GateFirst, 2), gated[i] / rms(&gated[i / 2 * 2..][..2]) * w);
            close(outputs(GatedNorm::NormFirst, 2), Y[i] / rms(&Y[i / 2 * 2..][..2]) * w * silu(Z[i]));
        }
    }

    #[test]
    fn columns_beside_the_output_stay_and_nan_stays_in_its_group() {
        let mut out = [7.0f32; 10];
        let shape = GatedShape { out: (5, 1), ..GatedShape::dense(2, 4, 2, (4, 0), 1e-5) };
        let y = [1.0, f32::NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        gated_rms_norm(&mut out, &y, &[1.0; 8], None, GatedNorm::GateFirst, &shape);
        assert_eq!((out[0], out[5]), (7.0, 7.0));
        assert!(out[1].is_nan() && out[2].is_nan());
        assert!(out[3..5].iter().chain(&out[6..]).all(|x| (x - 1.0).abs() < 1e-4), "{out:?}");
    }
}
