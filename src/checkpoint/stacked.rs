//! Matrices of as many columns, each a tensor of its own, as one whose rows lie behind each other: those of experts.

use super::weights::QuantisedRows;
use super::{Dtype, LoadError, TensorView};
use std::borrow::Cow;
use std::ops::Range;

/// At least one tensor; of one alone it is that one.
pub(crate) struct Stacked<'v, 'a> {
    views: &'v [&'v TensorView<'a>],
    /// What all are stored as, or f32.
    pub dtype: Dtype,
}

impl<'v, 'a> Stacked<'v, 'a> {
    pub fn new(views: &'v [&'v TensorView<'a>]) -> Self {
        let first = views.first().map_or(Dtype::F32, |view| view.dtype);
        let dtype = if views.iter().all(|view| view.dtype == first) { first } else { Dtype::F32 };
        Self { views, dtype }
    }

    /// The first one's.
    pub fn name(&self) -> &'a str {
        self.views.first().map_or("", |view| view.name)
    }

    pub fn n(&self) -> usize {
        self.views.iter().map(|view| view.shape.first().copied().unwrap_or(1)).sum()
    }

    pub fn k(&self) -> usize {
        self.views.first().and_then(|view| view.shape.get(1)).copied().unwrap_or(1)
    }

    /// The tensors that some rows lie in, and which rows of theirs these are.
    fn pieces(&self, rows: Range<usize>) -> impl Iterator<Item = (&'v TensorView<'a>, Range<usize>)> {
        let mut first = 0;
        self.views.iter().filter_map(move |view| {
            let (begin, n) = (first, view.shape.first().copied().unwrap_or(1));
            first += n;
            let piece = rows.start.max(begin)..rows.end.min(begin + n);
            (piece.start < piece.end).then(|| (*view, piece.start - begin..piece.end - begin))
        })
    }

    /// All elements.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`].
    pub fn to_f32(&self) -> Result<Vec<f32>, LoadError> {
        match self.views {
            [one] => one.to_f32(),
            _ => self.rows_to_f32(0..self.n()),
        }
    }

    /// As [`TensorView::rows_to_f32`].
    ///
    /// # Errors
    /// The same.
    pub fn rows_to_f32(&self, rows: Range<usize>) -> Result<Vec<f32>, LoadError> {
        if let [one] = self.views {
            return one.rows_to_f32(rows);
        }
        let mut values = Vec::with_capacity(rows.len() * self.k());
        for (view, rows) in self.pieces(rows) {
            values.extend(view.rows_to_f32(rows)?);
        }
        Ok(values)
    }

    /// As [`TensorView::quantised_rows`].
    ///
    /// # Errors
    /// The same.
    pub fn quantised_rows(&self, rows: Range<usize>) -> Result<QuantisedRows<'_>, LoadError> {
        if let [one] = self.views {
            return one.quantised_rows(rows);
        }
        let (mut packed, mut scales) = (Vec::new(), Vec::new());
        for (view, rows) in self.pieces(rows) {
            let (of_packed, of_scales) = view.quantised_rows(rows)?;
            packed.extend_from_slice(&of_packed);
            scales.extend_from_slice(&of_scales);
        }
        Ok((Cow::Owned(packed), Cow::Owned(scales)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_from_the_tensors_that_they_lie_in() {
        let bytes: Vec<u8> = (0..14).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view =
            |shape, data| TensorView { name: "t", dtype: Dtype::F32, shape, data, scales: &[], file: "f", patch: None };
        let (a, b) = (view(&[3, 2], &bytes[..24]), view(&[4, 2], &bytes[24..]));
        let both = [&a, &b];
        let stacked = Stacked::new(&both);
        assert_eq!((stacked.n(), stacked.k(), stacked.dtype), (7, 2, Dtype::F32));
        for rows in [0..7, 0..3, 3..7, 2..4, 5..5] {
            let want: Vec<f32> = (2 * rows.start..2 * rows.end).map(|i| i as f32).collect();
            assert_eq!(stacked.rows_to_f32(rows).unwrap(), want);
        }
        let half = TensorView { dtype: Dtype::F16, ..a };
        assert_eq!(Stacked::new(&[&half, &b]).dtype, Dtype::F32);
    }
}
