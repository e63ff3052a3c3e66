//! Twin of `shaders/scale_add.wgsl`: what families with multipliers do to rows.

use super::Real;

/// x (L, width), in place, times `scale` (width), plus `added` (L, width).
pub fn scale_add<T: Real>(x: &mut [T], scale: Option<&[T]>, added: Option<&[T]>, width: usize) {
    if let Some(scale) = scale {
        debug_assert_eq!(scale.len(), width);
        for row in x.chunks_mut(width.max(1)) {
            row.iter_mut().zip(scale).for_each(|(x, scale)| *x *= *scale);
        }
    }
    if let Some(added) = added {
        x.iter_mut().zip(added).for_each(|(x, added)| *x += *added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_scaled_and_rows_added() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        scale_add(&mut x, Some(&[10.0, -1.0]), None, 2);
        assert_eq!(x, [10.0, -2.0, 30.0, -4.0]);
        scale_add(&mut x, Some(&[0.5, 1.0]), Some(&[1.0, 1.0, 2.0, f64::NAN]), 2);
        assert_eq!(x[..3], [6.0, -1.0, 17.0]);
        assert!(x[3].is_nan());
    }
}
