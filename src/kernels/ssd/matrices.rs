//! ssd_matrix_bmm.wgsl, ssd_matrix_state.wgsl, ssd_matrix_scan.wgsl: the chunked rung's heavy kernels by cooperative matrices.

use super::chunked::{chunk_spec, cumsum_spec, parts, passing_spec, Segment};
use super::{SsdBuffers, SsdShape, SsdWorkspace};
use crate::gpu::shader::{NumberFormat, ShaderSpec};
use crate::gpu::{GpuError, PlanBuilder};

/// Tokens a chunk: the states of each are written and read again, whose memory is what bounds the rung; products within a chunk
/// grow with it.
pub(super) const CHUNK: usize = 256;
/// shared/ssd_matrix.wgsl: rows and columns of a tile.
const TILE: (usize, usize) = (128, 64);

/// Whether a shape is whole quads throughout, and D a number a head.
pub(super) fn fits(s: &SsdShape) -> bool {
    s.whole_quads(s.xbc_stride) && s.head_dim.is_multiple_of(4) && s.x_offset.is_multiple_of(4) && !s.d_has_hdim
}

/// Terms a slice: halves take twice the room and three times the products.
fn matrix_spec(name: &'static str, xbc: NumberFormat) -> ShaderSpec {
    let halves = xbc == NumberFormat::F32;
    let slice = if halves { SLICES.0 } else { SLICES.1 };
    // Quads of a slice that an invocation reads.
    let loads = |side: usize| (side * slice / 4 / THREADS) as u32;
    let spec = chunk_spec(name, CHUNK).constant("SLICE", slice as u32).flag("QUADS", true);
    let spec = spec.constant("LOADS_A", loads(TILE.0)).constant("LOADS_B", loads(TILE.1));
    let spec = spec.flag("HALVES", halves).flag("ACROSS", name == STATE).flag("ALONG", name == BMM);
    // Only what is a factor later is as xbc is.
    let out = if name == BMM { xbc } else { NumberFormat::F32 };
    spec.flag("STRIPS", out == NumberFormat::F16).number("act", xbc).number("out_t", out).cooperative()
}

/// Terms along k that go through workgroup memory together, with halves and without.
const SLICES: (usize, usize) = (16, 32);
/// Invocations of a workgroup.
const THREADS: usize = 256;

const BMM: &str = "ssd_matrix_bmm";
const STATE: &str = "ssd_matrix_state";
const SCAN: &str = "ssd_matrix_scan";

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = Vec::new();
    for act in [NumberFormat::F32, NumberFormat::F16] {
        specs.extend([BMM, STATE, SCAN].map(|name| matrix_spec(name, act)));
        specs.push(cumsum_spec(CHUNK, act));
        specs.extend([false, true].map(|runs| passing_spec(CHUNK, runs, true, act)));
    }
    specs
}

parts! {
    /// `C[t] . B[s]` within each chunk.
    ssd_matrix_bmm: matrix_bmm,
    /// What each chunk adds to the state.
    ssd_matrix_state: matrix_state,
    /// y.
    ssd_matrix_scan: matrix_scan,
}

impl Segment<'_, '_> {
    fn matrix_bmm(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let tiles = CHUNK / TILE.0 * (CHUNK / TILE.1);
        let groups = [tiles as u64, (self.chunks() * self.s.groups) as u64];
        let spec = matrix_spec(BMM, self.b.xbc.format());
        plan.dispatch(spec, &self.params, &[(2, self.b.xbc), (3, &self.w.cb)], groups)
    }

    fn matrix_state(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let bindings = [(2, self.b.xbc), (3, &self.w.delta), (4, &self.w.cumsum), (5, &self.w.states)];
        let tiles = self.s.d_state.div_ceil(TILE.0) * self.s.head_dim.div_ceil(TILE.1);
        let groups = [tiles as u64, (self.chunks() * self.s.heads) as u64];
        plan.dispatch(matrix_spec(STATE, self.b.xbc.format()), &self.params, &bindings, groups)
    }

    fn matrix_scan(&self, plan: &mut PlanBuilder<'_>) -> Result<(), GpuError> {
        let initial = self.w.initial.as_ref().unwrap_or(&self.w.states);
        let mut bindings =
            vec![(2, self.b.xbc), (3, &self.w.delta), (4, &self.w.cumsum), (5, initial), (6, &self.w.cb)];
        bindings.extend([(7, self.b.d), (8, self.b.y)]);
        let tiles = CHUNK / TILE.0 * self.s.head_dim.div_ceil(TILE.1);
        let groups = [tiles as u64, (self.chunks() * self.s.heads) as u64];
        plan.dispatch(matrix_spec(SCAN, self.b.xbc.format()), &self.params, &bindings, groups)
    }
}

/// y and the state by products of cooperative matrices within chunks, for shapes that fit.
pub fn ssd_matrices(
    plan: &mut PlanBuilder<'_>,
    w: &SsdWorkspace,
    b: &SsdBuffers<'_>,
    s: &SsdShape,
) -> Result<(), GpuError> {
    for segment in Segment::all(w, b, s) {
        segment.cumsum(plan)?;
        segment.matrix_bmm(plan)?;
        segment.matrix_state(plan)?;
        segment.passing(plan)?;
        segment.matrix_scan(plan)?;
    }
    Ok(())
}
