//! Mamba (selective state space models, [arXiv 2312.00752](https://arxiv.org/abs/2312.00752)) on every GPU.
//!
//! WGSL compute shaders, dispatched through wgpu, run Mamba-1, Falcon-Mamba and Mamba-2 checkpoints on Vulkan, Metal, DX12 and
//! OpenGL; their CPU twins run them where there is no GPU.
//!
//! ```no_run
//! use mamba_wgpu::generate::SamplingParams;
//! use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelOptions};
//!
//! # async fn run() -> mamba_wgpu::Result<()> {
//! let backend = Backend::auto().await; // a hardware GPU, or else the CPU
//! let checkpoint = Checkpoint::open("mamba-130m-hf".as_ref())?;
//! let model = LanguageModel::load(&checkpoint, &backend, ModelOptions::default(), &mut |_, _| {}).await?;
//! let mut session = model.session()?;
//! session.prefill(&[1, 2, 3], &mut |_, _| {}).await?;
//! session.begin_sampling(&SamplingParams::default(), &[])?;
//! let token = session.sample().await?;
//! session.step(token).await
//! # }
//! ```
//!
//! # Pipeline
//!
//! ```text
//! text --Tokenizer--> tokens (L)
//!   embedding       residual (L, d_model)
//!   n_layer times:
//!     rms_norm      normed (L, d_model)                residual += hidden of the layer before
//!     in_proj       xz (L, 2 d_inner)                  x | z
//!     conv1d        u (L, d_inner)                     causal, depthwise, d_conv wide, + bias, SiLU
//!     x_proj        x_dbl (L, dt_rank + 2 d_state)     dt | B | C
//!     dt_proj       delta (L, d_inner)                 softplus(dt W + bias)
//!     scan          y (L, d_inner)                     h = exp(delta A) h + delta B u;  y = (C h + D u) silu(z)
//!     out_proj      hidden (L, d_model)
//!   rms_norm, head  logits (vocab_size)
//!   sample          token
//! ```
//!
//! # Glossary
//!
//! | name | paper (section 3) | shape | meaning |
//! | --- | --- | --- | --- |
//! | `u` | x | (L, d_inner) | the scan's input, the convolution's output |
//! | `delta` | Δ | (L, d_inner) | step size: how far each token opens the gate, > 0 |
//! | `A` | A | (d_inner, d_state) | -exp(`A_log`), diagonal: each state's own decay |
//! | `B`, `C` | B, C | (L, d_state) | what of a token enters the state, what of the state leaves it; per token |
//! | `D` | D | (d_inner) | skip past the state |
//! | `z` | | (L, d_inner) | gate on the output |
//! | `h`, `ssm_state` | h | (d_inner, d_state) | the recurrent state of a layer |
//! | `conv_state` | | (d_conv, d_inner) | the convolution's last inputs, oldest first |
//! | `dA`, `dBu` | Ā, B̄x | (L, d_inner, d_state) | discretised: exp(delta A), delta B u |
//!
//! `L` is a length in tokens, `d_model` the width of the residual stream, `d_inner` the width inside a layer (`expand` x
//! `d_model`), `dt_rank` the width through which delta is projected. All arrays are row-major.

pub mod bench;
pub mod checkpoint;
pub mod checks;
pub mod error;
pub mod explain;
#[cfg(not(target_arch = "wasm32"))]
pub mod files;
pub mod generate;
pub mod gpu;
pub mod html;
pub mod kernels;
pub mod model;
pub mod reference;
pub mod settings;
pub mod train;
#[cfg(all(target_arch = "wasm32", feature = "web"))]
mod web;

pub use error::{Error, Result};
