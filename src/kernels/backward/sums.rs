//! column_sums.wgsl, sum_partials.wgsl, largest.wgsl, and the memory that partial sums take.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

/// Partial sums, from one dispatch to the next. All kernels may share one: each uses it only within its own dispatches.
#[derive(Debug, Clone)]
pub struct Scratch {
    sums: Tensor,
    /// Partial maxima, beside the sums that they are read with: one buffer is not bound for both.
    largest: Tensor,
}

impl Scratch {
    /// With room for so many elements at once.
    ///
    /// # Errors
    /// Over the adapter's limit a buffer or a binding: a smaller micro-batch needs less.
    pub(super) fn with_room(gpu: &Gpu, elements: usize) -> Result<Self, GpuError> {
        let (bytes, limit) = (4 * elements as u64, gpu.max_binding());
        if bytes > limit {
            let (kernel, label) = ("backward".to_owned(), "scratch".to_owned());
            return Err(GpuError::BindingTooLarge { kernel, label, bytes, limit });
        }
        let sums = Tensor::zeros(gpu, "scratch", elements)?;
        Ok(Self { sums, largest: Tensor::zeros(gpu, "largest", 2 * LARGEST_GROUPS as usize)? })
    }

    /// Sets all of it: the checks show that no kernel reads what it has not written.
    #[cfg(not(target_arch = "wasm32"))] // the self-test's
    pub(crate) fn fill(&self, gpu: &Gpu, value: f32) {
        for tensor in [&self.sums, &self.largest] {
            tensor.write(gpu, 0, &vec![value; tensor.elements()]);
        }
    }

    /// What [`largest`] leaves of a factor: the largest of these is that of all.
    pub fn partial_maxima(&self, factor: Factor) -> Tensor {
        let groups = LARGEST_GROUPS as usize;
        self.largest.slice(factor as usize * groups, groups)
    }

    /// Those of both factors.
    pub(super) fn all_partial_maxima(&self) -> &Tensor {
        &self.largest
    }

    /// The buffer, if it has this many elements.
    pub(super) fn room(&self, kernel: &'static str, elements: usize) -> Result<&Tensor, GpuError> {
        let limit = self.sums.elements();
        if elements > limit {
            return Err(GpuError::Unsupported { kernel, what: "scratch in elements", value: elements, limit });
        }
        Ok(&self.sums)
    }

    pub(super) fn elements(&self) -> usize {
        self.sums.elements()
    }
}

/// sum_partials.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Sum {
    pub parts: u32,
    pub part_stride: u32,
    pub offset: u32,
    pub elements: u32,
    pub cols: u32,
    pub row_stride: u32,
    pub col_stride: u32,
    pub out_offset: u32,
}

impl Sum {
    /// Parts of `elements`, one after the other from `offset` on, to as many in a row.
    pub fn dense(parts: usize, offset: usize, elements: usize) -> Self {
        let n = elements as u32;
        let (parts, offset) = (parts as u32, offset as u32);
        Self { parts, part_stride: n, offset, elements: n, cols: n.max(1), row_stride: 0, col_stride: 1, out_offset: 0 }
    }
}

fn sum_spec(add: bool) -> ShaderSpec {
    ShaderSpec::new("backward/sum_partials").flag("ADD", add)
}

fn column_spec(scaled: bool) -> ShaderSpec {
    ShaderSpec::new("backward/column_sums").flag("SCALED", scaled)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    [false, true].into_iter().flat_map(|on| [sum_spec(on), column_spec(on)]).chain([largest_spec()]).collect()
}

pub(super) fn sum_partials(
    plan: &mut PlanBuilder<'_>,
    partials: &Tensor,
    out: &Tensor,
    sum: Sum,
    add: bool,
) -> Result<(), GpuError> {
    plan.dispatch_flat(sum_spec(add), &sum, &[(1, partials), (2, out)], sum.elements as usize, 64)
}

/// Rows and columns of a matrix in rows of `stride`.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    stride: u32,
    block: u32,
    partials: u32,
}

/// Blocks of rows, and rows of each.
fn blocks(rows: usize) -> (usize, usize) {
    let block = rows.div_ceil(256).max(32);
    (rows.div_ceil(block), block)
}

/// What column sums over so many rows need, in elements.
pub(super) fn partials(rows: usize, cols: usize) -> usize {
    rows + blocks(rows).0 * cols
}

/// out (cols) += the sums of x's columns: a bias's gradient, or with one column a total.
pub fn column_sums(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    x: &Tensor,
    out: &Tensor,
    shape: Columns,
) -> Result<(), GpuError> {
    columns(plan, scratch, x, None, out, shape)
}

/// The same; with `scaled` each value times that of `scaled` (rows, cols) and times its row's scale, which scratch begins with.
pub(super) fn columns(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    x: &Tensor,
    scaled: Option<&Tensor>,
    out: &Tensor,
    Columns { rows, cols, stride }: Columns,
) -> Result<(), GpuError> {
    let (parts, block) = blocks(rows);
    let partials = rows;
    let room = scratch.room("column_sums", partials + parts * cols)?;
    let params = Params {
        rows: rows as u32,
        cols: cols as u32,
        stride: stride as u32,
        block: block as u32,
        partials: partials as u32,
    };
    let bindings: Vec<_> = [(1, x), (2, room)].into_iter().chain(scaled.map(|y| (3, y))).collect();
    plan.dispatch_flat(column_spec(scaled.is_some()), &params, &bindings, parts * cols, 64)?;
    sum_partials(plan, room, out, Sum::dense(parts, partials, cols), true)
}

/// Workgroups of largest.wgsl, and invocations of one; as many partial maxima as an invocation each of a workgroup reads.
pub(super) const LARGEST_GROUPS: u32 = 256;

fn largest_spec() -> ShaderSpec {
    ShaderSpec::new("backward/largest").constant("WG", LARGEST_GROUPS).constant("GROUPS", LARGEST_GROUPS)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LargestParams {
    rows: u32,
    cols: u32,
    stride: u32,
}

/// A factor of a weight's gradient, whose largest value is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    GradY,
    X,
}

/// The largest |x|, in parts: [`Scratch::partial_maxima`], which no other kernel writes to. `cols` and `stride` are multiples of 4.
pub fn largest(
    plan: &mut PlanBuilder<'_>,
    scratch: &Scratch,
    factor: Factor,
    x: &Tensor,
    shape: Columns,
) -> Result<(), GpuError> {
    let Columns { rows, cols, stride } = shape;
    // Without gaps between rows all is one.
    let (rows, cols) = if cols == stride { (rows.min(1), rows * cols) } else { (rows, cols) };
    let params = LargestParams { rows: rows as u32, cols: (cols / 4) as u32, stride: (stride / 4) as u32 };
    let bindings = [(1, x), (2, &scratch.partial_maxima(factor))];
    plan.dispatch(largest_spec(), &params, &bindings, [u64::from(LARGEST_GROUPS), 1])
}
