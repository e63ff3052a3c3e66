//! Weights as the backends see them: views of the file's bytes, converted to f32 (or f16) as they are used.
//!
//! Shapes, row-major: embedding, lm_head (vocab_size, d_model); norm_f (d_model); a layer's are said by its list of
//! parameters ([`crate::model::blocks`]).

use super::{patch::Patch, LoadError};
use crate::gpu::shader::WeightFormat;
use crate::model::blocks::Weights;
use crate::reference::{dequantise, quantise, Quant};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::borrow::Cow;
use std::ops::Range;

/// The number formats that weights may be stored in, little-endian. Matrices alone may be quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    F16,
    BF16,
    /// Small integers with a scale for every 32 of a row.
    Quantised(Quant),
}

impl Dtype {
    pub const Q8: Self = Self::Quantised(Quant::Q8);
    pub const Q4: Self = Self::Quantised(Quant::Q4);

    /// How it is quantised, if it is.
    pub fn quant(self) -> Option<Quant> {
        match self {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => None,
            Dtype::Quantised(quant) => Some(quant),
        }
    }

    /// How a device holds it without rounding anything.
    pub fn on_device(self) -> WeightFormat {
        match self {
            Dtype::F32 | Dtype::BF16 => WeightFormat::F32,
            Dtype::F16 => WeightFormat::F16,
            Dtype::Quantised(quant) => WeightFormat::Quantised(quant),
        }
    }

    /// Bytes of a row of k elements, its scales included.
    pub fn row_bytes(self, k: usize) -> usize {
        match self {
            Dtype::F32 => 4 * k,
            Dtype::F16 | Dtype::BF16 => 2 * k,
            Dtype::Quantised(quant) => quant.row_bytes(k) + Quant::row_scale_bytes(k),
        }
    }

    pub(super) fn from_stored(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::BF16 => Some(Dtype::BF16),
            _ => None,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            Dtype::Quantised(quant) => quant.tag(),
        })
    }
}

/// One tensor in its file's bytes. `data` holds exactly `shape.iter().product()` elements and need not be aligned. Of a
/// quantised matrix (n, k) it holds the integers, each row filled up to whole blocks.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Its name as stored.
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub data: &'a [u8],
    /// A quantised matrix's scales, bf16 (n, blocks a row); empty for others.
    pub scales: &'a [u8],
    /// The file it is in, for messages.
    pub file: &'a str,
    /// What adapters add to a matrix. `data` and `scales` are without it, all else is with it.
    pub(super) patch: Option<&'a Patch>,
}

/// Elements converted between two checks for NaN and infinity: small enough to stay in the first cache.
const BLOCK: usize = 1024;

