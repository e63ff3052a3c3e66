//! channel_stats.wgsl, token_stats.wgsl and hidden_attention.wgsl.

use super::ScanShape;
use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use std::ops::Range;

const WG: u32 = 128;
/// hidden_attention.wgsl: rows and channels a workgroup, and steps between barriers.
const ROWS: usize = 16;
const LANES: usize = 64;
const STEPS: usize = 4;
/// Rounds of all loops that an invocation may take: llvmpipe silently ends them after 65,535, and GPUs with a display reset a
/// shader that runs for seconds.
const ROUNDS: usize = 60_000;

/// What of a layer is explained.
#[derive(Debug, Clone, Copy)]
pub struct ExplainBuffers<'a> {
    /// (L, d_inner)
    pub u: &'a Tensor,
    /// (L, d_inner), after softplus
    pub delta: &'a Tensor,
    /// (d_inner, d_state)
    pub a: &'a Tensor,
    /// (L, x_dbl_stride)
    pub x_dbl: &'a Tensor,
}

pub(super) fn token_stats_spec() -> ShaderSpec {
    ShaderSpec::new("token_stats").constant("WG", WG)
}

/// forget (L, d_inner) and energy (L, d_inner) of every token and channel, from the zero state.
pub fn channel_stats(
    plan: &mut PlanBuilder<'_>,
    b: &ExplainBuffers<'_>,
    forget: &Tensor,
    energy: &Tensor,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, forget), (6, energy)];
    plan.dispatch_flat(shape.with_states("channel_stats")?, &shape.params(), &bindings, shape.d_inner, 64)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TokenParams {
    l: u32,
    d_inner: u32,
}

/// stats (L, 3): each token's mean delta, mean forget and norm of the state, from [`channel_stats`].
pub fn token_stats(
    plan: &mut PlanBuilder<'_>,
    (delta, forget, energy): (&Tensor, &Tensor, &Tensor),
    stats: &Tensor,
    (l, d_inner): (usize, usize),
) -> Result<(), GpuError> {
    let params = TokenParams { l: l as u32, d_inner: d_inner as u32 };
    let bindings = [(1, delta), (2, forget), (3, energy), (4, stats)];
    plan.dispatch_flat(token_stats_spec(), &params, &bindings, l, 1)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AttentionParams {
    l: u32,
    d_inner: u32,
    x_dbl_stride: u32,
    b_offset: u32,
    c_offset: u32,
    first: u32,
    end: u32,
    begin: u32,
    scale: f32,
}

/// attention (L, L, 2): means of alpha and of |alpha| over some channels. What lies above the diagonal stays as it is.
///
/// # Errors
/// On a software adapter, a text so long that one block of channels would take too many rounds.
pub fn hidden_attention(
    plan: &mut PlanBuilder<'_>,
    b: &ExplainBuffers<'_>,
    attention: &Tensor,
    channels: Range<usize>,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let kernel = "hidden_attention";
    let spec = shape.with_states(kernel)?;
    let ScanShape { l, d_inner, d_state, .. } = shape;
    // A round of the loop over j holds STEPS loops over the states, and one over the lanes.
    let round = STEPS * (d_state + 1) + LANES + 1;
    let rounds = l.div_ceil(STEPS) * round + d_state + 1;
    if rounds > ROUNDS && plan.gpu().adapter_summary().device_type == "Cpu" {
        return Err(GpuError::Unsupported { kernel, what: "length", value: l, limit: ROUNDS / round * STEPS });
    }
    let part = (ROUNDS / rounds).max(1) * LANES;
    for first in channels.clone().step_by(part) {
        let params = AttentionParams {
            l: l as u32,
            d_inner: d_inner as u32,
            x_dbl_stride: shape.x_dbl_stride as u32,
            b_offset: shape.b_offset as u32,
            c_offset: shape.c_offset as u32,
            first: first as u32,
            end: channels.end.min(first + part) as u32,
            begin: u32::from(first == channels.start),
            scale: 1.0 / channels.len() as f32,
        };
        let bindings = [(1, b.delta), (2, b.a), (3, b.x_dbl), (4, attention)];
        plan.dispatch_flat(spec.clone(), &params, &bindings, l, ROWS)?;
    }
    Ok(())
}
