//! fill.wgsl: tensors and weight matrices full of harmless numbers, made on the device, for [`bench`](crate::bench). An upload
//! would let the device idle, and its clock fall, right before it is measured.

use super::weights::{part_rows, row_bytes, MatrixSize};
use super::{WeightMatrix, WeightPart};
use crate::gpu::shader::{NumberFormat, ShaderSpec, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::reference::{Fill, FillKind, Quant, BLOCK};

pub(super) fn spec() -> ShaderSpec {
    ShaderSpec::new("fill")
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    words: u32,
    row_words: u32,
    row_values: u32,
    kind: u32,
    seed: u32,
    low: f32,
    span: f32,
}

/// Fills `words` words of a tensor, which begins with a row.
pub fn fill(plan: &mut PlanBuilder<'_>, tensor: &Tensor, words: usize, fill: &Fill) -> Result<(), GpuError> {
    let kind = match fill.kind {
        FillKind::F32 => 0,
        FillKind::F16 => 1,
        FillKind::Q8 => 2,
        FillKind::Q4 => 3,
        FillKind::Scales => 4,
    };
    let params = Params {
        words: words as u32,
        row_words: fill.row_words.max(1) as u32,
        row_values: fill.row_values as u32,
        kind,
        seed: fill.seed,
        low: fill.low,
        span: fill.span,
    };
    plan.dispatch_flat(spec(), &params, &[(1, tensor)], words, 256)
}

/// Which values: spread evenly over `low` to `high`, others for another seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Values {
    pub low: f32,
    pub high: f32,
    pub seed: u32,
}

impl Values {
    fn fill(self, kind: FillKind, row_words: usize, row_values: usize) -> Fill {
        Fill { kind, row_words, row_values, seed: self.seed, low: self.low, span: self.high - self.low }
    }

    /// A tensor of them, by a dispatch of `plan`.
    ///
    /// # Errors
    /// Over the adapter's limit a buffer or a binding.
    pub fn tensor(
        self,
        plan: &mut PlanBuilder<'_>,
        label: &str,
        elements: usize,
        format: NumberFormat,
    ) -> Result<Tensor, GpuError> {
        let tensor = Tensor::activations(plan.gpu(), label, elements, format)?;
        let kind = match format {
            NumberFormat::F32 => FillKind::F32,
            NumberFormat::F16 => FillKind::F16,
        };
        let words = elements.div_ceil(kind.per_word());
        fill(plan, &tensor, words, &self.fill(kind, words, elements))?;
        Ok(tensor)
    }
}

/// A tensor of values over (low, high), made on the device without waiting: what is measured comes after it.
///
/// # Errors
/// Over the adapter's limit a buffer or a binding; a full memory.
pub fn filled(
    gpu: &Gpu,
    label: &str,
    elements: usize,
    (low, high): (f32, f32),
    format: NumberFormat,
) -> Result<Tensor, GpuError> {
    let mut plan = PlanBuilder::new(gpu);
    let tensor = Values { low, high, seed: elements as u32 }.tensor(&mut plan, label, elements, format)?;
    plan.finish()?.submit(gpu)?;
    Ok(tensor)
}

/// A matrix (n, k) of weights in [-bound, bound] in any format, by dispatches of `plan`: of a quantised one the integers are
/// drawn and the scales such that they reach as far.
///
/// # Errors
/// A row larger than the adapter's limit a binding; a full memory shows in [`Gpu::check`].
pub fn fill_matrix(
    plan: &mut PlanBuilder<'_>,
    label: &str,
    size: impl Into<MatrixSize>,
    format: WeightFormat,
    bound: f32,
    seed: u32,
) -> Result<WeightMatrix, GpuError> {
    let size @ MatrixSize { n, k, .. } = size.into();
    let gpu: Gpu = plan.gpu().clone();
    let (kind, largest) = match format {
        WeightFormat::F32 => (FillKind::F32, 1.0),
        WeightFormat::F16 => (FillKind::F16, 1.0),
        WeightFormat::Quantised(Quant::Q8) => (FillKind::Q8, Quant::Q8.largest()),
        WeightFormat::Quantised(Quant::Q4) => (FillKind::Q4, Quant::Q4.largest()),
    };
    let row_words = row_bytes(format, k) / 4;
    let rows = part_rows(&gpu, label, size, 4 * row_words)?;
    let mut parts = Vec::new();
    for row_start in (0..n).step_by(rows) {
        let in_part = rows.min(n - row_start);
        let values = Values { low: -bound, high: bound, seed: seed ^ (row_start as u32).wrapping_mul(0x9e37_79b9) };
        let words = in_part * row_words;
        let tensor = Tensor::zeros(&gpu, label, words)?;
        fill(plan, &tensor, words, &values.fill(kind, row_words, k))?;
        let scales = match format.quant() {
            None => None,
            Some(_) => {
                let words = (in_part * k.div_ceil(BLOCK)).div_ceil(2);
                let scales = Tensor::zeros(&gpu, &format!("{label}.scales"), words)?;
                // A bf16: the upper half of an f32.
                let least = f32::from_bits((bound / largest).to_bits() & 0xffff_0000);
                let least = Fill { low: least, ..values.fill(FillKind::Scales, words, 2 * words) };
                fill(plan, &scales, words, &least)?;
                Some(scales)
            }
        };
        parts.push(WeightPart { tensor, scales, row_start, rows: in_part });
    }
    Ok(WeightMatrix::from_parts(parts, (n, k), format))
}