/// Integers and scales.
pub(super) type QuantisedRows<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl TensorView<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements (no tensor of a [`ModelWeights`] is empty).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes as stored, scales included.
    pub fn bytes(&self) -> u64 {
        (self.data.len() + self.scales.len()) as u64
    }

    /// All elements, row-major.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`] at the first NaN or infinity.
    pub fn to_f32(&self) -> Result<Vec<f32>, LoadError> {
        match (self.dtype.quant(), self.patch) {
            (None, None) => self.elements_to_f32(0..self.len()),
            _ => self.rows_to_f32(0..self.shape[0]),
        }
    }

    /// The rows `rows` of the first dimension: for embeddings too large to convert whole.
    ///
    /// # Errors
    /// [`LoadError::Rows`] outside the tensor, [`LoadError::NonFinite`].
    pub fn rows_to_f32(&self, rows: Range<usize>) -> Result<Vec<f32>, LoadError> {
        let elements = self.elements(rows.clone())?;
        let Some(quant) = self.dtype.quant() else {
            let values = self.elements_to_f32(elements)?;
            return match self.patch {
                None => Ok(values),
                Some(patch) => self.patched(patch, rows, values),
            };
        };
        let (packed, scales) = self.quantised_rows(rows)?;
        let mut out = vec![0.0; elements.len()];
        dequantise(quant, &packed, &scales, self.shape[1], &mut out);
        Ok(out)
    }

    /// Rows with what adapters add to them. What is stored as f16 is rounded to it, so that a backend that keeps f16 computes with the
    /// same numbers as one that does not; bf16 becomes f32 on every backend and is not rounded.
    fn patched(&self, patch: &Patch, rows: Range<usize>, mut values: Vec<f32>) -> Result<Vec<f32>, LoadError> {
        let k = self.shape[1];
        let first = rows.start * k;
        patch.add(rows, k, &mut values);
        if self.dtype == Dtype::F16 {
            values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
        }
        match values.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(LoadError::Adapted {
                file: self.file.into(),
                tensor: self.name.into(),
                index: first + at,
                value: values[at],
                dtype: self.dtype.to_string(),
            }),
            None => Ok(values),
        }
    }

    /// The rows `rows` of a quantised matrix: integers and scales. As they are stored, or quantised again with what adapters add.
    ///
    /// # Errors
    /// [`LoadError::Dtype`] if it is not quantised, [`LoadError::Rows`], [`LoadError::NonFinite`] for a scale (whose index
    /// counts scales).
    pub fn quantised_rows(&self, rows: Range<usize>) -> Result<QuantisedRows<'_>, LoadError> {
        self.elements(rows.clone())?;
        let (Some(quant), &[_, k]) = (self.dtype.quant(), self.shape) else {
            let dtype = self.dtype.to_string();
            let allowed = "q8 and q4";
            return Err(LoadError::Dtype { file: self.file.into(), tensor: self.name.into(), dtype, allowed });
        };
        let (p, s) = (quant.row_bytes(k), Quant::row_scale_bytes(k));
        let scales = &self.scales[rows.start * s..rows.end * s];
        let value = |b: &[u8]| bf16::from_le_bytes([b[0], b[1]]);
        // A scale is as bad as what its largest integer makes of it.
        let most = |b: &[u8]| value(b).to_f32() * quant.largest();
        if let Some(at) = scales.chunks_exact(2).position(|b| !most(b).is_finite()) {
            let tensor = format!("{}.scales", self.name);
            let (index, value) = (rows.start * s / 2 + at, most(&scales[2 * at..]));
            return Err(LoadError::NonFinite { file: self.file.into(), tensor, index, value });
        }
        let packed = &self.data[rows.start * p..rows.end * p];
        let Some(patch) = self.patch else {
            return Ok((packed.into(), scales.into()));
        };
        let mut values = vec![0.0; rows.len() * k];
        dequantise(quant, packed, scales, k, &mut values);
        let values = self.patched(patch, rows, values)?;
        let (mut packed, mut scales) = (Vec::new(), Vec::new());
        quantise(quant, &values, k, &mut packed, &mut scales);
        Ok((packed.into(), scales.into()))
    }

    /// All bytes in the format that it is stored in, with what adapters add; of a tensor that is not quantised.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`].
    pub(super) fn stored_bytes(&self) -> Result<Cow<'_, [u8]>, LoadError> {
        let values = self.to_f32()?; // also that it is finite
        if self.patch.is_none() {
            return Ok(self.data.into());
        }
        let bytes: Vec<u8> = match self.dtype {
            Dtype::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        Ok(bytes.into())
    }

    /// The rows `rows` of a tensor stored as f16, bit for bit.
    ///
    /// # Errors
    /// [`LoadError::Dtype`] if it is stored in another format, [`LoadError::Rows`], [`LoadError::NonFinite`].
    pub fn rows_to_f16(&self, rows: Range<usize>) -> Result<Vec<f16>, LoadError> {
        if self.dtype != Dtype::F16 {
            let dtype = self.dtype.to_string();
            return Err(LoadError::Dtype { file: self.file.into(), tensor: self.name.into(), dtype, allowed: "f16" });
        }
        if self.patch.is_some() {
            return Ok(self.rows_to_f32(rows)?.into_iter().map(f16::from_f32).collect());
        }
        let elements = self.elements(rows)?;
        let bytes = &self.data[elements.start * 2..elements.end * 2];
        let out: Vec<f16> = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        match out.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(self.non_finite(elements.start + at, out[at].to_f32())),
            None => Ok(out),
        }
    }

    /// Elements of a range of rows.
    fn elements(&self, rows: Range<usize>) -> Result<Range<usize>, LoadError> {
        let n = self.shape.first().copied().unwrap_or(1);
        if rows.start > rows.end || rows.end > n {
            let (file, tensor) = (self.file.into(), self.name.into());
            return Err(LoadError::Rows { file, tensor, start: rows.start, end: rows.end, rows: n });
        }
        let row: usize = self.shape.iter().skip(1).product();
        Ok(rows.start * row..rows.end * row)
    }

    fn elements_to_f32(&self, elements: Range<usize>) -> Result<Vec<f32>, LoadError> {
        let size = self.dtype.row_bytes(1);
        let bytes = &self.data[elements.start * size..elements.end * size];
        let mut out = vec![0.0f32; elements.len()];
        let mut aligned = [f16::ZERO; BLOCK];
        for (block, (to, from)) in out.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK * size)).enumerate() {
            match self.dtype {
                Dtype::F32 => {
                    for (x, b) in to.iter_mut().zip(from.chunks_exact(4)) {
                        *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    }
                }
                // bf16 is the upper half of an f32.
                Dtype::BF16 => {
                    for (x, b) in to.iter_mut().zip(from.chunks_exact(2)) {
                        *x = f32::from_le_bytes([0, 0, b[0], b[1]]);
                    }
                }
                Dtype::F16 => {
                    let aligned = &mut aligned[..to.len()];
                    for (x, b) in aligned.iter_mut().zip(from.chunks_exact(2)) {
                        *x = f16::from_le_bytes([b[0], b[1]]);
                    }
                    aligned.convert_to_f32_slice(to);
                }
                // `rows_to_f32` has dealt with these.
                Dtype::Q8 | Dtype::Q4 => {}
            }
            // Branch-free, so that it is one pass of vector instructions.
            if to.iter().fold(false, |bad, x| bad | !x.is_finite()) {
                let at = to.iter().position(|x| !x.is_finite()).unwrap_or(0);
                return Err(self.non_finite(elements.start + block * BLOCK + at, to[at]));
            }
        }
        Ok(out)
    }

    fn non_finite(&self, index: usize, value: f32) -> LoadError {
        LoadError::NonFinite { file: self.file.into(), tensor: self.name.into(), index, value }
    }

    /// Whether both hold the same numbers in the same shape. Bytes are compared, so that equal files cost a memcmp.
    pub(super) fn same_values(&self, other: &TensorView<'_>) -> bool {
        if self.shape != other.shape {
            return false;
        }
        if self.dtype == other.dtype {
            return self.data == other.data && self.scales == other.scales;
        }
        let rows = self.shape.first().copied().unwrap_or(0);
        (0..rows).all(|i| match (self.rows_to_f32(i..i + 1), other.rows_to_f32(i..i + 1)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        })
    }
}

