//! ssd_chunk_cumsum.wgsl, ssd_bmm_chunk.wgsl, ssd_chunk_state.wgsl, ssd_state_passing.wgsl, ssd_chunk_scan.wgsl: rung
//! (b).

use super::{Params, Ssd, SsdBuffers, SsdShape};
use crate::gpu::plan::grid;
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

/// Tokens a chunk. A longer one would write fewer states and multiply more that does not count; 64 is a tile.
pub const SSD_CHUNK: usize = 64;
/// ssd_bmm_chunk.wgsl: rows and columns of a tile. Small, since there are few groups.
const BMM_TILE: usize = 32;
/// ssd_state_passing.wgsl: runs of chunks that a workgroup scans side by side, where there are chunks for them.
const SEGMENTS: u32 = 8;

/// ssd_state_passing.wgsl: states that fill an adapter without runs, where chunks are long.
const MANY: usize = 1 << 17;

/// What goes between the kernels: all that a rung writes besides its output.
pub struct SsdWorkspace {
    /// In chunks: (n_chunks, heads, chunk); sequential: (L, heads).
    pub delta: Tensor,
    /// (n_chunks, heads, chunk) of 64 bits, sums of delta A as shared/ssd_log.wgsl has them.
    pub cumsum: Tensor,
    /// (n_chunks, groups, chunk, chunk), `C[t] . B[s]`; above the diagonal anything.
    pub cb: Tensor,
    /// (n_chunks, heads, head_dim, d_state), of the rung by cooperative matrices (n_chunks, heads, d_state, head_dim): what each
    /// chunk adds, then its initial state.
    pub states: Tensor,
    /// Where initial states are not in place: in f16.
    pub(super) initial: Option<Tensor>,
    /// Whether states are (d_state, head_dim).
    pub(super) transposed: bool,
    /// Tokens a chunk.
    pub(super) chunk: usize,
    /// Tokens that there is room for, whole chunks: a longer text goes through in segments.
    segment: usize,
}

/// Tokens, whole chunks, whose arrays each fit one binding and whose grids fit the adapter.
pub(super) fn segment(gpu: &Gpu, chunk: usize, s: &SsdShape) -> usize {
    let values = [s.state_len(), 2 * s.heads * chunk, s.groups * chunk * chunk];
    let fits = gpu.max_binding() / (4 * values.into_iter().max().unwrap_or(1).max(1) as u64);
    let groups = u64::from(gpu.limits().max_compute_workgroups_per_dimension) / s.heads.max(1) as u64;
    (s.l.div_ceil(chunk) as u64).min(fits).min(groups).max(1) as usize * chunk
}

impl SsdWorkspace {
    /// `segment`: tokens in whole chunks, 0 of the sequential rung; `act`: the format of C B and of initial states.
    pub(super) fn of_segment(
        gpu: &Gpu,
        rung: Ssd,
        segment: usize,
        s: &SsdShape,
        act: NumberFormat,
    ) -> Result<Self, GpuError> {
        let chunk = rung.chunk();
        let chunks = segment / chunk;
        let delta = s.heads * if rung == Ssd::Sequential { s.l } else { segment };
        let initial = || Tensor::activations(gpu, "ssd initial states", chunks * s.state_len(), act);
        Ok(Self {
            delta: Tensor::zeros(gpu, "ssd delta", delta)?,
            cumsum: Tensor::zeros(gpu, "ssd cumsum", 2 * segment * s.heads)?,
            cb: Tensor::activations(gpu, "ssd C B", chunks * s.groups * chunk * chunk, act)?,
            states: Tensor::zeros(gpu, "ssd states", chunks * s.state_len())?,
            initial: (act == NumberFormat::F16).then(initial).transpose()?,
            transposed: rung == Ssd::Matrices,
            chunk,
            segment,
        })
    }
}

/// The rows or columns of a tile for so many of them: 32 where 64 would leave the last one half empty.
fn tile(n: usize) -> u32 {
    if (1..=32).contains(&(n % 64)) {
        32
    } else {
        64
    }
}

