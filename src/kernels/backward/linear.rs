//! matmul_grad.wgsl and matmul_grad_split.wgsl: both sides of a linear layer's gradient.

use super::sums::{largest, sum_partials, Columns, Factor, Scratch, Sum, LARGEST_GROUPS};
use crate::gpu::shader::{ShaderSpec, WeightFormat};
use crate::gpu::Variant;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{WeightMatrix, WeightPart};

/// Partial sums that it may always use, in elements: 256 tiles.
pub(super) const TILES: usize = 256 * 64 * 64;

/// Terms that a part of a sum has at least.
const MIN_RUN: usize = 256;

/// A zeroed matrix to accumulate the gradient of an f32 weight matrix (n, k) in: laid out and split as the matrix itself.
///
/// # Errors
/// As [`WeightMatrix::upload`].
pub fn gradient_of(gpu: &Gpu, label: &str, (n, k): (usize, usize)) -> Result<WeightMatrix, GpuError> {
    WeightMatrix::upload(gpu, label, (n, k), WeightFormat::F32, |rows| Ok(vec![0.0; rows.len() * k]))
}

/// Where the gradients of a linear layer y = x w^T lie.
#[derive(Debug, Clone, Copy)]
pub struct LinearGrad {
    /// Tokens.
    pub l: usize,
    /// Columns of x (or grad_x), of which the first k are the layer's.
    pub x_stride: usize,
    /// Columns of grad_y, of which the first n are the layer's.
    pub y_stride: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    sum: u32,
    run: u32,
    y_stride: u32,
    y_offset: u32,
    b_stride: u32,
    out_stride: u32,
}

/// How the products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// matmul_grad.wgsl.
    MultiplyAdds,
    /// matmul_grad_split.wgsl.
    Halves,
}

impl Way {
    /// By cooperative matrices where the adapter has them, both sides or none: for rows that can be read in quads, of more than a
    /// few tokens, inputs and outputs.
    fn of(gpu: &Gpu, w: &WeightMatrix, shape: LinearGrad) -> Self {
        let quads = |part: &WeightPart| part.rows.is_multiple_of(4) && part.row_start.is_multiple_of(4);
        let whole = [shape.x_stride, shape.y_stride, w.k()].into_iter().all(|n| n.is_multiple_of(4));
        let large = [shape.l, w.n(), w.k()].into_iter().all(|n| n >= LEAST);
        let fits = whole && large && w.parts().iter().all(quads);
        if fits && gpu.cooperative() && gpu.allows(Variant::SplitGradients) {
            Way::Halves
        } else {
            Way::MultiplyAdds
        }
    }

    /// Rows and columns of a tile, and terms of a slice.
    fn tile(self) -> (usize, usize) {
        match self {
            Way::MultiplyAdds => (64, 16),
            Way::Halves => (128, 32),
        }
    }

    fn spec(self, x: bool, output: &'static str) -> ShaderSpec {
        match self {
            Way::MultiplyAdds => ShaderSpec::new("backward/matmul_grad").flag("X", x).flag(output, true),
            Way::Halves => {
                let spec = ShaderSpec::new("backward/matmul_grad_split").constant("WG", LARGEST_GROUPS);
                spec.flag("X", x).flag(output, true).cooperative()
            }
        }
    }

    /// Into how many parts to cut a sum of so many terms, where the result has so many tiles and elements and there is room for so
    /// many parts.
    fn parts(self, tiles: usize, terms: usize, elements: usize, room: usize) -> usize {
        let most = (terms / MIN_RUN).min(room).max(1);
        match self {
            Way::MultiplyAdds => (ENOUGH / tiles.max(1)).clamp(1, most),
            Way::Halves => {
                // In terms of a tile: the runs of all rounds of workgroups, and what more parts than one cost, a dispatch and their
                // elements written and read.
                let cost = |parts: usize| {
                    let rounds = (tiles * parts).div_ceil(AT_ONCE);
                    let sums = if parts > 1 { 50 + parts * elements / 18_000 } else { 0 };
                    rounds * terms.div_ceil(parts) + sums
                };
                (1..=most.min(16)).min_by_key(|&parts| cost(parts)).unwrap_or(1)
            }
        }
    }
}

