//! scale_add.wgsl.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    width: u32,
}

/// scale_add.wgsl: invocations a workgroup, and values an invocation.
const WG: usize = 256;
const EACH: usize = 4;

fn spec(scale: bool, add: bool) -> ShaderSpec {
    ShaderSpec::new("scale_add").constant("EACH", EACH as u32).flag("SCALE", scale).flag("ADD", add)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    vec![spec(true, false), spec(false, true), spec(true, true)]
}

/// x (L, width), in place, times `scale` (width), plus `added` (L, width).
pub fn scale_add(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    (scale, added): (Option<&Tensor>, Option<&Tensor>),
    (l, width): (usize, usize),
) -> Result<(), GpuError> {
    let params = Params { n: (l * width) as u32, width: width as u32 };
    let mut bindings = vec![(1, x)];
    bindings.extend(scale.map(|scale| (2, scale)));
    bindings.extend(added.map(|added| (3, added)));
    plan.dispatch_flat(spec(scale.is_some(), added.is_some()), &params, &bindings, l * width, WG * EACH)
}
