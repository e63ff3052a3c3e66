//! conv1d.wgsl, conv1d_state.wgsl and conv1d_update.wgsl.

use super::WATCH;
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::reference::ConvShape;

/// The tensors of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Conv1d<'a> {
    /// (L, x_stride): x is the d_inner columns from x_offset on
    pub xz: &'a Tensor,
    /// (d_conv, d_inner): the last d_conv inputs, oldest first
    pub conv_state: &'a Tensor,
    /// (d_inner, d_conv)
    pub weight: &'a Tensor,
    /// (d_inner)
    pub bias: Option<&'a Tensor>,
    /// (L, d_inner)
    pub u: &'a Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    l: u32,
    d_inner: u32,
    d_conv: u32,
    x_stride: u32,
    batch: u32,
    x_offset: u32,
}

impl Params {
    pub(super) fn new(shape: ConvShape, batch: usize) -> Self {
        Params {
            l: shape.l as u32,
            d_inner: shape.d_inner as u32,
            d_conv: shape.d_conv as u32,
            x_stride: shape.x_stride as u32,
            batch: batch as u32,
            x_offset: shape.x_offset as u32,
        }
    }
}

impl<'a> Conv1d<'a> {
    fn bindings(&self) -> Vec<(u32, &'a Tensor)> {
        let mut bindings = vec![(1, self.xz), (2, self.conv_state), (3, self.weight), (4, self.u)];
        bindings.extend(self.bias.map(|b| (5, b)));
        bindings
    }
}

/// conv1d.wgsl: tokens an invocation.
const TOKENS: usize = 4;

pub(super) fn spec(bias: bool, (xz, u): (NumberFormat, NumberFormat)) -> ShaderSpec {
    ShaderSpec::new("conv1d").flag("BIAS", bias).number("xz_t", xz).number("act", u)
}
pub(super) fn state_spec(xz: NumberFormat) -> ShaderSpec {
    ShaderSpec::new("conv1d_state").number("xz_t", xz)
}
pub(super) fn update_spec(bias: bool) -> ShaderSpec {
    ShaderSpec::new("conv1d_update").flag("BIAS", bias)
}

/// u = silu(conv(x) + bias) over a chunk, conv_state is read only: [`conv1d_state`] follows.
pub fn conv1d(plan: &mut PlanBuilder<'_>, conv: &Conv1d<'_>, shape: ConvShape) -> Result<(), GpuError> {
    conv1d_batch(plan, conv, 1, shape)
}

/// The same over `batch` sequences of `shape.l` tokens, one after the other in xz and u, with a conv_state (batch, d_conv, d_inner).
pub fn conv1d_batch(
    plan: &mut PlanBuilder<'_>,
    conv: &Conv1d<'_>,
    batch: usize,
    shape: ConvShape,
) -> Result<(), GpuError> {
    let (params, items) = (Params::new(shape, batch), batch * shape.l.div_ceil(TOKENS) * shape.d_inner);
    let spec = spec(conv.bias.is_some(), (conv.xz.format(), conv.u.format())).flag("WATCH", conv.u.watch().is_some());
    let mut bindings = conv.bindings();
    bindings.extend(conv.u.watch().map(|flag| (WATCH, flag)));
    plan.dispatch_flat(spec, &params, &bindings, items, 256)
}

/// conv_state becomes the last d_conv inputs after the chunk.
pub fn conv1d_state(plan: &mut PlanBuilder<'_>, conv: &Conv1d<'_>, shape: ConvShape) -> Result<(), GpuError> {
    conv1d_state_batch(plan, conv, 1, shape)
}

/// The same for every sequence.
pub fn conv1d_state_batch(
    plan: &mut PlanBuilder<'_>,
    conv: &Conv1d<'_>,
    batch: usize,
    shape: ConvShape,
) -> Result<(), GpuError> {
    let (bindings, items) = ([(1, conv.xz), (2, conv.conv_state)], batch * shape.d_inner);
    plan.dispatch_flat(state_spec(conv.xz.format()), &Params::new(shape, batch), &bindings, items, 64)
}

/// The tensors of a convolution's step.
#[derive(Debug, Clone, Copy)]
pub struct ConvStep<'a> {
    /// (rows, x_stride), x in some of its columns; u = silu(conv(x) + bias) in their place afterwards
    pub xz: &'a Tensor,
    /// (slots, d_conv, d_inner): the last d_conv inputs, oldest first
    pub conv_state: &'a Tensor,
    /// (d_inner, d_conv)
    pub weight: &'a Tensor,
    /// (d_inner)
    pub bias: Option<&'a Tensor>,
}

/// conv1d_update.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StepParams {
    rows: u32,
    d_inner: u32,
    d_conv: u32,
    x_stride: u32,
    x_offset: u32,
}

/// A token of each of some texts (`shape.l` rows) through the convolution, in place, and their states moved on. `texts`:
/// [`super::TEXT`].
pub fn conv1d_update(
    plan: &mut PlanBuilder<'_>,
    conv: &ConvStep<'_>,
    texts: &Tensor,
    shape: ConvShape,
) -> Result<(), GpuError> {
    let params = StepParams {
        rows: shape.l as u32,
        d_inner: shape.d_inner as u32,
        d_conv: shape.d_conv as u32,
        x_stride: shape.x_stride as u32,
        x_offset: shape.x_offset as u32,
    };
    let mut bindings = vec![(1, conv.xz), (2, conv.conv_state), (3, conv.weight), (4, texts)];
    bindings.extend(conv.bias.map(|b| (5, b)));
    plan.dispatch_flat(update_spec(conv.bias.is_some()), &params, &bindings, shape.l * shape.d_inner, 64)
}
