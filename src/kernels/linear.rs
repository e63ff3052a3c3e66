//! matmul.wgsl and matvec.wgsl, and the weight matrices they read.

use crate::gpu::plan::grid;
use crate::gpu::selftest::Variant;
use crate::gpu::shader::{ShaderSpec, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
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

/// A weight matrix (n, k) on the device: rows padded with zeros to quads (those that are quantised to whole blocks of 32),
/// split by rows where it is larger than the adapter lets a shader see at once (a 50,280 x 768 embedding in f32 against
/// 128 MiB). Where a row of the formats lies, shared/weight_*.wgsl say; of the quantised ones it is byte by byte what a
/// checkpoint holds (docs/quantisation.md).
#[derive(Debug, Clone)]
pub struct WeightMatrix {
    parts: Vec<Part>,
    n: usize,
    k: usize,
    format: WeightFormat,
}

/// Bytes of f32 that an upload turns over at once.
const UPLOAD_BYTES: usize = 16 << 20;

/// Quads of a row on the device.
fn quads(format: WeightFormat, k: usize) -> usize {
    match format.quant() {
        Some(_) => k.div_ceil(BLOCK) * (BLOCK / 4),
        None => k.div_ceil(4),
    }
}

/// Bytes of a row on the device, without scales; a multiple of 8.
fn row_bytes(format: WeightFormat, k: usize) -> usize {
    match format {
        WeightFormat::F32 => 16 * k.div_ceil(4),
        WeightFormat::F16 => 8 * k.div_ceil(4),
        WeightFormat::Q8 => Quant::Q8.row_bytes(k),
        WeightFormat::Q4 => Quant::Q4.row_bytes(k),
    }
}

impl WeightMatrix {
    /// Uploads n rows of k values, asking `rows` for some of them at a time. A quantised format rounds them here.
    ///
    /// # Errors
    /// Those of `rows`, and a row larger than the adapter's limit a binding.
    pub fn upload<E: From<GpuError>>(
        gpu: &Gpu,
        label: &str,
        (n, k): (usize, usize),
        format: WeightFormat,
        mut rows: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        Self::build(gpu, label, (n, k), format, |range, out| {
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
    pub fn upload_quantised<'a, E: From<GpuError>>(
        gpu: &Gpu,
        label: &str,
        (n, k): (usize, usize),
        quant: Quant,
        mut rows: impl FnMut(Range<usize>) -> Result<(&'a [u8], &'a [u8]), E>,
    ) -> Result<Self, E> {
        Self::build(gpu, label, (n, k), quant.into(), |range, out| {
            let (packed, scales) = rows(range)?;
            out.packed.extend_from_slice(packed);
            out.scales.extend_from_slice(scales);
            Ok(())
        })
    }

    fn build<E: From<GpuError>>(
        gpu: &Gpu,
        label: &str,
        (n, k): (usize, usize),
        format: WeightFormat,
        mut rows: impl FnMut(Range<usize>, &mut Staged) -> Result<(), E>,
    ) -> Result<Self, E> {
        let row = row_bytes(format, k);
        let (bytes, limit) = (row as u64, gpu.max_binding());
        if bytes > limit {
            let (kernel, label) = ("matmul".to_owned(), label.to_owned());
            return Err(GpuError::BindingTooLarge { kernel, label, bytes, limit }.into());
        }
        let part_rows = ((limit / bytes.max(1)) as usize).clamp(1, n.max(1));
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
        Ok(Self { parts, n, k, format })
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
}

/// Rows on their way to the device.
#[derive(Default)]
struct Staged {
    packed: Vec<u8>,
    scales: Vec<u8>,
}

/// Rows of k values to rows of whole quads, zeros behind.
fn pad<const N: usize>(values: &[f32], k: usize, bytes: impl Fn(f32) -> [u8; N], out: &mut Staged) {
    let out = &mut out.packed;
    out.reserve(values.len() / k.max(1) * k.next_multiple_of(4) * N);
    for row in values.chunks_exact(k.max(1)) {
        out.extend(row.iter().flat_map(|&x| bytes(x)));
        out.resize(out.len().next_multiple_of(4 * N), 0);
    }
}

/// Where a linear layer reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Tokens.
    pub l: usize,
    /// Columns of x, of which the first k are read.
    pub x_stride: usize,
    /// Columns of y.
    pub y_stride: usize,
    /// Whether softplus comes after the bias (dt_proj).
    pub softplus: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    k: u32,
    n: u32,
    k4: u32,
    x_stride: u32,
    y_stride: u32,
    y_offset: u32,
    bias_offset: u32,
    d_conv: u32,
    eps: f32,
}

/// What a linear layer reads: shared/linear.wgsl.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    Plain {
        x: &'a Tensor,
    },
    /// RMSNorm of the residual stream, made as it is read.
    Norm {
        residual: &'a Tensor,
        weight: &'a Tensor,
        eps: f32,
    },
    /// The causal convolution's output, made as it is read.
    Conv {
        xz: &'a Tensor,
        conv_state: &'a Tensor,
        channels: &'a Tensor,
        d_conv: usize,
    },
}

impl Input<'_> {
    fn flag(&self) -> &'static str {
        match self {
            Input::Plain { .. } => "PLAIN",
            Input::Norm { .. } => "NORM",
            Input::Conv { .. } => "CONV",
        }
    }
}

