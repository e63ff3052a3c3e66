//! matmul_few.wgsl with matmul_sum.wgsl: the linear layers of few tokens.

use super::linear::{Linear, Params};
use super::weights::WeightMatrix;
use crate::gpu::shader::{NumberFormat, ShaderSpec, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor, Variant};

/// The most tokens that go by it; with more, other kernels read weights as seldom.
const MOST: usize = 64;
/// Subgroups of a workgroup, each with slices of k of its own.
const PARTS: u32 = 4;
/// Quads along k of a slice.
const SLICE: u32 = 8;
/// Workgroups that keep a device busy: where there are fewer tiles, k is split among several.
const ENOUGH: usize = 400;

/// A tile of matmul_few.wgsl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Few {
    tokens: u32,
    outputs: u32,
}

impl Few {
    /// Those of a format. With more outputs they would not fit into 48 KiB of workgroup memory.
    pub fn tiles(format: WeightFormat) -> [Self; 2] {
        let outputs = if format == WeightFormat::F16 { 32 } else { 16 };
        [Self { tokens: 16, outputs: 16 }, Self { tokens: 32, outputs }]
    }

    /// For a product that is for it: f32 by f32, of rows that can be read in quads.
    pub fn of(gpu: &Gpu, w: &WeightMatrix, numbers: (NumberFormat, NumberFormat), shape: Linear) -> Option<Self> {
        let plain = numbers == (NumberFormat::F32, NumberFormat::F32);
        let whole = w.k().is_multiple_of(4) && shape.x_stride.is_multiple_of(4);
        let fits = plain && whole && shape.l <= MOST && gpu.cooperative() && gpu.allows(Variant::FewTokens);
        let [small, large] = Self::tiles(w.format());
        fits.then_some(if shape.l <= small.tokens as usize { small } else { large })
    }

    /// Quads along k that a split takes, and splits, for so many tiles.
    fn split(quads: usize, tiles: usize) -> (usize, usize) {
        let round = (PARTS * SLICE) as usize;
        let rounds = quads.div_ceil(round);
        // Two rounds at least: what is read ahead in the first is used in the second.
        let splits = (ENOUGH / tiles.max(1)).clamp(1, (rounds / 2).max(1));
        let each = rounds.div_ceil(splits).max(1);
        (each * round, rounds.div_ceil(each).max(1))
    }

    pub fn spec(self, format: WeightFormat, (bias, softplus): (bool, bool), partial: bool) -> ShaderSpec {
        let spec = ShaderSpec::new("matmul_few").weight(format).cooperative().flag("PARTIAL", partial);
        let spec = spec.flag("W_LOW", format != WeightFormat::F16).flag("BIAS", bias).flag("SOFTPLUS", softplus);
        let spec = spec.constant("PARTS", PARTS).constant("SLICE", SLICE);
        let spec = spec.constant("TOKENS", self.tokens).constant("OUTPUTS", self.outputs);
        // Matrices down and across a tile, and quads of a slice that an invocation reads of x and of w.
        let spec = spec.constant("DOWN", self.tokens / 16).constant("ACROSS", self.outputs / 16);
        spec.constant("LOADS_X", self.tokens * SLICE / 32).constant("LOADS_W", self.outputs * SLICE / 32)
    }

    /// y = x w^T + bias, by matmul_sum where k is split.
    pub fn matmul(
        self,
        plan: &mut PlanBuilder<'_>,
        (x, w, bias, y): (&Tensor, &WeightMatrix, Option<&Tensor>, &Tensor),
        shape: Linear,
    ) -> Result<(), GpuError> {
        let epilogue = (bias.is_some(), shape.softplus);
        let bias = bias.map(|bias| (4, bias));
        for part in w.parts() {
            let across = part.rows.div_ceil(self.outputs as usize);
            let down = shape.l.div_ceil(self.tokens as usize);
            let (split, splits) = Self::split(w.k().div_ceil(4), across * down);
            let params = Params::new(w, part, shape).with_split(split);
            let groups = [across as u64, (splits * down) as u64];
            let input = part.bindings().chain([(2, x)]);
            if splits == 1 {
                let bindings: Vec<_> = input.chain(bias).chain([(3, y)]).collect();
                plan.dispatch(self.spec(w.format(), epilogue, false), &params, &bindings, groups)?;
                continue;
            }
            let partial = plan.scratch(splits * shape.l * part.rows)?;
            let bindings: Vec<_> = input.chain([(3, &partial)]).collect();
            plan.dispatch(self.spec(w.format(), (false, false), true), &params, &bindings, groups)?;
            let params = params.with_split(splits);
            let bindings: Vec<_> = [(2, &partial), (3, y)].into_iter().chain(bias).collect();
            plan.dispatch_flat(sum_spec(epilogue), &params, &bindings, shape.l * part.rows, 64)?;
        }
        Ok(())
    }
}

fn sum_spec((bias, softplus): (bool, bool)) -> ShaderSpec {
    ShaderSpec::new("matmul_sum").flag("BIAS", bias).flag("SOFTPLUS", softplus)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = vec![sum_spec((false, false)), sum_spec((true, true))];
    for format in WeightFormat::ALL {
        for few in Few::tiles(format) {
            // softplus is dt_proj's, which is never quantised.
            let plain = format.quant().is_none();
            specs.extend([few.spec(format, (false, false), true), few.spec(format, (true, plain), false)]);
        }
    }
    specs
}
