//! The weight matrices that linear layers and the embedding read.

use crate::gpu::shader::WeightFormat;
use crate::gpu::{Gpu, GpuError, Tensor};
use crate::reference::{quantise, Quant, BLOCK};
use std::ops::Range;

/// A run of a matrix's rows, as large as one binding may be.
#[derive(Debug, Clone)]
pub struct Part {
    /// Binding 1.
    pub tensor: Tensor,
    /// Binding 7, of a quantised matrix: (rows, blocks a row) bf16, two a word, low half first, without gaps between rows.
    pub scales: Option<Tensor>,
    pub row_start: usize,
    pub rows: usize,
}

impl Part {
    /// What of it a kernel binds.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (u32, &Tensor)> {
        [(1, &self.tensor)].into_iter().chain(self.scales.iter().map(|scales| (7, scales)))
    }
}

/// A weight matrix (n, k) on the device: rows padded with zeros to 16 bytes (those that are quantised to whole blocks of 32),
/// split by rows where it is larger than the adapter lets a shader see at once (a 50,280 x 768 embedding in f32 against
/// 128 MiB). Where a row of the formats lies, shared/weight_*.wgsl say; of the quantised ones it is byte by byte what a
/// checkpoint holds (docs/quantisation.md).
#[derive(Debug, Clone)]
pub struct WeightMatrix {
    parts: Vec<Part>,
    n: usize,
    k: usize,
    format: WeightFormat,
    /// The column of y, and element of a bias, that its first row is for: of those that are stacked.
    first: usize,
}

/// Rows and columns of a matrix, and how many rows lie in one part together: an expert's, where it is of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixSize {
    pub n: usize,
    pub k: usize,
    pub together: usize,
}

impl From<(usize, usize)> for MatrixSize {
    fn from((n, k): (usize, usize)) -> Self {
        Self { n, k, together: 1 }
    }
}

/// What matvec reads at once.
pub(super) const UNIT_BYTES: usize = 16;
/// Bytes of f32 that an upload turns over at once.
const UPLOAD_BYTES: usize = 16 << 20;

/// Quads of a row on the device.
fn quads(format: WeightFormat, k: usize) -> usize {
    match format.quant() {
        Some(_) => k.div_ceil(BLOCK) * (BLOCK / 4),
        None if format == WeightFormat::F16 => 2 * k.div_ceil(8),
        None => k.div_ceil(4),
    }
}

/// Bytes of a row on the device, without scales; a multiple of 16, so that matvec reads whole units.
pub(super) fn row_bytes(format: WeightFormat, k: usize) -> usize {
    match format {
        WeightFormat::F32 => 16 * k.div_ceil(4),
        WeightFormat::F16 => 16 * k.div_ceil(8),
        WeightFormat::Quantised(quant) => quant.row_bytes(k),
    }
}

/// Rows of a part, of rows of so many bytes: as many as one binding may show.
///
/// # Errors
/// Rows that lie together and are larger than that.
pub(super) fn part_rows(gpu: &Gpu, label: &str, size: MatrixSize, row_bytes: usize) -> Result<usize, GpuError> {
    let together = size.together.max(1);
    let (bytes, limit) = ((together * row_bytes) as u64, gpu.max_binding());
    if bytes > limit {
        let (kernel, label) = ("matmul".to_owned(), label.to_owned());
        return Err(GpuError::BindingTooLarge { kernel, label, bytes, limit });
    }
    Ok(((limit / bytes.max(1)) as usize).clamp(1, size.n.div_ceil(together).max(1)) * together)
}

impl WeightMatrix {
    /// A vector, or anything else that is read whole, as what all parameters are.
    pub fn vector(tensor: Tensor) -> Self {
        let k = tensor.elements();
        let part = Part { tensor, scales: None, row_start: 0, rows: 1 };
        Self { parts: vec![part], n: 1, k, format: WeightFormat::F32, first: 0 }
    }

