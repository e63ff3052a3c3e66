//! gated_rms_norm.wgsl.

use super::{norm::WG, WATCH};
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::reference::{GatedNorm, GatedShape};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    width: u32,
    groups: u32,
    y_stride: u32,
    y_offset: u32,
    z_stride: u32,
    z_offset: u32,
    out_stride: u32,
    out_offset: u32,
    eps: f32,
}

fn spec(kind: GatedNorm, weight: bool, in_place: bool, (z, act): (NumberFormat, NumberFormat)) -> ShaderSpec {
    let spec = ShaderSpec::new("gated_rms_norm").constant("WG", WG).flag("NORM", kind != GatedNorm::GateOnly);
    let spec = spec.flag("GATE_FIRST", kind == GatedNorm::GateFirst).flag("WEIGHT", weight);
    spec.flag("IN_PLACE", in_place).number("xz_t", z).number("act", act)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let (f32s, f16) = (NumberFormat::F32, NumberFormat::F16);
    let mut specs = Vec::new();
    for kind in [GatedNorm::GateFirst, GatedNorm::NormFirst, GatedNorm::GateOnly] {
        for weight in [false, true] {
            specs.push(spec(kind, weight, true, (f32s, f32s)));
            specs.push(spec(kind, weight, false, (f32s, f32s)));
        }
        let half = spec(kind, true, false, (f16, f16));
        specs.extend([
            half.clone(),
            half.flag("WATCH", true),
            spec(kind, true, false, (f32s, f16)).flag("WATCH", true),
        ]);
    }
    specs
}

/// y and its gate z, rows of which may be parts of wider ones, into `out` (f32 or f16, watched or not); without one, in
/// place in y. `weight` (d_inner) or ones.
pub fn gated_rms_norm(
    plan: &mut PlanBuilder<'_>,
    (y, z): (&Tensor, &Tensor),
    weight: Option<&Tensor>,
    out: Option<&Tensor>,
    kind: GatedNorm,
    shape: &GatedShape,
) -> Result<(), GpuError> {
    let to = out.unwrap_or(y);
    let params = Params {
        l: shape.l as u32,
        width: (shape.d_inner / shape.groups.max(1)) as u32,
        groups: shape.groups as u32,
        y_stride: shape.y.0 as u32,
        y_offset: shape.y.1 as u32,
        z_stride: shape.z.0 as u32,
        z_offset: shape.z.1 as u32,
        out_stride: shape.out.0 as u32,
        out_offset: shape.out.1 as u32,
        eps: shape.eps,
    };
    let mut bindings = vec![(1, y), (2, z)];
    bindings.extend(weight.map(|weight| (3, weight)));
    bindings.extend(out.map(|out| (4, out)));
    bindings.extend(to.watch().map(|flag| (WATCH, flag)));
    let spec = spec(kind, weight.is_some(), out.is_none(), (z.format(), to.format()));
    plan.dispatch_flat(spec.flag("WATCH", to.watch().is_some()), &params, &bindings, shape.l * shape.groups, 1)
}
