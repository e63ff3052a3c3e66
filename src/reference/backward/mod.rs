//! Twins of the kernels that only training needs (`shaders/backward/`): gradients, and forward passes that keep what these read.
//!
//! The gradient of a parameter is added to what is there (so that micro-batches accumulate), that of an activation replaces it;
//! exceptions say so. `rows` are the tokens of all sequences, one sequence after the other.

mod conv;
mod embedding;
mod linear;
mod loss;
mod norm;
mod pointwise;
mod scan;

pub use conv::{conv1d_backward, conv1d_batch, conv1d_state_batch, ConvGrads, ConvInputs};
pub use embedding::{embedding_backward, token_order};
pub use linear::{column_sums, largest, matmul_grad_w, matmul_grad_x};
pub use loss::{cross_entropy, CrossEntropy, IGNORE};
pub use norm::{rms_norm_backward, rms_norm_train};
pub use pointwise::{negative_exp, silu_and_slope, softplus_slope};
pub use scan::{scan_backward, scan_train, ScanGrads, TrainScan};