    /// What lies in the first binding, which is all of it for a vector.
    pub fn tensor(&self) -> &Tensor {
        &self.parts[0].tensor
    }

    /// Uploads n rows of k values, asking `rows` for some of them at a time. A quantised format rounds them here.
    ///
    /// # Errors
    /// Those of `rows`, and a row larger than the adapter's limit a binding.
    pub fn upload<E: From<GpuError>>(
        gpu: &Gpu,
        label: &str,
        size: impl Into<MatrixSize>,
        format: WeightFormat,
        mut rows: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let size @ MatrixSize { k, .. } = size.into();
        Self::build(gpu, label, size, format, |range, out| {
            let values = rows(range)?;
            match format.quant() {
                None if format == WeightFormat::F16 => pad(&values, k, |x| half::f16::from_f32(x).to_le_bytes(), out),
                None => pad(&values, k, f32::to_le_bytes, out),
                Some(quant) => quantise(quant, &values, k, &mut out.packed, &mut out.scales),
            }
            Ok(())
        })
    }

    /// Uploads n rows of k values that are quantised already, asking `rows` for the integers and scales of some of them at
    /// a time ([`crate::reference::Quantised`]).
    ///
    /// # Errors
    /// As [`WeightMatrix::upload`].
    pub fn upload_quantised<E: From<GpuError>, B: AsRef<[u8]>>(
        gpu: &Gpu,
        label: &str,
        size: impl Into<MatrixSize>,
        quant: Quant,
        mut rows: impl FnMut(Range<usize>) -> Result<(B, B), E>,
    ) -> Result<Self, E> {
        Self::build(gpu, label, size.into(), WeightFormat::Quantised(quant), |range, out| {
            let (packed, scales) = rows(range)?;
            out.packed.extend_from_slice(packed.as_ref());
            out.scales.extend_from_slice(scales.as_ref());
            Ok(())
        })
    }

    fn build<E: From<GpuError>>(
        gpu: &Gpu,
        label: &str,
        size: MatrixSize,
        format: WeightFormat,
        mut rows: impl FnMut(Range<usize>, &mut Staged) -> Result<(), E>,
    ) -> Result<Self, E> {
        let MatrixSize { n, k, .. } = size;
        let row = row_bytes(format, k);
        let part_rows = part_rows(gpu, label, size, row)?;
        let batch = (UPLOAD_BYTES / (k.max(1) * 4)).clamp(1, part_rows);
        let mut parts = Vec::new();
        let mut staged = Staged::default();
        for row_start in (0..n).step_by(part_rows) {
            let in_part = part_rows.min(n - row_start);
            let tensor = Tensor::zeros(gpu, label, in_part * row / 4)?;
            staged.scales.clear();
            for at in (0..in_part).step_by(batch) {
                let count = batch.min(in_part - at);
                staged.packed.clear();
                rows(row_start + at..row_start + at + count, &mut staged)?;
                tensor.write(gpu, at * row / 4, &staged.packed);
            }
            let scales = match format.quant() {
                None => None,
                Some(_) => {
                    staged.scales.resize(staged.scales.len().next_multiple_of(4), 0);
                    Some(Tensor::new(gpu, &format!("{label}.scales"), &staged.scales)?)
                }
            };
            parts.push(Part { tensor, scales, row_start, rows: in_part });
        }
        Ok(Self { parts, n, k, format, first: 0 })
    }

    /// A matrix that is in memory already.
    pub fn new(
        gpu: &Gpu,
        label: &str,
        (n, k): (usize, usize),
        format: WeightFormat,
        w: &[f32],
    ) -> Result<Self, GpuError> {
        Self::upload(gpu, label, (n, k), format, |rows| Ok(w[rows.start * k..rows.end * k].to_vec()))
    }

    /// A matrix (n, k) that is on the device already, its rows laid out as above, each part starting where one may be bound.
    pub fn from_parts(parts: Vec<Part>, (n, k): (usize, usize), format: WeightFormat) -> Self {
        debug_assert_eq!(parts.iter().map(|part| part.rows).sum::<usize>(), n);
        Self { parts, n, k, format, first: 0 }
    }

