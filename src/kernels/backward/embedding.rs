//! embedding_backward.wgsl.

use super::sums::Scratch;
use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::kernels::WeightMatrix;

/// Sorted positions that a workgroup goes through.
const BLOCK: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    d_model: u32,
    stride: u32,
    row_start: u32,
    rows: u32,
}

fn spec(join: bool) -> ShaderSpec {
    ShaderSpec::new("backward/embedding_backward").flag("JOIN", join).constant("BLOCK", BLOCK as u32)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    vec![spec(false), spec(true)]
}

pub(super) fn partials(rows: usize, d_model: usize) -> usize {
    2 * rows.div_ceil(BLOCK) * d_model
}

/// grad_table (vocab_size, d_model) += the rows of grad_residual (rows, d_model), each to its token's row. `order` is
/// [`token_order`](super::token_order) of the tokens (both u32, rows), which are below vocab_size: the caller checks.
pub fn embedding_backward(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    tokens: &Tensor,
    order: &Tensor,
    grad_residual: &Tensor,
    grad_table: &WeightMatrix,
    rows: usize,
) -> Result<(), GpuError> {
    let d_model = grad_table.k();
    let room = scratch.room("embedding_backward", partials(rows, d_model))?;
    for part in grad_table.parts() {
        let params = Params {
            l: rows as u32,
            d_model: d_model as u32,
            stride: 4 * grad_table.k4() as u32,
            row_start: part.row_start as u32,
            rows: part.rows as u32,
        };
        let bindings = [(1, tokens), (2, order), (3, grad_residual), (4, &part.tensor), (5, room)];
        plan.dispatch_flat(spec(false), &params, &bindings, rows, BLOCK)?;
        let bindings = [(1, tokens), (2, order), (4, &part.tensor), (5, room)];
        plan.dispatch_flat(spec(true), &params, &bindings, rows, BLOCK)?;
    }
    Ok(())
}