/// All weights of a model, every shape checked.
#[derive(Debug, Clone)]
pub struct ModelWeights<'a> {
    pub embedding: TensorView<'a>, // (vocab_size, d_model)
    pub layers: Vec<Weights<TensorView<'a>>>,
    pub norm_f: TensorView<'a>,          // (d_model)
    pub lm_head: Option<TensorView<'a>>, // (vocab_size, d_model); None: tied to the embedding
}

impl<'a> ModelWeights<'a> {
    /// Calls `f` with every tensor, in the order of the forward pass.
    pub fn for_each(&self, mut f: impl FnMut(&TensorView<'a>)) {
        f(&self.embedding);
        self.layers.iter().for_each(|layer| layer.for_each(&mut |_, tensor| f(tensor)));
        f(&self.norm_f);
        self.lm_head.iter().for_each(f);
    }

    /// Bytes of all of them as stored.
    pub fn total_bytes(&self) -> u64 {
        let mut bytes = 0;
        self.for_each(|tensor| bytes += tensor.bytes());
        bytes
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        let mut n = 0;
        self.for_each(|tensor| n += tensor.len() as u64);
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(dtype: Dtype, shape: &'a [usize], data: &'a [u8]) -> TensorView<'a> {
        TensorView { name: "t", dtype, shape, data, scales: &[], file: "f", patch: None }
    }

    #[test]
    fn every_f16_and_bf16_converts_exactly_and_non_finite_is_found() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            for (dtype, expected) in
                [(Dtype::F16, f16::from_bits(bits).to_f32()), (Dtype::BF16, half::bf16::from_bits(bits).to_f32())]
            {
                match view(dtype, &[1], &bytes).to_f32() {
                    Ok(got) => assert_eq!(got[0].to_bits(), expected.to_bits()),
                    Err(LoadError::NonFinite { index: 0, .. }) => assert!(!expected.is_finite()),
                    Err(e) => panic!("{bits}: {e}"),
                }
            }
        }
    }

    #[test]
    fn unaligned_rows_across_blocks() {
        let (rows, columns) = (7, BLOCK / 2 + 1);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let mut bytes = vec![0xff];
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let shape = [rows, columns];
        let t = view(Dtype::F32, &shape, &bytes[1..]);
        assert_eq!(t.to_f32().unwrap(), values);
        assert_eq!(t.rows_to_f32(2..5).unwrap(), &values[2 * columns..5 * columns]);
        assert!(t.rows_to_f32(3..3).unwrap().is_empty());
        assert!(matches!(t.rows_to_f32(0..8), Err(LoadError::Rows { rows: 7, .. })));
        assert!(matches!(t.rows_to_f16(0..1), Err(LoadError::Dtype { .. })));
    }

    #[test]
    fn the_index_of_a_nan_is_that_of_the_whole_tensor() {
        let mut values = vec![1.0f32; 3 * BLOCK];
        values[2 * BLOCK + 5] = f32::NAN;
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape = [3, BLOCK];
        for result in [view(Dtype::F32, &shape, &bytes).to_f32(), view(Dtype::F32, &shape, &bytes).rows_to_f32(1..3)] {
            assert!(matches!(result, Err(LoadError::NonFinite { index, .. }) if index == 2 * BLOCK + 5));
        }
        let halves: Vec<u8> = [1.0, f32::NEG_INFINITY].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        assert!(matches!(
            view(Dtype::F16, &[2, 1], &halves).rows_to_f16(1..2),
            Err(LoadError::NonFinite { index: 1, .. })
        ));
    }
}
