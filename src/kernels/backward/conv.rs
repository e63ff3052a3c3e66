//! conv1d_backward.wgsl.

use super::sums::{sum_partials, Scratch, Sum};
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::kernels::conv1d::Params;
use crate::reference::ConvShape;

/// conv1d_backward.wgsl: tokens an invocation.
const TOKENS: usize = 32;
/// Taps that an invocation can keep in registers.
const MAX_TAPS: usize = 16;

fn spec(bias: bool, d_conv: usize) -> ShaderSpec {
    let spec = ShaderSpec::new("backward/conv1d_backward").flag("BIAS", bias).constant("D_CONV", d_conv as u32);
    spec.number("xz_t", NumberFormat::F32)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    vec![spec(true, 4), spec(false, 4), spec(true, 1), spec(false, 3)]
}

pub(super) fn partials(batch: usize, l: usize, d_inner: usize, d_conv: usize) -> usize {
    batch * l.div_ceil(TOKENS) * d_inner * (d_conv + 1)
}

/// The tensors of [`conv1d_backward`].
#[derive(Debug, Clone, Copy)]
pub struct Conv1dGrads<'a> {
    /// (rows, x_stride): x in the d_inner columns from x_offset on
    pub xz: &'a Tensor,
    /// (d_inner, d_conv)
    pub weight: &'a Tensor,
    /// (d_inner)
    pub bias: Option<&'a Tensor>,
    /// (rows, d_inner)
    pub grad_u: &'a Tensor,
    /// (rows, x_stride): the d_inner columns from x_offset on are set
    pub grad_xz: &'a Tensor,
    /// (d_inner, d_conv), added to
    pub grad_weight: &'a Tensor,
    /// (d_inner), added to; there if bias is
    pub grad_bias: Option<&'a Tensor>,
}

/// Through the SiLU and the convolution over `batch` sequences of `shape.l` tokens, which begin with zero states.
pub fn conv1d_backward(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    b: &Conv1dGrads<'_>,
    batch: usize,
    shape: ConvShape,
) -> Result<(), GpuError> {
    let ConvShape { l, d_inner, d_conv, .. } = shape;
    if d_conv > MAX_TAPS {
        let (kernel, limit) = ("conv1d_backward", MAX_TAPS);
        return Err(GpuError::Unsupported { kernel, what: "d_conv", value: d_conv, limit });
    }
    let runs = batch * l.div_ceil(TOKENS);
    let room = scratch.room("conv1d_backward", partials(batch, l, d_inner, d_conv))?;
    let mut bindings = vec![(1, b.xz), (2, b.weight), (3, b.grad_u), (4, b.grad_xz), (5, room)];
    bindings.extend(b.bias.map(|bias| (6, bias)));
    let params = Params::new(shape, batch);
    plan.dispatch_flat(spec(b.bias.is_some(), d_conv), &params, &bindings, runs * d_inner, 64)?;
    sum_partials(plan, room, b.grad_weight, Sum::dense(runs, 0, d_inner * d_conv), true)?;
    if let (Some(_), Some(grad_bias)) = (b.bias, b.grad_bias) {
        sum_partials(plan, room, grad_bias, Sum::dense(runs, runs * d_inner * d_conv, d_inner), true)?;
    }
    Ok(())
}
