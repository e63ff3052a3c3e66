//! matmul_grad.wgsl: both sides of a linear layer's gradient.

use super::sums::{sum_partials, Scratch, Sum};
use crate::gpu::shader::{ShaderSpec, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::WeightMatrix;

const TILE: usize = 64;
/// Workgroups from which on a GPU is busy: below, long sums are cut into parts.
const ENOUGH: usize = 256;
/// Terms that a part has at least.
const MIN_RUN: usize = 256;

/// A zeroed matrix to accumulate the gradient of an f32 weight matrix (n, k) in: laid out and split as the matrix itself.
///
/// # Errors
/// As [`WeightMatrix::upload`].
pub fn gradient_of(gpu: &Gpu, label: &str, (n, k): (usize, usize)) -> Result<WeightMatrix, GpuError> {
    WeightMatrix::upload(gpu, label, (n, k), WeightFormat::F32, |rows| Ok(vec![0.0; rows.len() * k]))
}

/// Where the gradients of a linear layer y = x w^T lie.
#[derive(Debug, Clone, Copy)]
pub struct LinearGrad {
    /// Tokens.
    pub l: usize,
    /// Columns of x (or grad_x), of which the first k are the layer's.
    pub x_stride: usize,
    /// Columns of grad_y, of which the first n are the layer's.
    pub y_stride: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    sum: u32,
    run: u32,
    y_stride: u32,
    y_offset: u32,
    b_stride: u32,
    out_stride: u32,
}

fn spec(x: bool, output: &'static str) -> ShaderSpec {
    ShaderSpec::new("backward/matmul_grad").flag("X", x).flag(output, true)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    [true, false].into_iter().flat_map(|x| ["SET", "ADD", "PARTIAL"].map(|output| spec(x, output))).collect()
}

/// grad_y, the other operand, and the result; `x` says which gradient it is.
fn record(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    x: bool,
    [grad_y, other, out]: [&Tensor; 3],
    params: Params,
    add: bool,
) -> Result<(), GpuError> {
    let (rows, cols, sum) = (params.rows as usize, params.cols as usize, params.sum as usize);
    let tiles = [cols.div_ceil(TILE), rows.div_ceil(TILE)];
    let room = scratch.elements() / (rows * cols).max(1);
    let parts = (ENOUGH / (tiles[0] * tiles[1]).max(1)).min(sum / MIN_RUN).min(room).max(1);
    let run = sum.div_ceil(parts).next_multiple_of(16).max(16);
    let parts = sum.div_ceil(run).max(1);
    let params = Params { run: run as u32, ..params };
    let groups = [tiles[0] as u64, (tiles[1] * parts) as u64];
    if parts == 1 {
        let output = if add { "ADD" } else { "SET" };
        return plan.dispatch(spec(x, output), &params, &[(1, grad_y), (2, other), (3, out)], groups);
    }
    let partials = scratch.room("matmul_grad", parts * rows * cols)?;
    plan.dispatch(spec(x, "PARTIAL"), &params, &[(1, grad_y), (2, other), (3, partials)], groups)?;
    let sum = Sum { cols: params.cols, row_stride: params.out_stride, ..Sum::dense(parts, 0, rows * cols) };
    sum_partials(plan, partials, out, sum, add)
}

/// grad_x (l, x_stride: the first k columns) = grad_y (l, y_stride: the first n) w (n, k); added to what is there with `add`.
pub fn matmul_grad_x(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    grad_y: &Tensor,
    w: &WeightMatrix,
    grad_x: &Tensor,
    shape: LinearGrad,
    add: bool,
) -> Result<(), GpuError> {
    for part in w.parts() {
        let params = Params {
            rows: shape.l as u32,
            cols: w.k() as u32,
            sum: part.rows as u32,
            run: 0,
            y_stride: shape.y_stride as u32,
            y_offset: part.row_start as u32,
            b_stride: w.k4() as u32,
            out_stride: shape.x_stride as u32,
        };
        record(plan, scratch, true, [grad_y, &part.tensor, grad_x], params, add || part.row_start > 0)?;
    }
    Ok(())
}

/// grad_w (n, k) += grad_y (l, y_stride)^T x (l, x_stride).
pub fn matmul_grad_w(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    x: &Tensor,
    grad_y: &Tensor,
    grad_w: &WeightMatrix,
    shape: LinearGrad,
) -> Result<(), GpuError> {
    for part in grad_w.parts() {
        let params = Params {
            rows: part.rows as u32,
            cols: grad_w.k() as u32,
            sum: shape.l as u32,
            run: 0,
            y_stride: shape.y_stride as u32,
            y_offset: part.row_start as u32,
            b_stride: shape.x_stride as u32,
            out_stride: 4 * grad_w.k4() as u32,
        };
        record(plan, scratch, false, [grad_y, x, &part.tensor], params, true)?;
    }
    Ok(())
}
