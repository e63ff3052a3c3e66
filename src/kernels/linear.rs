//! matmul.wgsl, matmul_coop.wgsl, matmul_split.wgsl, matmul_few.wgsl with matmul_sum.wgsl, and matvec.wgsl.

use super::weights::{row_bytes, Part, WeightMatrix, UNIT_BYTES};
use super::WATCH;
use crate::gpu::plan::grid;
use crate::gpu::shader::{NumberFormat, ShaderSpec, WeightFormat};
use crate::gpu::Variant;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

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
    eps: f32,
    conv_first: u32,
    conv_count: u32,
    split: u32,
}

impl Params {
    /// For a part of w, without what only some kernels read.
    fn new(w: &WeightMatrix, part: &Part, shape: Linear) -> Self {
        Self {
            l: shape.l as u32,
            k: w.k() as u32,
            n: part.rows as u32,
            k4: w.k4() as u32,
            x_stride: shape.x_stride as u32,
            y_stride: shape.y_stride as u32,
            y_offset: part.row_start as u32,
            bias_offset: part.row_start as u32,
            eps: 0.0,
            conv_first: 0,
            conv_count: 0,
            split: 0,
        }
    }
}

/// What matvec reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    Plain(&'a Tensor),
    /// RMSNorm of the residual stream, made as it is read.
    Norm {
        residual: &'a Tensor,
        weight: &'a Tensor,
        eps: f32,
    },
}

/// What matvec does with its sums, besides bias and softplus.
#[derive(Debug, Clone, Copy)]
pub(super) enum Output<'a> {
    Set,
    Add,
    /// in_proj: rows `first` to `first + count` go through the convolution, whose state moves on.
    Conv {
        conv_state: &'a Tensor,
        channels: &'a Tensor,
        d_conv: usize,
        first: usize,
        count: usize,
    },
}

fn tiled_spec(
    name: &'static str,
    format: WeightFormat,
    (bias, softplus): (bool, bool),
    (x, y): (NumberFormat, NumberFormat),
) -> ShaderSpec {
    let spec = ShaderSpec::new(name).weight(format).flag("BIAS", bias).flag("SOFTPLUS", softplus);
    spec.number("x_t", x).number("y_t", y)
}

/// A tile of matmul.wgsl: tokens by outputs, and into how many parts k is split among a workgroup's invocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    tokens: u32,
    outputs: u32,
    parts: u32,
}

impl Tile {
    pub(super) const MANY: Tile = Tile { tokens: 64, outputs: 64, parts: 1 };
    /// By tokens. With more parts or outputs they would not fit into 16 KiB of workgroup memory.
    pub(super) const FEW: [Tile; 3] = [
        Tile { tokens: 16, outputs: 16, parts: 4 },
        Tile { tokens: 32, outputs: 16, parts: 4 },
        Tile { tokens: 64, outputs: 32, parts: 2 },
    ];

    /// Workgroups that keep a device busy.
    const ENOUGH: usize = 256;

    /// For l tokens and n outputs: up to 64 tokens are one row of tiles, which a smaller matrix has too few of unless they are small and
    /// k is split. In software barriers cost more than that brings.
    pub(super) fn of(software: bool, l: usize, n: usize) -> Self {
        let enough = software || n.div_ceil(Self::MANY.outputs as usize) >= Self::ENOUGH;
        let few = Self::FEW.into_iter().find(|tile| l <= tile.tokens as usize);
        few.filter(|tile| !enough || tile.tokens < 64).unwrap_or(Self::MANY)
    }
}

pub(super) fn matmul_spec(
    format: WeightFormat,
    epilogue: (bool, bool),
    numbers: (NumberFormat, NumberFormat),
    tile: Tile,
) -> ShaderSpec {
    let spec = tiled_spec("matmul", format, epilogue, numbers).flag("FEW", tile.parts > 1);
    spec.constant("TOKENS", tile.tokens).constant("OUTPUTS", tile.outputs).constant("PARTS", tile.parts)
}

pub(super) fn matmul_coop_spec(
    format: WeightFormat,
    epilogue: (bool, bool),
    numbers: (NumberFormat, NumberFormat),
    direct: bool,
) -> ShaderSpec {
    let spec = tiled_spec("matmul_coop", format, epilogue, numbers).cooperative();
    spec.flag("DIRECT", direct).flag("STRIPS", !direct)
}

pub(super) fn matmul_split_spec(format: WeightFormat) -> ShaderSpec {
    ShaderSpec::new("matmul_split").weight(format).cooperative()
}

