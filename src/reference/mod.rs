//! The CPU twins of the GPU kernels: one function a kernel, under the kernel's name.
//!
//! A twin says in plain Rust what its WGSL file computes, over row-major slices, and is generic over [`Real`]: in `f64` it
//! is the oracle that the tests and the self-test hold kernels against, in `f32` it is the CPU backend
//! (`model::cpu`). Lengths are the caller's duty: they are checked by `debug_assert!`, and a slice that is too short
//! panics. Data never makes a twin panic: NaN and infinities flow through as IEEE arithmetic has them.
//!
//! Shapes: `L` positions, then the paper's names (`d_model`, `d_inner`, `d_state`, `d_conv`, `dt_rank`).

use std::fmt::Debug;

use num_traits::{Float, NumAssign};

mod activate;
mod attention;
pub mod backward;
mod conv;
mod discretise;
mod dots;
mod embedding;
mod experts;
mod explain;
mod fill;
mod gated_norm;
mod linear;
mod norm;
mod optimiser;
pub(crate) mod par;
mod quant;
mod real;
mod sampling;
mod scale_add;
mod scan;
mod ssd;
mod threefry;
mod update;

pub use activate::{activate, ActivateShape, Activation};
pub use attention::{attention, rope, store_keys_values, AttentionShape, PAGE, ROTATIONS};
pub use conv::{conv1d, conv1d_state, conv1d_update, ConvShape};
pub use discretise::{decay_rate, discretise, silu, softplus};
pub use embedding::embedding;
pub use experts::{experts_sum, route, route_order, Gating, Router, MOST_EXPERTS};
pub use explain::{channel_stats, hidden_attention, token_stats, ExplainInput, ExplainShape};
pub use fill::{fill, Fill, FillKind};
pub use gated_norm::{gated_rms_norm, GatedNorm, GatedShape};
pub use linear::{matmul, matvec, Epilogue, Linear, Weights};
pub use norm::{rms_norm, x_dbl_norm};
pub use optimiser::{adamw, gradient_clip, gradient_norm, AdamStep, AdamWeights};
pub use quant::{dequantise, quantise, Quant, Quantised, BLOCK};
pub use sampling::{argmax, sample, sample_at, token_nll};
pub use scale_add::scale_add;
pub use scan::{blelloch_exclusive, scan_blelloch, scan_fused, scan_sequential, ScanElement, ScanInput, ScanShape};
pub use ssd::{
    ssd_bmm_chunk, ssd_chunk_cumsum, ssd_chunk_scan, ssd_chunk_state, ssd_chunked, ssd_delta, ssd_sequential,
    ssd_state_passing, ssd_state_update, SsdChunks, SsdInput, SsdShape,
};
pub use threefry::{threefry2x32, uniform};
pub use update::{selective_state_update, step_mixer, StepWeights};

/// The number a twin computes in: `f32` as on the GPU, `f64` as the oracle.
pub trait Real: Float + NumAssign + Send + Sync + Debug + Default + 'static {
    /// The value of `x`, exact for both implementations.
    fn from_f32(x: f32) -> Self;
    /// The value nearest to `x`.
    fn from_f64(x: f64) -> Self;
    /// This value, exact for both implementations.
    fn as_f64(self) -> f64;
    /// e to the power of `self`, without branches, so that a loop over it becomes vector instructions: in `f32` within
    /// 2 units in the last place (results below the smallest normal number are 0), in `f64` the standard library's.
    fn exp_lane(self) -> Self;
    /// The dot product of each of `xs` with each of `ws`, all of one length, summed in eight interleaved partial sums.
    fn dots<const L: usize, const N: usize>(xs: [&[Self]; L], ws: [&[Self]; N]) -> [[Self; N]; L] {
        dots::portable(xs, ws)
    }
}
