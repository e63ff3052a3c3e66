//! matmul.wgsl, matmul_coop.wgsl, matmul_split.wgsl and matvec.wgsl; matmul_few.wgsl is in `few`.

use super::few::Few;
use super::weights::{row_bytes, Part, WeightMatrix, UNIT_BYTES};
use super::WATCH;
use crate::gpu::plan::grid;
use crate::gpu::shader::{NumberFormat, ShaderSpec, WeightFormat};
use crate::gpu::Variant;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::reference::Activation;

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
pub(super) struct Params {
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
    tile: u32,
    split: u32,
    whole_n: u32,
    gate_scale: f32,
    scale: f32,
    pub expert: u32,
    pub part: u32,
    pub tiles: u32,
    pub chosen: u32,
}

impl Params {
    /// For a part of w, without what only some kernels read.
    pub fn new(w: &WeightMatrix, part: &Part, shape: Linear) -> Self {
        Self {
            l: shape.l as u32,
            k: w.k() as u32,
            n: part.rows as u32,
            k4: w.k4() as u32,
            x_stride: shape.x_stride as u32,
            y_stride: shape.y_stride as u32,
            y_offset: (w.first() + part.row_start) as u32,
            bias_offset: (w.first() + part.row_start) as u32,
            eps: 0.0,
            conv_first: 0,
            conv_count: 0,
            tile: 0,
            split: 0,
            whole_n: w.n() as u32,
            gate_scale: 1.0,
            scale: 1.0,
            expert: 0,
            part: 0,
            tiles: 1,
            chosen: 1,
        }
    }

    /// What matvec multiplies by before and after an activation.
    pub fn scaled(self, act: Activate) -> Self {
        Self { gate_scale: act.gate_scale, scale: act.scale, ..self }
    }

    /// What NORM reads.
    pub fn normed(self, eps: f32) -> Self {
        Self { eps, ..self }
    }

    /// Of a part of w, an expert's rows.
    pub fn of_experts(self, rows: usize) -> Self {
        Self { n: rows as u32, y_offset: 0, ..self }
    }

    /// What matmul_few and matmul_sum read: shared/linear.wgsl.
    pub fn with_split(self, split: usize) -> Self {
        Self { split: split as u32, ..self }
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
    /// An MLP's up_proj: its activation.
    Activated(Activate),
}

/// f and what it is for: `scale f(x)`, or of rows whose first half are gates `scale f(gate_scale gate) x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activate {
    pub f: Activation,
    pub gated: bool,
    pub gate_scale: f32,
    pub scale: f32,
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

    /// Tokens and outputs.
    pub(super) fn size(self) -> [usize; 2] {
        [self.tokens as usize, self.outputs as usize]
    }

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

    /// For rows that go together in twos.
    pub(super) fn of_pairs(self) -> Self {
        Self { rows: self.rows.max(2), ..self }
    }

