//! The buffers of a session: a chunk's activations, the recurrent state, what scoring writes.

use super::GpuModel;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{GpuError, Tensor};
use crate::kernels::{BlellochWorkspace, FusedWorkspace, COOP_TILE};
use crate::model::{ModelConfig, Scan};

pub(super) enum ScanWorkspace {
    Sequential,
    Blelloch(BlellochWorkspace),
    Fused(FusedWorkspace),
}

/// Rows of logits that are worked out at once; also what aligns the views of scores (64 x 4 bytes).
pub(super) const SCORE_ROWS: usize = 64;

/// The activations of a chunk of up to `capacity` tokens, in f32, or those marked act in another format.
pub(super) struct Workspace {
    pub(super) capacity: usize,
    pub(super) tokens: Tensor,   // (L), u32
    pub(super) residual: Tensor, // (L, d_model)
    pub(super) normed: Tensor,   // (L, d_model), act
    pub(super) last: Tensor,     // (up to SCORE_ROWS, d_model), what the head reads
    pub(super) xz: Tensor,       // (L, 2 d_inner), L up to whole COOP_TILEs where cooperative matrices write it
    pub(super) u: Tensor,        // (L, d_inner), act
    pub(super) x_dbl: Tensor,    // (L, dt_rank + 2 d_state)
    pub(super) delta: Tensor,    // (L, d_inner), act
    pub(super) y: Tensor,        // (L, d_inner), act
    pub(super) hidden: Tensor,   // (L, d_model), L likewise
    pub(super) scan: ScanWorkspace,
    /// Where it is noticed that a value is beyond f16: 1, then. None: nothing here is multiplied in f16.
    pub(super) beyond: Option<Tensor>,
}

impl Workspace {
    /// `watch`: whether f16 may be used (activations in it, products by halves), and values that it cannot hold are to
    /// be noticed. Otherwise all is f32.
    pub(super) fn new(
        model: &GpuModel,
        l: usize,
        scan: Option<Scan>,
        (act, watch): (NumberFormat, bool),
    ) -> Result<Self, GpuError> {
        let (gpu, c) = (&model.gpu, &model.config);
        let rows = |label: &str, width: usize| Tensor::zeros(gpu, label, l * width);
        let tall = if l > 1 && gpu.cooperative() { l.next_multiple_of(COOP_TILE) } else { l };
        let tiles = |label: &str, width: usize| Tensor::zeros(gpu, label, tall * width);
        let act = |label: &str, width: usize| Tensor::activations(gpu, label, l * width, act);
        let scan = match scan {
            None | Some(Scan::Sequential) => ScanWorkspace::Sequential,
            Some(Scan::Blelloch) => ScanWorkspace::Blelloch(BlellochWorkspace::new(gpu, l, c.d_inner, c.d_state)?),
            Some(Scan::Fused) => ScanWorkspace::Fused(FusedWorkspace::new(gpu, l, c.d_inner, c.d_state)?),
        };
        let beyond = match (watch, &scan) {
            (false, _) => None,
            (true, ScanWorkspace::Fused(fused)) => Some(fused.beyond().clone()),
            (true, _) => Some(Tensor::zeros(gpu, "beyond f16", 1)?),
        };
        // What is multiplied by matrices is watched where it is stored.
        let factor = |tensor: Tensor| match &beyond {
            Some(flag) => tensor.watched_by(flag),
            None => tensor.of_any_size(),
        };
        let y = act("y", c.d_inner)?;
        Ok(Self {
            capacity: l,
            tokens: rows("tokens", 1)?,
            residual: rows("residual", c.d_model)?,
            normed: factor(act("normed", c.d_model)?),
            last: factor(Tensor::zeros(gpu, "last", l.min(SCORE_ROWS) * c.d_model)?),
            xz: tiles("xz", 2 * c.d_inner)?,
            u: factor(act("u", c.d_inner)?),
            x_dbl: factor(rows("x_dbl", model.x_dbl_width())?),
            delta: act("delta", c.d_inner)?, // scan_fused looks at it
            // The other scans have no binding left for a flag.
            y: if matches!(scan, ScanWorkspace::Fused(_)) { factor(y) } else { y.of_any_size() },
            hidden: tiles("hidden", c.d_model)?,
            scan,
            beyond,
        })
    }
}

/// The recurrent state of all layers. Each layer's part begins at a multiple of 64 elements, so that it can be bound.
pub(super) struct State {
    pub(super) conv: Tensor, // n_layer x (d_conv, d_inner)
    pub(super) ssm: Tensor,  // n_layer x (d_inner, d_state)
}

impl State {
    pub(super) fn new(model: &GpuModel) -> Result<Self, GpuError> {
        let (c, n) = (&model.config, model.config.n_layer);
        Ok(Self {
            conv: Tensor::zeros(&model.gpu, "conv_state", n * Self::conv_stride(c))?,
            ssm: Tensor::zeros(&model.gpu, "ssm_state", n * Self::ssm_stride(c))?,
        })
    }
    pub(super) fn conv_stride(c: &ModelConfig) -> usize {
        (c.d_conv * c.d_inner).next_multiple_of(64)
    }
    pub(super) fn ssm_stride(c: &ModelConfig) -> usize {
        (c.d_inner * c.d_state).next_multiple_of(64)
    }
    pub(super) fn conv_layer(&self, c: &ModelConfig, layer: usize) -> Tensor {
        self.conv.slice(layer * Self::conv_stride(c), c.d_conv * c.d_inner)
    }
    pub(super) fn ssm_layer(&self, c: &ModelConfig, layer: usize) -> Tensor {
        self.ssm.slice(layer * Self::ssm_stride(c), c.d_inner * c.d_state)
    }
}

/// What [`GpuSession::score`] writes: a block of logits at a time, and its results for a whole chunk.
pub(super) struct ScoreBuffers {
    pub(super) logits: Tensor,  // (SCORE_ROWS, vocab_size)
    pub(super) argmax: Tensor,  // (L), u32
    pub(super) targets: Tensor, // (L), u32
    pub(super) nll: Tensor,     // (L)
}