/// How matvec is laid out over a matrix: matvec.wgsl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    wg: u32,
    span: u32,
    rows: u32,
    unroll: u32,
}

impl Layout {
    /// Invocations over a matrix from which on a GPU's memory is busy: below, more of them share a row; far above, each
    /// takes two rows, so that x is read half as often.
    const ENOUGH: usize = 98_304;
    /// Units of a row in flight in one invocation.
    const UNROLL: usize = 5;

    pub(super) fn new(software: bool, format: WeightFormat, n: usize, k: usize) -> Self {
        let units = (row_bytes(format, k) / UNIT_BYTES).max(1);
        // A unit of q4 comes with eight quads of x: more than a few of them do not stay in registers.
        let unroll = if format == WeightFormat::Q4 { 2 } else { Self::UNROLL };
        let mut span = units.div_ceil(unroll).next_power_of_two().clamp(8, 256);
        let mut rows = 8;
        if software {
            // Loads cost the same from wherever, barriers much: narrow spans, many rows, nothing in flight.
            span = span.min(32);
        } else {
            while span < 256 && span < units && n * span < Self::ENOUGH {
                span *= 2;
            }
            // A unit of a quantised row comes with more of x, which more rows then share.
            rows = match format {
                WeightFormat::Q4 if n >= 1024 => 4,
                WeightFormat::Q8 if n >= 1024 => 2,
                _ if n * span >= 2 * Self::ENOUGH => 2,
                _ => 1,
            };
        }
        let wg = span.max(if software { 64 } else { 128 });
        let unroll = if software { 1 } else { units.div_ceil(span).min(unroll) };
        Self { wg: wg as u32, span: span as u32, rows, unroll: unroll as u32 }
    }

    fn group_rows(&self) -> usize {
        (self.rows * self.wg / self.span) as usize
    }
}

pub(super) fn matvec_spec(
    format: WeightFormat,
    input: &'static str,
    (bias, softplus): (bool, bool),
    layout: Layout,
) -> ShaderSpec {
    let spec = ShaderSpec::new("matvec").weight(format).flag(input, true);
    let spec = spec.flag("BIAS", bias).flag("SOFTPLUS", softplus).constant("WG", layout.wg);
    let spec = spec.number("x_t", NumberFormat::F32);
    spec.constant("SPAN", layout.span).constant("ROWS", layout.rows).constant("UNROLL", layout.unroll)
}

fn record(
    plan: &mut PlanBuilder<'_>,
    spec: ShaderSpec,
    (bindings, w, y): (Vec<(u32, &Tensor)>, &WeightMatrix, &Tensor),
    (shape, eps, conv): (Linear, f32, (usize, usize)),
    groups: impl Fn(&Part) -> [u64; 2],
) -> Result<(), GpuError> {
    for part in w.parts() {
        let (conv_first, conv_count) = (conv.0 as u32, conv.1 as u32);
        let params = Params { eps, conv_first, conv_count, ..Params::new(w, part, shape) };
        let bindings: Vec<_> = bindings.iter().copied().chain(part.bindings()).chain([(3, y)]).collect();
        plan.dispatch(spec.clone(), &params, &bindings, groups(part))?;
    }
    Ok(())
}

/// A matvec of any input and output.
pub(super) fn any_matvec(
    plan: &mut PlanBuilder<'_>,
    input: Input<'_>,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    (y, output): (&Tensor, Output<'_>),
    shape: Linear,
) -> Result<(), GpuError> {
    let layout = Layout::new(plan.gpu().software(), w.format(), w.n(), w.k());
    let (flag, mut bindings, eps) = match input {
        Input::Plain(x) if w.k().is_multiple_of(4) => ("WHOLE", vec![(2, x)], 0.0),
        Input::Plain(x) => ("PLAIN", vec![(2, x)], 0.0),
        Input::Norm { residual, weight, eps } => ("NORM", vec![(2, residual), (5, weight)], eps),
    };
    let mut spec = matvec_spec(w.format(), flag, (bias.is_some(), shape.softplus), layout);
    bindings.extend(bias.map(|b| (4, b)));
    let mut conv = (0, 0);
    match output {
        Output::Set => {}
        Output::Add => spec = spec.flag("ADD", true),
        Output::Conv { conv_state, channels, d_conv, first, count } => {
            conv = (first, count);
            spec = spec.flag("CONV", true).constant("D_CONV", d_conv as u32);
            bindings.extend([(6, channels), (8, conv_state)]);
        }
    }
    let limit = plan.gpu().limits().max_compute_workgroups_per_dimension;
    record(plan, spec, (bindings, w, y), (shape, eps, conv), |part| grid(part.rows, layout.group_rows(), limit))
}