pub(super) fn chunk_spec(name: &'static str, chunk: usize) -> ShaderSpec {
    ShaderSpec::new(name).constant("CHUNK", chunk as u32)
}
pub(super) fn cumsum_spec(chunk: usize, zxbcdt: NumberFormat) -> ShaderSpec {
    chunk_spec("ssd_chunk_cumsum", chunk).number("xz_t", zxbcdt)
}
fn tiled_spec(name: &'static str, (rows, columns): (u32, u32), quads: bool, act: NumberFormat) -> ShaderSpec {
    let spec = chunk_spec(name, SSD_CHUNK).constant("ROWS", rows).constant("COLS", columns);
    spec.flag("QUADS", quads).number("act", act)
}
/// `transposed`: states are (d_state, head_dim), initial ones `act`.
pub(super) fn passing_spec(chunk: usize, runs: bool, transposed: bool, act: NumberFormat) -> ShaderSpec {
    let segments = if runs { SEGMENTS } else { 1 };
    let spec = chunk_spec("ssd_state_passing", chunk).flag("RUNS", runs).flag("TRANSPOSED", transposed);
    let spec = spec.flag("APART", act == NumberFormat::F16).number("act", act);
    spec.constant("SEGMENTS", segments).constant("WIDTH", 256 / segments)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = Vec::from([false, true].map(|runs| passing_spec(SSD_CHUNK, runs, false, NumberFormat::F32)));
    for act in [NumberFormat::F32, NumberFormat::F16] {
        specs.push(cumsum_spec(SSD_CHUNK, act));
        for columns in [32, 64] {
            specs.extend([32, 64].map(|rows| tiled_spec("ssd_chunk_state", (rows, columns), false, act)));
        }
        for quads in [false, true] {
            specs.push(tiled_spec("ssd_bmm_chunk", (BMM_TILE as u32, BMM_TILE as u32), quads, act));
            specs.extend([32, 64].map(|columns| tiled_spec("ssd_chunk_scan", (SSD_CHUNK as u32, columns), quads, act)));
        }
    }
    specs
}

/// What every kernel of a segment gets.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a, 'b> {
    pub w: &'a SsdWorkspace,
    pub b: &'a SsdBuffers<'b>,
    pub s: &'a SsdShape,
    pub params: Params,
}

impl<'a, 'b> Segment<'a, 'b> {
    /// From token t0 on, as much as there is room for.
    pub(super) fn new(w: &'a SsdWorkspace, b: &'a SsdBuffers<'b>, s: &'a SsdShape, t0: usize) -> Self {
        let l = w.segment.min(s.l - t0);
        Self { w, b, s, params: Params { n_chunks: l.div_ceil(w.chunk) as u32, ..s.params(t0, l) } }
    }

    /// All of a text.
    pub(super) fn all(
        w: &'a SsdWorkspace,
        b: &'a SsdBuffers<'b>,
        s: &'a SsdShape,
    ) -> impl Iterator<Item = Segment<'a, 'b>> {
        (0..s.l).step_by(w.segment.max(1)).map(move |t0| Self::new(w, b, s, t0))
    }

    pub(super) fn chunks(&self) -> usize {
        self.params.n_chunks as usize
    }

    pub(super) fn cumsum(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let bindings =
            [(1, self.b.zxbcdt), (2, self.b.dt_bias), (3, self.b.a), (4, &self.w.delta), (5, &self.w.cumsum)];
        let groups = [self.s.heads.div_ceil(256 / self.w.chunk) as u64, self.chunks() as u64];
        plan.dispatch(cumsum_spec(self.w.chunk, self.b.zxbcdt.format()), &self.params, &bindings, groups)
    }

    fn bmm(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let quads = self.s.whole_quads(self.s.xbc_stride);
        let bindings = [(if quads { 2 } else { 1 }, self.b.xbc), (3, &self.w.cb)];
        let tiles = (SSD_CHUNK / BMM_TILE).pow(2) as u64;
        let spec = tiled_spec("ssd_bmm_chunk", (BMM_TILE as u32, BMM_TILE as u32), quads, self.b.xbc.format());
        plan.dispatch(spec, &self.params, &bindings, [tiles, (self.chunks() * self.s.groups) as u64])
    }