/// Fewer tokens, inputs or outputs leave most of a tile of cooperative matrices idle.
const LEAST: usize = 32;
/// Workgroups of multiply-adds from which on a GPU is busy: below, long sums are cut into parts.
const ENOUGH: usize = 256;
/// Workgroups of cooperative matrices that a large GPU runs at once, each on a multiprocessor of its own.
const AT_ONCE: usize = 128;

pub(super) fn specs() -> Vec<ShaderSpec> {
    let outputs = |(way, x): (Way, bool)| ["SET", "ADD", "PARTIAL"].map(|output| way.spec(x, output));
    let ways = [Way::MultiplyAdds, Way::Halves].into_iter().flat_map(|way| [(way, true), (way, false)]);
    ways.flat_map(outputs).collect()
}

/// grad_y, the other operand, and the result; `x` says which gradient it is.
fn record(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    (way, x): (Way, bool),
    [grad_y, other, out]: [&Tensor; 3],
    params: Params,
    add: bool,
) -> Result<(), GpuError> {
    let (rows, cols, sum) = (params.rows as usize, params.cols as usize, params.sum as usize);
    let (tile, slice) = way.tile();
    let tiles = [cols.div_ceil(tile), rows.div_ceil(tile)];
    let room = scratch.elements() / (rows * cols).max(1);
    let parts = way.parts(tiles[0] * tiles[1], sum, rows * cols, room);
    let run = sum.div_ceil(parts).next_multiple_of(slice).max(slice);
    let parts = sum.div_ceil(run).max(1);
    let params = Params { run: run as u32, ..params };
    let groups = [tiles[0] as u64, (tiles[1] * parts) as u64];
    let mut bindings = vec![(1, grad_y), (2, other)];
    if way == Way::Halves {
        bindings.push((4, scratch.all_partial_maxima()));
    }
    if parts == 1 {
        bindings.push((3, out));
        return plan.dispatch(way.spec(x, if add { "ADD" } else { "SET" }), &params, &bindings, groups);
    }
    let partials = scratch.room("matmul_grad", parts * rows * cols)?;
    bindings.push((3, partials));
    plan.dispatch(way.spec(x, "PARTIAL"), &params, &bindings, groups)?;
    let sum = Sum { cols: params.cols, row_stride: params.out_stride, ..Sum::dense(parts, 0, rows * cols) };
    sum_partials(plan, partials, out, sum, add)
}

/// The tensors of [`matmul_grad`].
#[derive(Debug, Clone, Copy)]
pub struct MatmulGrads<'a> {
    /// (l, x_stride)
    pub x: &'a Tensor,
    /// (n, k)
    pub w: &'a WeightMatrix,
    /// (l, y_stride)
    pub grad_y: &'a Tensor,
    /// (l, x_stride): its first k columns are set, or added to
    pub grad_x: &'a Tensor,
    /// (n, k), added to
    pub grad_w: &'a WeightMatrix,
}

/// [`matmul_grad_x`] and [`matmul_grad_w`] of one layer.
pub fn matmul_grad(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    b: &MatmulGrads<'_>,
    shape: LinearGrad,
    add: bool,
) -> Result<(), GpuError> {
    let way = prepare(plan, scratch, (b.grad_y, Some(b.x)), b.w, shape)?;
    grad_w(plan, scratch, (way, b.x), b.grad_y, b.grad_w, shape)?;
    grad_x(plan, scratch, (way, b.grad_y), b.w, (b.grad_x, add), shape)
}

/// Chooses the way for a gradient, and does what it needs once: for w's, with x.
fn prepare(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    (grad_y, x): (&Tensor, Option<&Tensor>),
    w: &WeightMatrix,
    shape: LinearGrad,
) -> Result<Way, GpuError> {
    let way = Way::of(plan.gpu(), w, shape);
    if way == Way::Halves {
        let columns = |cols, stride| Columns { rows: shape.l, cols, stride };
        largest(plan, scratch, Factor::GradY, grad_y, columns(w.n(), shape.y_stride))?;
        if let Some(x) = x {
            largest(plan, scratch, Factor::X, x, columns(w.k(), shape.x_stride))?;
        }
    }
    Ok(way)
}

