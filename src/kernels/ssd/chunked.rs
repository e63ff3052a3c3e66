//! ssd_chunk_cumsum.wgsl, ssd_bmm_chunk.wgsl, ssd_chunk_state.wgsl, ssd_state_passing.wgsl, ssd_chunk_scan.wgsl: rung
//! (b).

use super::{Params, SsdBuffers, SsdShape};
use crate::gpu::plan::grid;
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

/// Tokens a chunk. A longer one would write fewer states and multiply more that does not count; 64 is a tile.
pub const SSD_CHUNK: usize = 64;
/// ssd_bmm_chunk.wgsl: rows and columns of a tile. Small, since there are few groups.
const BMM_TILE: usize = 32;
/// ssd_state_passing.wgsl: runs of chunks that a workgroup scans side by side, where there are chunks for them.
const SEGMENTS: u32 = 8;

/// What goes between the kernels: all that a rung writes besides its output.
pub struct SsdWorkspace {
    /// Chunked: (n_chunks, heads, SSD_CHUNK); sequential: (L, heads).
    pub delta: Tensor,
    /// (n_chunks, heads, SSD_CHUNK) of 64 bits, sums of delta A as shared/ssd_log.wgsl has them.
    pub cumsum: Tensor,
    /// (n_chunks, groups, SSD_CHUNK, SSD_CHUNK), `C[t] . B[s]`; above the diagonal anything.
    pub cb: Tensor,
    /// (n_chunks, heads, head_dim, d_state): what each chunk adds, then its initial state.
    pub states: Tensor,
    /// Tokens that there is room for, whole chunks: a longer text goes through in segments.
    segment: usize,
}

/// Tokens, whole chunks, whose arrays each fit one binding and whose grids fit the adapter.
pub(super) fn segment(gpu: &Gpu, s: &SsdShape) -> usize {
    let values = [s.state_len(), 2 * s.heads * SSD_CHUNK, s.groups * SSD_CHUNK * SSD_CHUNK];
    let fits = gpu.max_binding() / (4 * values.into_iter().max().unwrap_or(1).max(1) as u64);
    let groups = u64::from(gpu.limits().max_compute_workgroups_per_dimension) / s.heads.max(1) as u64;
    (s.l.div_ceil(SSD_CHUNK) as u64).min(fits).min(groups).max(1) as usize * SSD_CHUNK
}

impl SsdWorkspace {
    pub(super) fn of_segment(gpu: &Gpu, segment: usize, delta: usize, s: &SsdShape) -> Result<Self, GpuError> {
        let chunks = segment / SSD_CHUNK;
        Ok(Self {
            delta: Tensor::zeros(gpu, "ssd delta", delta)?,
            cumsum: Tensor::zeros(gpu, "ssd cumsum", 2 * segment * s.heads)?,
            cb: Tensor::zeros(gpu, "ssd C B", chunks * s.groups * SSD_CHUNK * SSD_CHUNK)?,
            states: Tensor::zeros(gpu, "ssd states", chunks * s.state_len())?,
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

fn chunk_spec(name: &'static str) -> ShaderSpec {
    ShaderSpec::new(name).constant("CHUNK", SSD_CHUNK as u32)
}
fn cumsum_spec(zxbcdt: NumberFormat) -> ShaderSpec {
    chunk_spec("ssd_chunk_cumsum").number("xz_t", zxbcdt)
}
fn tiled_spec(name: &'static str, (rows, columns): (u32, u32), quads: bool, act: NumberFormat) -> ShaderSpec {
    chunk_spec(name).constant("ROWS", rows).constant("COLS", columns).flag("QUADS", quads).number("act", act)
}
fn passing_spec(n_chunks: usize) -> ShaderSpec {
    let segments = if n_chunks > SEGMENTS as usize { SEGMENTS } else { 1 };
    let spec = chunk_spec("ssd_state_passing").flag("RUNS", segments > 1);
    spec.constant("SEGMENTS", segments).constant("WIDTH", 256 / segments)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = vec![passing_spec(1), passing_spec(9)];
    for act in [NumberFormat::F32, NumberFormat::F16] {
        specs.push(cumsum_spec(act));
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
struct Segment<'a, 'b> {
    w: &'a SsdWorkspace,
    b: &'a SsdBuffers<'b>,
    s: &'a SsdShape,
    params: Params,
}

impl Segment<'_, '_> {
    fn chunks(&self) -> usize {
        self.params.n_chunks as usize
    }

    fn cumsum(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let bindings =
            [(1, self.b.zxbcdt), (2, self.b.dt_bias), (3, self.b.a), (4, &self.w.delta), (5, &self.w.cumsum)];
        let groups = [self.s.heads.div_ceil(256 / SSD_CHUNK) as u64, self.chunks() as u64];
        plan.dispatch(cumsum_spec(self.b.zxbcdt.format()), &self.params, &bindings, groups)
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

    fn passing(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let bindings = [(1, &self.w.cumsum), (2, self.b.ssm_state), (3, &self.w.states)];
        let spec = passing_spec(self.chunks());
        let width = if self.chunks() > SEGMENTS as usize { 256 / SEGMENTS } else { 256 };
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
            Segment { w, b, s, params: s.params(0, s.l.min(w.segment)) }.$method(plan)
        }
    )*};
}

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
    for t0 in (0..s.l).step_by(w.segment.max(1)) {
        let segment = Segment { w, b, s, params: s.params(t0, w.segment.min(s.l - t0)) };
        segment.cumsum(plan)?;
        segment.bmm(plan)?;
        segment.state(plan)?;
        segment.passing(plan)?;
        segment.scan(plan)?;
    }
    Ok(())
}
