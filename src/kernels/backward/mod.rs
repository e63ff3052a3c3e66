//! The kernels that only training needs (shaders/backward/): gradients, and forward passes that keep what these read.
//!
//! The gradient of a parameter is added to what is there (micro-batches accumulate), that of an activation replaces it; exceptions
//! say so. All is f32. Every sum is made in one order: the same inputs give the same bits.

mod conv;
mod embedding;
mod linear;
mod loss;
mod norm;
mod pointwise;
mod scan;
mod scratch;
mod sums;

pub use super::conv1d::{conv1d_batch, conv1d_state_batch};
pub use crate::reference::backward::{token_order, CrossEntropy, TrainScan, IGNORE};
pub use conv::{conv1d_backward, Conv1dGrads};
pub use embedding::embedding_backward;
pub use linear::{gradient_of, matmul_grad, matmul_grad_w, matmul_grad_x, LinearGrad, MatmulGrads};
pub use loss::cross_entropy;
pub use norm::{rms_norm_backward, rms_norm_train, RmsNormGrads};
pub use pointwise::{negative_exp, softplus};
pub use scan::{scan_backward, scan_train, ScanGrads, ScanTape};
pub use scratch::ScratchShape;
pub use sums::{column_sums, largest, Columns, Factor, Scratch};

use crate::gpu::shader::ShaderSpec;

pub(super) fn specs() -> Vec<ShaderSpec> {
    let groups = [
        linear::specs(),
        sums::specs(),
        norm::specs(),
        loss::specs(),
        embedding::specs(),
        conv::specs(),
        scan::specs(),
    ];
    groups.into_iter().flatten().chain(pointwise::specs()).collect()
}