    /// Rows of w that a workgroup takes.
    pub(super) fn group_rows(&self) -> usize {
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
    (shape, set): (Linear, impl Fn(Params) -> Params),
    groups: impl Fn(&Part) -> [u64; 2],
) -> Result<(), GpuError> {
    for part in w.parts() {
        let params = set(Params::new(w, part, shape));
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
    let mut layout = Layout::new(plan.gpu().software(), w.format(), w.n(), w.k());
    let (flag, mut bindings, eps) = match input {
        Input::Plain(x) if w.k().is_multiple_of(4) => ("WHOLE", vec![(2, x)], 0.0),
        Input::Plain(x) => ("PLAIN", vec![(2, x)], 0.0),
        Input::Norm { residual, weight, eps } => ("NORM", vec![(2, residual), (5, weight)], eps),
    };
    let (mut conv, mut act, mut sides) = ((0, 0), None, 1);
    if let Output::Activated(Activate { gated: true, .. }) = output {
        sides = 2;
        layout = layout.of_pairs();
        let [Part { .. }] = w.parts() else {
            let (what, value, limit) = ("parts of gates and what they are for", w.parts().len(), 1);
            return Err(GpuError::Unsupported { kernel: "matvec", what, value, limit });
        };
    }
    let mut spec = matvec_spec(w.format(), flag, (bias.is_some(), shape.softplus), layout);
    spec = spec.flag("SCALED", bias.is_some_and(|bias| bias.elements() == 2 * w.n()));
    bindings.extend(bias.map(|b| (4, b)));
    match output {
        Output::Set => {}
        Output::Add => spec = spec.flag("ADD", true),
        Output::Conv { conv_state, channels, d_conv, first, count } => {
            conv = (first as u32, count as u32);
            spec = spec.flag("CONV", true).constant("D_CONV", d_conv as u32);
            bindings.extend([(6, channels), (8, conv_state)]);
        }
        Output::Activated(activation) => {
            spec = activated(spec, activation);
            act = Some(activation);
        }
    }
    let limit = plan.gpu().limits().max_compute_workgroups_per_dimension;
    let set = |params: Params| {
        let params = Params { eps, conv_first: conv.0, conv_count: conv.1, ..params };
        act.map_or(params, |act| params.scaled(act))
    };
    record(plan, spec, (bindings, w, y), (shape, set), |part| {
        grid(part.rows / sides, layout.group_rows() / sides, limit)
    })
}

pub(super) fn activated(spec: ShaderSpec, act: Activate) -> ShaderSpec {
    let spec = super::activate::flagged(spec, act.f).flag("ACTIVATION", true);
    spec.flag(if act.gated { "PAIR" } else { "ALONE" }, true)
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

/// Tiles that keep a large GPU busy for two rounds.
const WAVES: usize = 264;

/// Fewer tokens would leave most of [`COOP_TILE`] idle.
const SPLIT_TOKENS: usize = 48;

/// y (L, n) = x (L, k) w^T + bias, tiled: for many tokens. x and y may be f16. By cooperative matrices where the
/// adapter has them: for matrices of f16 or coarser and x or y in f16, fastest into an f32 y of whole [`COOP_TILE`]s of
/// rows, those past the last token being scratch; for x and y in f32 (matmul_split) into such a y only, and without
/// bias or softplus. Never for an x that is marked as wide, unless tokens are few (matmul_few).
pub fn matmul(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    w: &WeightMatrix,
    bias: Option<&Tensor>,
    y: &Tensor,
    shape: Linear,
) -> Result<(), GpuError> {
    let (epilogue, numbers) = ((bias.is_some(), shape.softplus), (x.format(), y.format()));
    let gpu = plan.gpu();
    if let Some(few) = Few::of(gpu, w, numbers, shape) {
        return few.matmul(plan, (x, w, bias, y), shape);
    }
    let whole_rows = y.elements() >= shape.l.next_multiple_of(COOP_TILE) * shape.y_stride;
    let direct = whole_rows && epilogue == (false, false) && numbers.1 == NumberFormat::F32;
    // Where what is left of a tile is a dispatch of its own, which takes one tile's time.
    let pays = |rows: usize| rows.is_multiple_of(COOP_TILE) || rows / COOP_TILE * shape.l.div_ceil(COOP_TILE) >= WAVES;
    let coop = !x.wide() && cooperates(gpu, w, numbers, shape);
    let split = !x.wide() && splits(gpu, w, numbers, shape);
    let tile = Tile::of(gpu.software(), shape.l, w.n());
    // What stores sums as they are, and for whole tiles only; what takes the rest.
    let whole = (direct && (coop || split)).then(|| match coop {
        true => (matmul_coop_spec(w.format(), epilogue, numbers, true), [COOP_TILE; 2]),
        false => (matmul_split_spec(w.format()), [COOP_TILE; 2]),
    });
    let rest = match coop {
        true => (matmul_coop_spec(w.format(), epilogue, numbers, false), [COOP_TILE; 2]),
        false => (matmul_spec(w.format(), epilogue, numbers, tile), tile.size()),
    };
    // Where x is rounded to f16 here and was watched by nobody as it was stored.
    let beyond = x.watch().filter(|_| coop && numbers.0 == NumberFormat::F32);
    let mut bindings = vec![(2, x), (3, y)];
    bindings.extend(bias.map(|b| (4, b)));
    bindings.extend(beyond.map(|flag| (WATCH, flag)));
    for part in w.parts() {
        let whole = whole.as_ref().filter(|_| pays(part.rows));
        let aligned = whole.map_or(0, |_| part.rows / COOP_TILE * COOP_TILE);
        for ((spec, [tokens, outputs]), rows) in
            whole.map(|whole| (whole, 0..aligned)).into_iter().chain([(&rest, aligned..part.rows)])
        {
            let params = Params { tile: (rows.start / outputs) as u32, ..Params::new(w, part, shape) };
            let bindings: Vec<_> = bindings.iter().copied().chain(part.bindings()).collect();
            let groups = [rows.len().div_ceil(*outputs) as u64, shape.l.div_ceil(*tokens) as u64];
            plan.dispatch(spec.clone().flag("WATCH", beyond.is_some()), &params, &bindings, groups)?;
        }
    }
    Ok(())
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
