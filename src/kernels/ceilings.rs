//! bench_copy.wgsl and bench_fma.wgsl: what a device can do at most, for [`bench`](crate::bench). No model runs them, so
//! they have no twin.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};

/// Quads that a workgroup of bench_copy.wgsl moves.
const COPY_QUADS: usize = 1024;
const WG: usize = 256;
/// Steps of a chain a round, and chains' scalars, of bench_fma.wgsl.
const STEPS: usize = 8;
const SCALARS: usize = 8 * 4;

pub(super) fn specs() -> [ShaderSpec; 2] {
    ["bench_copy", "bench_fma"].map(ShaderSpec::new)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CopyParams {
    quads: u32,
}

/// Copies as many quads as both tensors hold.
pub fn bench_copy(plan: &mut PlanBuilder<'_>, source: &Tensor, destination: &Tensor) -> Result<(), GpuError> {
    let quads = source.elements().min(destination.elements()) / 4;
    let params = CopyParams { quads: quads as u32 };
    plan.dispatch_flat(ShaderSpec::new("bench_copy"), &params, &[(1, source), (2, destination)], quads, COPY_QUADS)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FmaParams {
    invocations: u32,
    rounds: u32,
    scale: f32,
    shift: f32,
}

/// Multiplies and adds in as many invocations as `sums` has elements.
pub fn bench_fma(plan: &mut PlanBuilder<'_>, sums: &Tensor, rounds: usize) -> Result<(), GpuError> {
    let invocations = sums.elements();
    let params = FmaParams { invocations: invocations as u32, rounds: rounds as u32, scale: 0.999, shift: 0.5 };
    plan.dispatch_flat(ShaderSpec::new("bench_fma"), &params, &[(1, sums)], invocations, WG)
}

/// Floating point operations of [`bench_fma`]: two a multiply-add.
pub fn bench_fma_flops(invocations: usize, rounds: usize) -> f64 {
    2.0 * (invocations * SCALARS * STEPS) as f64 * rounds as f64
}