/// grad_x (l, x_stride: the first k columns) = grad_y (l, y_stride: the first n) w (n, k); added to what is there with `add`.
pub fn matmul_grad_x(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    grad_y: &Tensor,
    w: &WeightMatrix,
    grad_x: &Tensor,
    shape: LinearGrad,
    add: bool,
) -> Result<(), GpuError> {
    let way = prepare(plan, scratch, (grad_y, None), w, shape)?;
    self::grad_x(plan, scratch, (way, grad_y), w, (grad_x, add), shape)
}

fn grad_x(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    (way, grad_y): (Way, &Tensor),
    w: &WeightMatrix,
    (grad_x, add): (&Tensor, bool),
    shape: LinearGrad,
) -> Result<(), GpuError> {
    for part in w.parts() {
        let params = Params {
            rows: shape.l as u32,
            cols: w.k() as u32,
            sum: part.rows as u32,
            run: 0,
            y_stride: shape.y_stride as u32,
            y_offset: part.row_start as u32,
            b_stride: w.k4() as u32,
            out_stride: shape.x_stride as u32,
        };
        record(plan, scratch, (way, true), [grad_y, &part.tensor, grad_x], params, add || part.row_start > 0)?;
    }
    Ok(())
}

/// grad_w (n, k) += grad_y (l, y_stride)^T x (l, x_stride).
pub fn matmul_grad_w(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    x: &Tensor,
    grad_y: &Tensor,
    grad_w: &WeightMatrix,
    shape: LinearGrad,
) -> Result<(), GpuError> {
    let way = prepare(plan, scratch, (grad_y, Some(x)), grad_w, shape)?;
    self::grad_w(plan, scratch, (way, x), grad_y, grad_w, shape)
}

fn grad_w(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    (way, x): (Way, &Tensor),
    grad_y: &Tensor,
    grad_w: &WeightMatrix,
    shape: LinearGrad,
) -> Result<(), GpuError> {
    for part in grad_w.parts() {
        let params = Params {
            rows: part.rows as u32,
            cols: grad_w.k() as u32,
            sum: shape.l as u32,
            run: 0,
            y_stride: shape.y_stride as u32,
            y_offset: part.row_start as u32,
            b_stride: shape.x_stride as u32,
            out_stride: 4 * grad_w.k4() as u32,
        };
        record(plan, scratch, (way, false), [grad_y, x, &part.tensor], params, true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_cut_where_tiles_are_few_and_parts_pay() {
        let parts = |rows: usize, cols: usize, terms, room| {
            Way::Halves.parts(rows.div_ceil(128) * cols.div_ceil(128), terms, rows * cols, room)
        };
        // x_proj's grad_w is 12 tiles over 2,048 tokens; grad_x a sum of 80 terms; a head's grad_w more tiles than enough.
        assert!((4..=8).contains(&parts(80, 1536, 2048, 100)));
        assert_eq!(parts(2048, 1536, 80, 100), 1);
        assert_eq!(parts(50_280, 768, 1280, 100), 1);
        // A block of a head's grad_x: 60 tiles, a long sum. No more parts than scratch has room for.
        assert_eq!(parts(1280, 768, 50_280, 100), 2);
        assert_eq!(parts(1280, 768, 50_280, 1), 1);
        assert_eq!((parts(80, 1536, 2048, 3), parts(80, 1536, 2048, 0)), (3, 1));
        let adds = |tiles, terms, room| Way::MultiplyAdds.parts(tiles, terms, 4096 * tiles, room);
        assert_eq!((adds(2, 1024, 100), adds(2, 100, 100), adds(200, 1 << 20, 100), adds(2, 1024, 3)), (4, 1, 1, 3));
    }
}
