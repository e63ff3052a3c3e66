//! discretise.wgsl, scan_blelloch.wgsl, scan_blelloch_add.wgsl, scan_output.wgsl: rung (b), the textbook scan.

use super::{ScanBuffers, ScanParams, ScanShape};
use crate::gpu::shader::ShaderSpec;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};

/// Half of the elements over time that a workgroup scans; the more, the fewer (channel, state) lanes beside each other.
pub(super) const WIDTHS: [u32; 3] = [2, 8, 32];
/// Invocations of a workgroup: width x lanes.
const WG: usize = 256;

pub(super) fn spec(width: u32) -> ShaderSpec {
    ShaderSpec::new("scan_blelloch").constant("WIDTH", width)
}
pub(super) fn add_spec(width: u32) -> ShaderSpec {
    ShaderSpec::new("scan_blelloch_add").constant("WIDTH", width)
}

/// The narrowest block that holds the length, or the widest there is.
fn width(length: usize) -> u32 {
    let fits = WIDTHS.into_iter().find(|w| 2 * *w as usize >= length);
    fits.unwrap_or(WIDTHS[WIDTHS.len() - 1])
}

/// The materialised pairs and the block sums of every level.
pub struct BlellochWorkspace {
    /// Level 0: the pairs (segment, lanes); then the sums of a block's pairs, of a block's sums, ... down to one.
    levels: Vec<(Tensor, Tensor)>,
    /// Tokens that the pairs have room for: a longer chunk goes through in segments.
    segment: usize,
}

impl BlellochWorkspace {
    /// For chunks of up to l tokens, with every array within the adapter's limit a binding.
    pub fn new(gpu: &Gpu, l: usize, d_inner: usize, d_state: usize) -> Result<Self, GpuError> {
        let lanes = d_inner * d_state;
        let room = (gpu.max_binding() / (lanes.max(1) as u64 * 4)) as usize;
        let segment = l.min(room).max(1);
        let mut levels = Vec::new();
        let mut length = segment;
        loop {
            let pair = |name: &str| Tensor::zeros(gpu, name, length * lanes);
            levels.push((pair("scan dA")?, pair("scan dBu")?));
            if length == 1 {
                break;
            }
            length = length.div_ceil(2 * width(length) as usize);
        }
        Ok(Self { levels, segment })
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    lanes: u32,
}

/// Scans level `level` of `length` elements, in place. A single element is its own prefix.
fn scan_level(
    plan: &mut PlanBuilder<'_>,
    levels: &[(Tensor, Tensor)],
    level: usize,
    length: usize,
    lanes: usize,
) -> Result<(), GpuError> {
    if length <= 1 {
        return Ok(());
    }
    let (a, b) = &levels[level];
    let (sums_a, sums_b) = &levels[level + 1];
    let params = Params { l: length as u32, lanes: lanes as u32 };
    let bindings = [(1, a), (2, b), (3, sums_a), (4, sums_b)];
    let width = width(length);
    let blocks = length.div_ceil(2 * width as usize);
    let groups = [lanes.div_ceil(WG / width as usize) as u64, blocks as u64];
    plan.dispatch(spec(width), &params, &bindings, groups)?;
    if blocks > 1 {
        scan_level(plan, levels, level + 1, blocks, lanes)?;
        plan.dispatch_flat(add_spec(width), &params, &bindings, length * lanes, 256)?;
    }
    Ok(())
}

/// The selective scan through materialised pairs (exp(delta A), delta B u): discretise, work-efficient scan, output.
pub fn scan_blelloch(
    plan: &mut PlanBuilder<'_>,
    workspace: &BlellochWorkspace,
    b: &ScanBuffers<'_>,
    shape: ScanShape,
) -> Result<(), GpuError> {
    let lanes = shape.d_inner * shape.d_state;
    let (da, dbu) = &workspace.levels[0];
    for t0 in (0..shape.l).step_by(workspace.segment) {
        let length = workspace.segment.min(shape.l - t0);
        let params = ScanParams { l: length as u32, t0: t0 as u32, ..shape.params() };
        let bindings = [(1, b.u), (2, b.delta), (3, b.a), (4, b.x_dbl), (5, b.ssm_state), (6, da), (7, dbu)];
        plan.dispatch_flat(ShaderSpec::new("discretise"), &params, &bindings, length * lanes, 256)?;
        scan_level(plan, &workspace.levels, 0, length, lanes)?;
        let bindings = [(1, b.u), (2, dbu), (3, b.x_dbl), (4, b.d), (5, b.xz), (6, b.ssm_state), (7, b.y)];
        plan.dispatch_flat(ShaderSpec::new("scan_output"), &params, &bindings, length * shape.d_inner, 256)?;
    }
    Ok(())
}
