//! embedding.wgsl: rows of the table to the residual stream.

use super::WeightMatrix;
use crate::gpu::shader::{ShaderSpec, WeightFormat};
use crate::gpu::{GpuError, PlanBuilder, Tensor};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    d_model: u32,
    d4: u32,
    row_start: u32,
    rows: u32,
}

pub(super) fn spec(format: WeightFormat) -> ShaderSpec {
    ShaderSpec::new("embedding").weight(format)
}

/// residual (L, d_model) = table (vocab_size, d_model) at tokens (L). Tokens are below vocab_size: the caller checks.
/// A dispatch for each part of the table; together they write every row.
pub fn embedding(
    plan: &mut PlanBuilder<'_>,
    table: &WeightMatrix,
    tokens: &Tensor,
    residual: &Tensor,
    l: usize,
) -> Result<(), GpuError> {
    for part in table.parts() {
        let params = Params {
            l: l as u32,
            d_model: table.k() as u32,
            d4: table.k4() as u32,
            row_start: part.row_start as u32,
            rows: part.rows as u32,
        };
        let bindings: Vec<_> = part.bindings().chain([(2, tokens), (3, residual)]).collect();
        plan.dispatch_flat(spec(table.format()), &params, &bindings, l * table.k4(), 256)?;
    }
    Ok(())
}