    /// Matrices of the same inputs, whose outputs are to lie one behind the other in the rows of y: as one, if their formats
    /// are one and a binding can show all, else as they are, each with its place in y and in a bias.
    ///
    /// # Errors
    /// The device's.
    pub fn stack(gpu: &Gpu, label: &str, matrices: Vec<Self>) -> Result<Vec<Self>, GpuError> {
        match Self::joined(gpu, label, &matrices)? {
            Some(joined) => Ok(vec![joined]),
            None => {
                let mut first = 0;
                let place = |matrix: Self| {
                    let placed = Self { first, ..matrix };
                    first += placed.n;
                    placed
                };
                Ok(matrices.into_iter().map(place).collect())
            }
        }
    }

    fn joined(gpu: &Gpu, label: &str, matrices: &[Self]) -> Result<Option<Self>, GpuError> {
        let [Self { k, format, .. }, ..] = *matrices else { return Ok(None) };
        let n = matrices.iter().map(|matrix| matrix.n).sum();
        let row = row_bytes(format, k);
        let whole = |matrix: &Self| matrix.parts.len() == 1 && matrix.k == k && matrix.format == format;
        // Of scales, two a word, each matrix has to begin with a word.
        let blocks = |matrix: &Self| matrix.n * k.div_ceil(BLOCK);
        let words = format.quant().is_none() || matrices.iter().all(|matrix| blocks(matrix).is_multiple_of(2));
        if !matrices.iter().all(whole) || !words || (n * row) as u64 > gpu.max_binding() {
            return Ok(None);
        }
        let tensor = Tensor::zeros(gpu, label, n * row / 4)?;
        let all_blocks = matrices.iter().map(blocks).sum::<usize>();
        let scales = match format.quant() {
            Some(_) => Some(Tensor::zeros(gpu, &format!("{label}.scales"), all_blocks / 2)?),
            None => None,
        };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let mut copy = |from: &Tensor, to: &Tensor, words: usize, at: &mut usize| {
            let (size, offset) = (Some(4 * words as u64), to.offset() + 4 * *at as u64);
            encoder.copy_buffer_to_buffer(from.buffer(), from.offset(), to.buffer(), offset, size);
            *at += words;
        };
        let (mut at, mut at_scale) = (0, 0);
        for matrix in matrices {
            let part = &matrix.parts[0];
            copy(&part.tensor, &tensor, matrix.n * row / 4, &mut at);
            if let (Some(from), Some(to)) = (&part.scales, &scales) {
                copy(from, to, blocks(matrix) / 2, &mut at_scale);
            }
        }
        gpu.submit([encoder.finish()]);
        Ok(Some(Self::from_parts(vec![Part { tensor, scales, row_start: 0, rows: n }], (n, k), format)))
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }
    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Quads a row on the device; a quantised row's whole blocks may be more than hold values.
    pub fn k4(&self) -> usize {
        quads(self.format, self.k)
    }
    pub fn format(&self) -> WeightFormat {
        self.format
    }
    /// The column of y that its first row is for.
    pub(super) fn first(&self) -> usize {
        self.first
    }
}

/// Rows on their way to the device.
#[derive(Default)]
struct Staged {
    packed: Vec<u8>,
    scales: Vec<u8>,
}

/// Rows of k values to rows of whole units, zeros behind.
fn pad<const N: usize>(values: &[f32], k: usize, bytes: impl Fn(f32) -> [u8; N], out: &mut Staged) {
    let out = &mut out.packed;
    out.reserve(values.len() / k.max(1) * (k * N).next_multiple_of(UNIT_BYTES));
    for row in values.chunks_exact(k.max(1)) {
        out.extend(row.iter().flat_map(|&x| bytes(x)));
        out.resize(out.len().next_multiple_of(UNIT_BYTES), 0);
    }
}