pub(super) fn matmul_spec(format: WeightFormat, bias: bool, softplus: bool) -> ShaderSpec {
    ShaderSpec::new("matmul").weight(format).flag("PLAIN", true).flag("BIAS", bias).flag("SOFTPLUS", softplus)
}

/// How matvec is laid out: invocations a workgroup, and invocations that share a row (a multiple of 8).
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    wg: u32,
    span: u32,
}

/// Fewer share a short row, so that each has a few quads to multiply before its sum is added up with the others'.
pub(super) const LAYOUTS: [Layout; 3] =
    [Layout { wg: 64, span: 8 }, Layout { wg: 64, span: 16 }, Layout { wg: 64, span: 32 }];
/// For few rows whose input costs much to make (CONV): as many invocations as there can be for each.
pub(super) const CONV_LAYOUT: Layout = Layout { wg: 256, span: 256 };

fn layout(k4: usize) -> Layout {
    match k4 {
        0..=64 => LAYOUTS[0],
        65..=256 => LAYOUTS[1],
        _ => LAYOUTS[2],
    }
}

pub(super) fn matvec_spec(
    format: WeightFormat,
    input: &'static str,
    (bias, softplus, add): (bool, bool, bool),
    layout: Layout,
) -> ShaderSpec {
    let spec = ShaderSpec::new("matvec").weight(format).constant("WG", layout.wg).constant("SPAN", layout.span);
    let spec = spec.flag(input, true);
    spec.flag("BIAS", bias).flag("SOFTPLUS", softplus).flag("ADD", add)
}

fn record(
    plan: &mut PlanBuilder<'_>,
    spec: ShaderSpec,
    (input, w, bias, y): (Input<'_>, &WeightMatrix, Option<&Tensor>, &Tensor),
    shape: Linear,
    groups: impl Fn(&Part) -> [u64; 2],
) -> Result<(), GpuError> {
    let (mut bindings, d_conv, eps) = match input {
        Input::Plain { x } => (vec![(2, x)], 0, 0.0),
        Input::Norm { residual, weight, eps } => (vec![(2, residual), (5, weight)], 0, eps),
        Input::Conv { xz, conv_state, channels, d_conv } => {
            (vec![(2, xz), (5, conv_state), (6, channels)], d_conv, 0.0)
        }
    };
    bindings.push((3, y));
    bindings.extend(bias.map(|b| (4, b)));
    for part in &w.parts {
        let params = Params {
            l: shape.l as u32,
            k: w.k as u32,
            n: part.rows as u32,
            k4: w.k4() as u32,
            x_stride: shape.x_stride as u32,
            y_stride: shape.y_stride as u32,
            y_offset: part.row_start as u32,
            bias_offset: part.row_start as u32,
            d_conv: d_conv as u32,
            eps,
        };
        let bindings: Vec<_> = bindings.iter().copied().chain(part.bindings()).collect();
        plan.dispatch(spec.clone(), &params, &bindings, groups(part))?;
    }
    Ok(())
}

/// A matvec of any input; `add`: y += instead of y =.
pub(super) fn any_matvec(
    plan: &mut PlanBuilder<'_>,
    input: Input<'_>,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
    (shape, add): (Linear, bool),
) -> Result<(), GpuError> {
    let layout = match input {
        Input::Conv { .. } => CONV_LAYOUT,
        _ => layout(w.k4()),
    };
    let spec = matvec_spec(w.format, input.flag(), (bias.is_some(), shape.softplus, add), layout);
    let limit = plan.gpu().limits().max_compute_workgroups_per_dimension;
    let rows = (4 * layout.wg / layout.span) as usize;
    record(plan, spec, (input, w, bias, y), shape, |part| grid(part.rows, rows, limit))
}

/// y (L, n) = x (L, k) w^T + bias, tiled: for many tokens.
pub fn matmul(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
    shape: Linear,
) -> Result<(), GpuError> {
    let spec = matmul_spec(w.format, bias.is_some(), shape.softplus);
    record(plan, spec, (Input::Plain { x }, w, bias, y), shape, |part| {
        [part.rows.div_ceil(64) as u64, shape.l.div_ceil(64) as u64]
    })
}

/// The same for one token (`shape.l` is 1).
pub fn matvec(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
    shape: Linear,
) -> Result<(), GpuError> {
    any_matvec(plan, Input::Plain { x }, w, bias, y, (shape, false))
}

/// [`matvec`] for one token (unless the self-test switched it off), [`matmul`] for more.
pub fn linear(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
    shape: Linear,
) -> Result<(), GpuError> {
    if shape.l == 1 && plan.gpu().allows(Variant::Matvec) {
        matvec(plan, x, w, bias, y, shape)
    } else {
        matmul(plan, x, w, bias, y, shape)
    }
}
