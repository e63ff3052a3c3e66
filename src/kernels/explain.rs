//! channel_stats.wgsl, token_stats.wgsl and hidden_attention.wgsl.

use super::{within_registers, ExplainShape};
use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use std::ops::Range;

const WG: u32 = 128;
/// hidden_attention.wgsl: rows and units a workgroup, steps between barriers, invocations a product of C and B.
const ROWS: usize = 16;
const LANES: usize = 64;
const STEPS: usize = 4;
const PARTS: usize = 16;
/// Rounds of all loops that an invocation may take: llvmpipe silently ends them after 65,535, and GPUs with a display reset a
/// shader that runs for seconds.
const ROUNDS: usize = 60_000;

/// What of a layer is explained; where in their rows things lie, [`ExplainShape`] says.
#[derive(Debug, Clone, Copy)]
pub struct ExplainBuffers<'a> {
    /// (L, u_stride)
    pub u: &'a Tensor,
    /// (L, units), after softplus and limits
    pub delta: &'a Tensor,
    /// (units, d_state) or, with `heads`, (units)
    pub a: &'a Tensor,
    /// (L, bc_stride)
    pub bc: &'a Tensor,
}

fn channel_stats_spec(heads: bool) -> ShaderSpec {
    ShaderSpec::new("channel_stats").flag("HEADS", heads)
}
fn token_stats_spec() -> ShaderSpec {
    ShaderSpec::new("token_stats").constant("WG", WG)
}
/// Of channels with so many states, which registers hold; `None`: of heads.
fn attention_spec(d_state: Option<usize>) -> ShaderSpec {
    let spec = ShaderSpec::new("hidden_attention");
    match d_state {
        Some(d_state) => spec.constant("D_STATE", d_state as u32),
        None => spec.flag("HEADS", true),
    }
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = vec![token_stats_spec(), attention_spec(None)];
    specs.extend([false, true].map(channel_stats_spec));
    specs.extend([1, 5, 16, 64].map(|d_state| attention_spec(Some(d_state))));
    specs
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ChannelParams {
    l: u32,
    units: u32,
    width: u32,
    d_state: u32,
    group_units: u32,
    u_stride: u32,
    u_offset: u32,
    bc_stride: u32,
    b_offset: u32,
}

/// forget (L, units) of every token and unit, and energy (L, units, width) of every token and channel, from the zero state.
pub fn channel_stats(
    plan: &mut PlanBuilder<'_>,
    b: &ExplainBuffers<'_>,
    forget: &Tensor,
    energy: &Tensor,
    s: &ExplainShape,
) -> Result<(), GpuError> {
    let params = ChannelParams {
        l: s.l as u32,
        units: s.units as u32,
        width: s.width as u32,
        d_state: s.d_state as u32,
        group_units: s.group_units() as u32,
        u_stride: s.u_stride as u32,
        u_offset: s.u_offset as u32,
        bc_stride: s.bc_stride as u32,
        b_offset: s.b_offset as u32,
    };
    let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.bc), (5, forget), (6, energy)];
    plan.dispatch_flat(channel_stats_spec(s.heads), &params, &bindings, s.channels(), 64)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TokenParams {
    l: u32,
    units: u32,
    width: u32,
}

/// stats (L, 3): each token's mean delta, mean forget and norm of the state, from [`channel_stats`].
pub fn token_stats(
    plan: &mut PlanBuilder<'_>,
    (delta, forget, energy): (&Tensor, &Tensor, &Tensor),
    stats: &Tensor,
    s: &ExplainShape,
) -> Result<(), GpuError> {
    let params = TokenParams { l: s.l as u32, units: s.units as u32, width: s.width as u32 };
    let bindings = [(1, delta), (2, forget), (3, energy), (4, stats)];
    plan.dispatch_flat(token_stats_spec(), &params, &bindings, s.l, 1)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AttentionParams {
    l: u32,
    units: u32,
    d_state: u32,
    bc_stride: u32,
    b_offset: u32,
    c_offset: u32,
    first: u32,
    end: u32,
    begin: u32,
    scale: f32,
}

/// attention (L, L, 2): means of alpha and of |alpha| over some units. What lies above the diagonal stays as it is.
///
/// # Errors
/// More states than registers hold, where each has an A of its own. On a software adapter, a text so long that one block of units
/// would take too many rounds.
pub fn hidden_attention(
    plan: &mut PlanBuilder<'_>,
    b: &ExplainBuffers<'_>,
    attention: &Tensor,
    units: Range<usize>,
    s: &ExplainShape,
) -> Result<(), GpuError> {
    let kernel = "hidden_attention";
    let &ExplainShape { l, d_state, .. } = s;
    if !s.heads {
        within_registers(kernel, d_state)?;
    }
    let spec = attention_spec((!s.heads).then_some(d_state));
    // A round of the loop over j holds STEPS loops over the states, or one over a part of them and those that put the products
    // together, and one over the lanes.
    let (states, once) = if s.heads { (PARTS + 1, d_state.div_ceil(PARTS)) } else { (d_state + 1, 0) };
    let round = STEPS * states + once + LANES + 1;
    let rounds = l.div_ceil(STEPS) * round + d_state + 1;
    if rounds > ROUNDS && plan.gpu().adapter_summary().device_type == "Cpu" {
        return Err(GpuError::Unsupported { kernel, what: "length", value: l, limit: ROUNDS / round * STEPS });
    }
    let part = (ROUNDS / rounds).max(1) * LANES;
    for (group, run) in s.runs(units.clone(), part) {
        let params = AttentionParams {
            l: l as u32,
            units: s.units as u32,
            d_state: d_state as u32,
            bc_stride: s.bc_stride as u32,
            b_offset: (s.b_offset + group * d_state) as u32,
            c_offset: (s.c_offset + group * d_state) as u32,
            first: run.start as u32,
            end: run.end as u32,
            begin: u32::from(run.start == units.start),
            scale: 1.0 / units.len() as f32,
        };
        let bindings = [(1, b.delta), (2, b.a), (3, b.bc), (4, attention)];
        plan.dispatch_flat(spec.clone(), &params, &bindings, l, ROWS)?;
    }
    Ok(())
}