/// matmul_coop.wgsl: tokens and outputs of a tile. Where y has rows for whole tiles, what is past the last token is overwritten.
pub const COOP_TILE: usize = 128;

/// Whether a product is for cooperative matrices, which round x and w to f16: where activations are f16 already and the weights
/// no finer, and rows can be read in quads.
fn cooperates(gpu: &Gpu, w: &WeightMatrix, (x, y): (NumberFormat, NumberFormat), shape: Linear) -> bool {
    let whole = w.k().is_multiple_of(4) && shape.x_stride.is_multiple_of(4);
    let coarse = w.format() != WeightFormat::F32 && (x == NumberFormat::F16 || y == NumberFormat::F16);
    whole && coarse && gpu.cooperative() && gpu.allows(Variant::CooperativeMatrix)
}

/// Whether a product of f32 by f32 is for cooperative matrices all the same, each factor as two halves: for more than a few
/// tokens, and rows that can be read in quads.
fn splits(gpu: &Gpu, w: &WeightMatrix, numbers: (NumberFormat, NumberFormat), shape: Linear) -> bool {
    let plain = numbers == (NumberFormat::F32, NumberFormat::F32);
    let whole = w.k().is_multiple_of(4) && shape.x_stride.is_multiple_of(4);
    plain && whole && shape.l > SPLIT_TOKENS && gpu.cooperative() && gpu.allows(Variant::SplitMatrix)
}

/// Fewer tokens would leave most of [`COOP_TILE`] idle.
const SPLIT_TOKENS: usize = 48;

/// How matmul_few.wgsl is laid out over some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Few {
    tokens: u32,
    slice: u32, // quads along k
}

impl Few {
    /// Tokens of a tile.
    pub(super) const TOKENS: [u32; 3] = [16, 32, 64];
    /// Outputs of a tile, and subgroups that share k.
    const OUTPUTS: usize = 32;
    const PARTS: usize = 4;
    /// Workgroups that keep a device busy: with fewer tiles than that, k is split among several.
    const ENOUGH: usize = 400;

    /// Where a product is for it: f32 by f32, rows that can be read in quads.
    fn of(gpu: &Gpu, w: &WeightMatrix, numbers: (NumberFormat, NumberFormat), shape: Linear) -> Option<Self> {
        let plain = numbers == (NumberFormat::F32, NumberFormat::F32);
        let whole = w.k().is_multiple_of(4) && shape.x_stride.is_multiple_of(4);
        let fits = plain && whole && gpu.cooperative() && gpu.allows(Variant::FewTokens);
        let tokens = Self::TOKENS.into_iter().find(|&tokens| fits && shape.l <= tokens as usize)?;
        Some(Self::new(tokens, w.format()))
    }

    /// A slice as long as fits into 48 KiB of workgroup memory.
    pub(super) fn new(tokens: u32, format: WeightFormat) -> Self {
        let halves = if format == WeightFormat::F16 { 1 } else { 2 };
        Self { tokens, slice: if tokens + 16 * halves <= 48 { 8 } else { 4 } }
    }

    /// Quads along k that a split takes, and splits.
    fn split(self, quads: usize, n: usize) -> (usize, usize) {
        let round = Self::PARTS * self.slice as usize;
        let rounds = quads.div_ceil(round);
        // Two rounds at least: what is read ahead in the first is used in the second.
        let splits = (Self::ENOUGH / n.div_ceil(Self::OUTPUTS).max(1)).clamp(1, (rounds / 2).max(1));
        let each = rounds.div_ceil(splits);
        (each * round, rounds.div_ceil(each.max(1)).max(1))
    }
}

pub(super) fn matmul_few_spec(
    format: WeightFormat,
    (bias, softplus): (bool, bool),
    partial: bool,
    few: Few,
) -> ShaderSpec {
    let spec = ShaderSpec::new("matmul_few").weight(format).cooperative().flag("PARTIAL", partial);
    let spec = spec.flag("W_LOW", format != WeightFormat::F16).flag("BIAS", bias).flag("SOFTPLUS", softplus);
    spec.constant("TOKENS", few.tokens).constant("DOWN", few.tokens / 16).constant("SLICE", few.slice)
}

pub(super) fn matmul_sum_spec((bias, softplus): (bool, bool)) -> ShaderSpec {
    ShaderSpec::new("matmul_sum").flag("BIAS", bias).flag("SOFTPLUS", softplus)
}

