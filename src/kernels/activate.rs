//! activate.wgsl.

use super::WATCH;
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::reference::{ActivateShape, Activation};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    width: u32,
    x_stride: u32,
    x_offset: u32,
    gate_stride: u32,
    gate_offset: u32,
    gate_scale: f32,
    scale: f32,
}

/// With what shared/activation.wgsl makes f.
pub(super) fn flagged(spec: ShaderSpec, f: Activation) -> ShaderSpec {
    let flag = match f {
        Activation::Silu => "SILU",
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU_TANH",
        Activation::Relu2 => "RELU2",
    };
    spec.flag(flag, true)
}

/// activate.wgsl: invocations a workgroup, and values an invocation.
const WG: usize = 256;
const EACH: usize = 4;

fn spec(f: Activation, gate: bool, (x, act): (NumberFormat, NumberFormat)) -> ShaderSpec {
    let spec = flagged(ShaderSpec::new("activate"), f).constant("EACH", EACH as u32);
    spec.flag("GATE", gate).number("x_t", x).number("act", act)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let (f32s, f16) = (NumberFormat::F32, NumberFormat::F16);
    let mut specs = Vec::new();
    for f in Activation::ALL {
        specs.extend([false, true].map(|gate| spec(f, gate, (f32s, f32s))));
        specs.extend([f32s, f16].map(|x| spec(f, true, (x, f16)).flag("WATCH", true)));
    }
    specs
}

/// out (L, width), f32 or f16, watched or not: scale f(gate_scale gate) x where there is a gate, of the same format as x, else scale f(x).
pub fn activate(
    plan: &mut PlanBuilder<'_>,
    (x, gate): (&Tensor, Option<&Tensor>),
    out: &Tensor,
    f: Activation,
    shape: &ActivateShape,
) -> Result<(), GpuError> {
    debug_assert!(gate.is_none_or(|gate| gate.format() == x.format()));
    let params = Params {
        l: shape.l as u32,
        width: shape.width as u32,
        x_stride: shape.x.0 as u32,
        x_offset: shape.x.1 as u32,
        gate_stride: shape.gate.0 as u32,
        gate_offset: shape.gate.1 as u32,
        gate_scale: shape.gate_scale,
        scale: shape.scale,
    };
    let mut bindings = vec![(1, x), (2, out)];
    bindings.extend(gate.map(|gate| (3, gate)));
    bindings.extend(out.watch().map(|flag| (WATCH, flag)));
    let spec = spec(f, gate.is_some(), (x.format(), out.format())).flag("WATCH", out.watch().is_some());
    plan.dispatch_flat(spec, &params, &bindings, shape.l * shape.width, WG * EACH)
}
