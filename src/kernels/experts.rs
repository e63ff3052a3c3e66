//! A mixture of experts: route.wgsl, route_order.wgsl and experts_sum.wgsl, and the experts' products by matvec.wgsl and matmul.wgsl.

use super::linear::{activated, matmul_spec, matvec_spec, Activate, Layout, Params, Tile};
use super::weights::WeightMatrix;
use crate::gpu::plan::grid;
use crate::gpu::shader::{NumberFormat, ShaderSpec, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::reference::{Activation, Gating, Router, MOST_EXPERTS};

/// Which experts tokens are given to.
pub struct Routes {
    pub experts: Tensor, // (L, chosen), u32
    pub weights: Tensor, // (L, chosen)
    order: Tensor,       // (L chosen), u32
    offsets: Tensor,     // (experts + 1), u32
}

impl Routes {
    /// Room for those of l tokens.
    ///
    /// # Errors
    /// The device's.
    pub fn new(gpu: &Gpu, router: &Router, l: usize) -> Result<Self, GpuError> {
        let pairs = router.pairs(l);
        Ok(Self {
            experts: Tensor::zeros(gpu, "experts", pairs)?,
            weights: Tensor::zeros(gpu, "weights of experts", pairs)?,
            order: Tensor::zeros(gpu, "order of pairs", pairs)?,
            offsets: Tensor::zeros(gpu, "offsets of experts", router.experts + 1)?,
        })
    }

    /// The pairs by their experts, and where each expert's begin: for checks.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn ordered(&self) -> (&Tensor, &Tensor) {
        (&self.order, &self.offsets)
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RouteParams {
    l: u32,
    experts: u32,
    chosen: u32,
    groups: u32,
    kept: u32,
    normed: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct OrderParams {
    pairs: u32,
    experts: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SumParams {
    n: u32,
    width: u32,
    chosen: u32,
}

fn route_spec(gating: Gating) -> ShaderSpec {
    let spec = ShaderSpec::new("route").constant("MOST", MOST_EXPERTS as u32);
    match gating {
        Gating::Chosen => spec.flag("CHOSEN", true),
        Gating::All => spec.flag("ALL", true),
        Gating::Sigmoid { .. } => spec.flag("SIGMOID", true),
    }
}

fn sum_spec(add: bool) -> ShaderSpec {
    ShaderSpec::new("experts_sum").flag("ADD", add)
}

fn order_spec() -> ShaderSpec {
    ShaderSpec::new("route_order")
}

/// `gather`: rows of x are tokens', else pairs'.
fn product_spec(format: WeightFormat, numbers: (NumberFormat, NumberFormat), tile: Tile, gather: bool) -> ShaderSpec {
    let spec = matmul_spec(format, (false, false), numbers, tile).flag("EXPERTS", true);
    spec.flag(if gather { "GATHER" } else { "SCATTER" }, true)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let (f16, f32s) = (NumberFormat::F16, NumberFormat::F32);
    let sigmoid = Gating::Sigmoid { groups: 1, kept: 1, normed: true };
    let mut specs: Vec<_> = [Gating::Chosen, Gating::All, sigmoid].map(route_spec).into();
    specs.extend([order_spec(), sum_spec(false), sum_spec(true)]);
    let act = |gated| Activate { f: Activation::Silu, gated, gate_scale: 1.0, scale: 1.0 };
    for format in WeightFormat::ALL {
        for gather in [false, true] {
            specs.extend([f16, f32s].map(|x| product_spec(format, (x, f32s), Tile::MANY, gather)));
            specs.extend(Tile::FEW.map(|tile| product_spec(format, (f32s, f32s), tile, gather)));
        }
        let layout = Layout::new(false, format, 512, 1536);
        let spec = |input| matvec_spec(format, input, (false, false), layout).flag("EXPERTS", true);
        specs.extend(["PLAIN", "WHOLE"].map(spec));
        for input in ["PLAIN", "WHOLE", "NORM"] {
            let layout = layout.of_pairs();
            let spec = matvec_spec(format, input, (false, false), layout).flag("EXPERTS", true);
            specs.extend([false, true].map(|gated| activated(spec.clone(), act(gated))));
        }
    }
    specs
}

/// The experts and the weights of l tokens, from the router's `logits` (L, experts); `correction` (experts) where they are sigmoids.
pub fn route(
    plan: &mut PlanBuilder<'_>,
    logits: &Tensor,
    correction: Option<&Tensor>,
    routes: &Routes,
    router: &Router,
    l: usize,
) -> Result<(), GpuError> {
    let &Router { experts, chosen, gating, scale } = router;
    if experts > MOST_EXPERTS {
        let (what, value, limit) = ("experts", experts, MOST_EXPERTS);
        return Err(GpuError::Unsupported { kernel: "route", what, value, limit });
    }
    let (groups, kept, normed) = match gating {
        Gating::Sigmoid { groups, kept, normed } => (groups, kept, normed),
        Gating::Chosen | Gating::All => (1, 1, false),
    };
    let [l32, experts, chosen, groups, kept] = [l, experts, chosen, groups, kept].map(|n| n as u32);
    let params = RouteParams { l: l32, experts, chosen, groups, kept, normed: normed.into(), scale };
    let mut bindings = vec![(1, logits), (2, &routes.experts), (3, &routes.weights)];
    bindings.extend(correction.map(|correction| (4, correction)));
    plan.dispatch_flat(route_spec(gating), &params, &bindings, l, 1)
}

/// The order of l tokens' pairs, which [`experts_matmul`] goes by.
pub fn route_order(plan: &mut PlanBuilder<'_>, routes: &Routes, router: &Router, l: usize) -> Result<(), GpuError> {
    let params = OrderParams { pairs: router.pairs(l) as u32, experts: router.experts as u32 };
    let bindings = [(1, &routes.experts), (2, &routes.order), (3, &routes.offsets)];
    plan.dispatch(order_spec(), &params, &bindings, [router.experts as u64, 1])
}

/// out (L, width) = the sum of what a token's experts make of it, y (L, chosen, width), by their weights; `add`: added to what is there.
pub fn experts_sum(
    plan: &mut PlanBuilder<'_>,
    (out, add): (&Tensor, bool),
    y: &Tensor,
    routes: &Routes,
    router: &Router,
    (l, width): (usize, usize),
) -> Result<(), GpuError> {
    let params = SumParams { n: (l * width) as u32, width: width as u32, chosen: router.chosen as u32 };
    plan.dispatch_flat(sum_spec(add), &params, &[(1, out), (2, y), (3, &routes.weights)], l * width, 256)
}

/// Rows of x that an experts' product takes.
#[derive(Debug, Clone, Copy)]
pub enum ExpertRows<'a> {
    /// A token's, for all of its experts.
    Tokens(&'a Tensor),
    /// One token's residual stream, and the weight and epsilon of the norm that is made as it is read.
    Norm(&'a Tensor, &'a Tensor, f32),
    /// A pair's.
    Pairs(&'a Tensor),
}

/// For few tokens, of which every pair reads its expert's matrix: y (L, chosen, rows) = the product of a pair's row with the matrix
/// (rows, k) of its expert, of those that lie in `w` one behind the other. Pairs are in the tokens' order, in x and in y. With an activation
/// of gates y has half as many columns.
pub fn experts_matvec(
    plan: &mut PlanBuilder<'_>,
    x: ExpertRows<'_>,
    w: &WeightMatrix,
    (routes, router): (&Routes, &Router),
    y: &Tensor,
    (l, act): (usize, Option<Activate>),
) -> Result<(), GpuError> {
    let (rows, k) = (w.n() / router.experts, w.k());
    let sides = if act.is_some_and(|act| act.gated) { 2 } else { 1 };
    let mut layout = Layout::new(plan.gpu().software(), w.format(), router.chosen * rows, k);
    if sides == 2 {
        layout = layout.of_pairs();
    }
    let whole = if k.is_multiple_of(4) { "WHOLE" } else { "PLAIN" };
    let (flag, mut bindings, chosen, eps) = match x {
        ExpertRows::Tokens(x) => (whole, vec![(2, x)], router.chosen, 0.0),
        ExpertRows::Pairs(x) => (whole, vec![(2, x)], 1, 0.0),
        ExpertRows::Norm(x, weight, eps) => ("NORM", vec![(2, x), (5, weight)], router.chosen, eps),
    };
    bindings.extend([(3, y), (6, &routes.experts)]);
    let mut spec = matvec_spec(w.format(), flag, (false, false), layout).flag("EXPERTS", true);
    if let Some(act) = act {
        spec = activated(spec, act);
    }
    let shape = super::Linear { l, x_stride: k, y_stride: rows / sides, softplus: false };
    for part in w.parts() {
        let mut params = Params::new(w, part, shape).of_experts(rows).normed(eps);
        (params.part, params.tiles) = ((part.row_start / rows) as u32, (part.rows / rows) as u32);
        params.chosen = chosen as u32;
        if let Some(act) = act {
            params = params.scaled(act);
        }
        let bindings: Vec<_> = bindings.iter().copied().chain(part.bindings()).collect();
        let groups = (rows / sides).div_ceil(layout.group_rows() / sides) as u64;
        plan.dispatch(spec.clone(), &params, &bindings, [groups, router.pairs(l) as u64])?;
    }
    Ok(())
}

/// The same for many tokens, by [`route_order`]: an expert's matrix is read once for every tile of its rows. Of x a row a token
/// (`gather`), then y has a row a pair in the order of experts; or x has that, then y's rows are in the tokens' order.
pub fn experts_matmul(
    plan: &mut PlanBuilder<'_>,
    (x, gather): (&Tensor, bool),
    w: &WeightMatrix,
    (routes, router): (&Routes, &Router),
    y: &Tensor,
    l: usize,
) -> Result<(), GpuError> {
    let (rows, k) = (w.n() / router.experts, w.k());
    // What an expert has of them if all have as many; one has every token at most.
    let usual = router.pairs(l).div_ceil(router.experts);
    let tile = Tile::of(plan.gpu().software(), usual, rows);
    let tile = if x.format() == NumberFormat::F32 { tile } else { Tile::MANY };
    let [tokens, outputs] = tile.size();
    let spec = product_spec(w.format(), (x.format(), y.format()), tile, gather);
    let shape = super::Linear { l, x_stride: k, y_stride: rows, softplus: false };
    let tiles = l.div_ceil(tokens);
    let at_once = (plan.gpu().limits().max_compute_workgroups_per_dimension as usize / tiles).max(1);
    for part in w.parts() {
        let (first, experts) = (part.row_start / rows, part.rows / rows);
        for begin in (0..experts).step_by(at_once) {
            let mut params = Params::new(w, part, shape).of_experts(rows);
            (params.expert, params.part, params.tiles) = ((first + begin) as u32, first as u32, tiles as u32);
            params.chosen = router.chosen as u32;
            let bindings = [(2, x), (3, y), (5, &routes.order), (6, &routes.offsets)];
            let bindings: Vec<_> = bindings.into_iter().chain(part.bindings()).collect();
            let [across, _] = grid(rows, outputs, u32::MAX);
            let down = tiles * at_once.min(experts - begin);
            plan.dispatch(spec.clone(), &params, &bindings, [across, down as u64])?;
        }
    }
    Ok(())
}