/// matmul for few tokens.
fn matmul_few(
    plan: &mut PlanBuilder<'_>,
    (x, w, bias, y): (&Tensor, &WeightMatrix, Option<&Tensor>, &Tensor),
    few: Few,
    shape: Linear,
) -> Result<(), GpuError> {
    let epilogue = (bias.is_some(), shape.softplus);
    let bias = bias.map(|bias| (4, bias));
    for part in w.parts() {
        let (split, splits) = few.split(w.k().div_ceil(4), part.rows);
        let params = Params { split: split as u32, ..Params::new(w, part, shape) };
        let groups = [part.rows.div_ceil(Few::OUTPUTS) as u64, splits as u64];
        let input: Vec<_> = part.bindings().into_iter().chain([(2, x)]).collect();
        if splits == 1 {
            let bindings: Vec<_> = input.into_iter().chain(bias).chain([(3, y)]).collect();
            plan.dispatch(matmul_few_spec(w.format(), epilogue, false, few), &params, &bindings, groups)?;
            continue;
        }
        let partial = plan.scratch(splits * shape.l * part.rows)?;
        let bindings: Vec<_> = input.into_iter().chain([(3, &partial)]).collect();
        plan.dispatch(matmul_few_spec(w.format(), (false, false), true, few), &params, &bindings, groups)?;
        let params = Params { split: splits as u32, ..params };
        let bindings: Vec<_> = [(2, &partial), (3, y)].into_iter().chain(bias).collect();
        plan.dispatch_flat(matmul_sum_spec(epilogue), &params, &bindings, shape.l * part.rows, 64)?;
    }
    Ok(())
}

/// y (L, n) = x (L, k) w^T + bias, tiled: for many tokens. x and y may be f16. By cooperative matrices where the
/// adapter has them: for matrices of f16 or coarser and x or y in f16, fastest into an f32 y of whole [`COOP_TILE`]s of
/// rows, those past the last token being scratch; for x and y in f32 (matmul_split) into such a y only, and without
/// bias or softplus. Never for an x that is marked as wide.
pub fn matmul(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
    shape: Linear,
) -> Result<(), GpuError> {
    let (epilogue, numbers) = ((bias.is_some(), shape.softplus), (x.format(), y.format()));
    if let Some(few) = Few::of(plan.gpu(), w, numbers, shape) {
        return matmul_few(plan, (x, w, bias, y), few, shape);
    }
    let whole_rows = y.elements() >= shape.l.next_multiple_of(COOP_TILE) * shape.y_stride;
    let whole = whole_rows && w.parts().iter().all(|part| part.rows.is_multiple_of(COOP_TILE));
    let direct = whole && epilogue == (false, false) && numbers.1 == NumberFormat::F32;
    let (spec, (tokens, outputs)) = if !x.wide() && cooperates(plan.gpu(), w, numbers, shape) {
        (matmul_coop_spec(w.format(), epilogue, numbers, direct), (COOP_TILE, COOP_TILE))
    } else if direct && !x.wide() && splits(plan.gpu(), w, numbers, shape) {
        (matmul_split_spec(w.format()), (COOP_TILE, COOP_TILE))
    } else {
        let tile = Tile::of(plan.gpu().software(), shape.l, w.n());
        (matmul_spec(w.format(), epilogue, numbers, tile), (tile.tokens as usize, tile.outputs as usize))
    };
    // Where x is rounded to f16 here and was watched by nobody as it was stored.
    let beyond = x.watch().filter(|_| spec.name == "matmul_coop" && numbers.0 == NumberFormat::F32);
    let spec = spec.flag("WATCH", beyond.is_some());
    let mut bindings = vec![(2, x)];
    bindings.extend(bias.map(|b| (4, b)));
    bindings.extend(beyond.map(|flag| (WATCH, flag)));
    record(plan, spec, (bindings, w, y), (shape, 0.0, (0, 0)), |part| {
        [part.rows.div_ceil(outputs) as u64, shape.l.div_ceil(tokens) as u64]
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
    any_matvec(plan, Input::Plain(x), w, bias, (y, Output::Set), shape)
}

/// [`matvec`] for one token in f32 (unless the self-test switched it off), [`matmul`] for others.
pub fn linear(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
    shape: Linear,
) -> Result<(), GpuError> {
    let f32s = (x.format(), y.format()) == (NumberFormat::F32, NumberFormat::F32);
    if shape.l == 1 && f32s && plan.gpu().allows(Variant::Matvec) {
        matvec(plan, x, w, bias, y, shape)
    } else {
        matmul(plan, x, w, bias, y, shape)
    }
}
