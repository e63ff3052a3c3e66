//! cross_entropy.wgsl.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::reference::backward::CrossEntropy;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    vocab_size: u32,
    label_smoothing: f32,
}

fn spec() -> ShaderSpec {
    ShaderSpec::new("backward/cross_entropy").constant("WG", 256)
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    vec![spec()]
}

/// nll (rows) = -sum(wanted log p), where wanted is onehot(target) with `label_smoothing` of it spread evenly, and logits (rows,
/// vocab_size) become scale (1) times softmax - wanted. Both are 0 where the target is [`IGNORE`](super::IGNORE). Other targets (u32, rows) are below vocab_size: the caller checks.
pub fn cross_entropy(
    plan: &mut PlanBuilder<'_>,
    logits: &Tensor,
    targets: &Tensor,
    scale: &Tensor,
    nll: &Tensor,
    shape: CrossEntropy,
) -> Result<(), GpuError> {
    let CrossEntropy { rows, vocab_size, label_smoothing } = shape;
    let params = Params { rows: rows as u32, vocab_size: vocab_size as u32, label_smoothing };
    plan.dispatch_flat(spec(), &params, &[(1, logits), (2, targets), (3, scale), (4, nll)], rows, 1)
}