    fn state(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let bindings = [(1, self.b.xbc), (3, &self.w.delta), (4, &self.w.cumsum), (5, &self.w.states)];
        let (rows, columns) = (tile(self.s.head_dim), tile(self.s.d_state));
        let tiles = self.s.head_dim.div_ceil(rows as usize) * self.s.d_state.div_ceil(columns as usize);
        let spec = tiled_spec("ssd_chunk_state", (rows, columns), false, self.b.xbc.format());
        plan.dispatch(spec, &self.params, &bindings, [tiles as u64, (self.chunks() * self.s.heads) as u64])
    }

    pub(super) fn passing(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let mut bindings = vec![(1, &self.w.cumsum), (2, self.b.ssm_state), (3, &self.w.states)];
        bindings.extend(self.w.initial.as_ref().map(|initial| (4, initial)));
        // States are read once more where runs are reduced first. That pays where chunks are short and so many, whatever the states.
        let alone = self.w.transposed && self.s.state_len() >= MANY;
        let runs = self.chunks() > SEGMENTS as usize && !alone;
        let act = self.w.initial.as_ref().map_or(NumberFormat::F32, Tensor::format);
        let spec = passing_spec(self.w.chunk, runs, self.w.transposed, act);
        let width = if runs { 256 / SEGMENTS } else { 256 };
        let limit = plan.gpu().limits().max_compute_workgroups_per_dimension;
        plan.dispatch(spec, &self.params, &bindings, grid(self.s.state_len(), width as usize, limit))
    }

    fn scan(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let quads = self.s.whole_quads(self.s.xbc_stride);
        // As scalars and, where its rows allow it, as quads.
        let mut bindings = vec![(1, self.b.xbc)];
        if quads {
            bindings.push((2, self.b.xbc));
        }
        bindings.extend([(3, &self.w.delta), (4, &self.w.cumsum), (5, &self.w.states), (6, &self.w.cb)]);
        bindings.extend([(7, self.b.d), (8, self.b.y)]);
        let columns = tile(self.s.head_dim);
        let spec = tiled_spec("ssd_chunk_scan", (SSD_CHUNK as u32, columns), quads, self.b.xbc.format());
        let tiles = self.s.head_dim.div_ceil(columns as usize) as u64;
        plan.dispatch(spec, &self.params, &bindings, [tiles, (self.chunks() * self.s.heads) as u64])
    }
}

/// The kernels of the workspace's first segment one by one, for their checks.
macro_rules! parts {
    ($($(#[$doc:meta])* $name:ident: $method:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(
            plan: &mut PlanBuilder<'_>,
            w: &SsdWorkspace,
            b: &SsdBuffers<'_>,
            s: &SsdShape,
        ) -> Result<(), GpuError> {
            if s.l == 0 {
                return Ok(());
            }
            Segment::new(w, b, s, 0).$method(plan)
        }
    )*};
}

pub(super) use parts;

parts! {
    /// delta, and the sums of delta A within each chunk, of the workspace's first segment (as all of these).
    ssd_chunk_cumsum: cumsum,
    /// `C[t] . B[s]` within each chunk.
    ssd_bmm_chunk: bmm,
    /// What each chunk adds to the state.
    ssd_chunk_state: state,
    /// Each chunk's initial state, and the final one.
    ssd_state_passing: passing,
    /// y.
    ssd_chunk_scan: scan,
}

/// y and the state by products of matrices within chunks.
pub fn ssd_chunked(
    plan: &mut PlanBuilder<'_>,
    w: &SsdWorkspace,
    b: &SsdBuffers<'_>,
    s: &SsdShape,
) -> Result<(), GpuError> {
    for segment in Segment::all(w, b, s) {
        segment.cumsum(plan)?;
        segment.bmm(plan)?;
        segment.state(plan)?;
        segment.passing(plan)?;
        segment.scan(plan)?;
    }
    Ok(())
}
