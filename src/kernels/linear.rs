//! matmul.wgsl and matvec.wgsl, and the weight matrices they read.

use crate::gpu::plan::grid;
use crate::gpu::selftest::Variant;
use crate::gpu::shader::{ShaderSpec, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use std::ops::Range;

/// A run of a matrix's rows, as large as one binding may be.
#[derive(Debug, Clone)]
pub struct Part {
    pub tensor: Tensor,
    pub row_start: usize,
    pub rows: usize,
}

/// A weight matrix (n, k) on the device: rows padded with zeros to quads, split by rows where it is larger than the
/// adapter lets a shader see at once (a 50,280 x 768 embedding in f32 against 128 MiB).
#[derive(Debug, Clone)]
pub struct WeightMatrix {
    parts: Vec<Part>,
    n: usize,
    k: usize,
    format: WeightFormat,
}

/// Bytes of f32 that an upload turns over at once.
const UPLOAD_BYTES: usize = 16 << 20;

impl WeightMatrix {
    /// Uploads n rows of k values, asking `rows` for some of them at a time.
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
        let k4 = k.div_ceil(4);
        let words = match format {
            WeightFormat::F32 => 4 * k4,
            WeightFormat::F16 => 2 * k4,
        };
        let limit = gpu.max_binding();
        let bytes = words as u64 * 4;
        if bytes > limit {
            let (kernel, label) = ("matmul".to_owned(), label.to_owned());
            return Err(GpuError::BindingTooLarge { kernel, label, bytes, limit }.into());
        }
        let part_rows = ((limit / bytes.max(1)) as usize).clamp(1, n.max(1));
        let batch = (UPLOAD_BYTES / (k.max(1) * 4)).clamp(1, part_rows);
        let mut parts = Vec::new();
        for row_start in (0..n).step_by(part_rows) {
            let in_part = part_rows.min(n - row_start);
            let tensor = Tensor::zeros(gpu, label, in_part * words)?;
            for at in (0..in_part).step_by(batch) {
                let count = batch.min(in_part - at);
                let values = rows(row_start + at..row_start + at + count)?;
                match format {
                    WeightFormat::F32 => tensor.write(gpu, at * words, &pad(&values, k, k4, |x| x)),
                    WeightFormat::F16 => tensor.write(gpu, at * words, &pad(&values, k, k4, half::f16::from_f32)),
                }
            }
            parts.push(Part { tensor, row_start, rows: in_part });
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
    /// Quads a row.
    pub fn k4(&self) -> usize {
        self.k.div_ceil(4)
    }
    pub fn format(&self) -> WeightFormat {
        self.format
    }
}

/// Rows of k values to rows of 4 k4, zeros behind.
fn pad<T: Clone + Default>(values: &[f32], k: usize, k4: usize, convert: impl Fn(f32) -> T) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len() / k.max(1) * 4 * k4);
    for row in values.chunks_exact(k.max(1)) {
        out.extend(row.iter().map(|&x| convert(x)));
        out.resize(out.len().next_multiple_of(4), T::default());
    }
    out
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
        let bindings: Vec<_> = bindings.iter().copied().chain([(1, &part.tensor)]).collect();
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
