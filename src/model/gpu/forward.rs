//! The forward pass as dispatches: all layers, one of them, the head, the fused step.

use super::buffers::{ScanWorkspace, Workspace};
use super::session::GpuSession;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, RmsNorm, ScanBuffers, ScanShape, StepBuffers, StepShape};
use crate::model::Arch;

impl GpuSession {
    /// All layers over l tokens, from `tokens` to `residual` and `hidden` (whose sum is the last layer's output).
    /// `step`: the recurrent kernels for one token instead of the parallel ones.
    pub(super) fn layers(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        l: usize,
        step: bool,
    ) -> Result<(), GpuError> {
        kernels::embedding(plan, &self.model.embedding, &w.tokens, &w.residual, l)?;
        (0..self.model.layers.len()).try_for_each(|i| self.layer(plan, w, i, l, step))
    }

    /// Layer `i` of them, from `residual` and, but for the first, `hidden`.
    pub(super) fn layer(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        i: usize,
        l: usize,
        step: bool,
    ) -> Result<(), GpuError> {
        let c = &self.model.config;
        let layer = &self.model.layers[i];
        let norm = RmsNorm { rows: l, row0: 0, d: c.d_model, eps: c.norm_eps };
        kernels::rms_norm(plan, &w.residual, (i > 0).then_some(&w.hidden), &layer.norm, &w.normed, norm)?;
        let linear = |x_stride, y_stride| kernels::Linear { l, x_stride, y_stride, softplus: false };
        let bias = layer.in_proj_bias.as_ref();
        kernels::linear(plan, &w.normed, &layer.in_proj, bias, &w.xz, linear(c.d_model, 2 * c.d_inner))?;

        let conv_state = self.state.conv_layer(c, i);
        let conv = kernels::Conv1d {
            xz: &w.xz,
            conv_state: &conv_state,
            weight: &layer.conv1d,
            bias: layer.conv1d_bias.as_ref(),
            u: &w.u,
        };
        let shape = kernels::ConvShape { l, d_inner: c.d_inner, d_conv: c.d_conv, x_stride: 2 * c.d_inner };
        if step {
            kernels::conv1d_update(plan, &conv, shape)?;
        } else {
            kernels::conv1d(plan, &conv, shape)?;
            kernels::conv1d_state(plan, &conv, shape)?;
        }

        let width = self.model.x_dbl_width();
        kernels::linear(plan, &w.u, &layer.x_proj, None, &w.x_dbl, linear(c.d_inner, width))?;
        if c.arch == Arch::FalconMamba {
            kernels::x_dbl_norm(plan, &w.x_dbl, l, c.dt_rank, c.d_state, c.mixer_rms_eps)?;
        }
        let dt = kernels::Linear { softplus: true, ..linear(width, c.d_inner) };
        kernels::linear(plan, &w.x_dbl, &layer.dt_proj, Some(&layer.dt_proj_bias), &w.delta, dt)?;

        let ssm_state = self.state.ssm_layer(c, i);
        let buffers = ScanBuffers {
            u: &w.u,
            delta: &w.delta,
            a: &layer.a,
            x_dbl: &w.x_dbl,
            d: &layer.d,
            xz: &w.xz,
            ssm_state: &ssm_state,
            y: &w.y,
        };
        let shape = ScanShape::of_layer(l, c.d_inner, c.d_state, c.dt_rank);
        match &w.scan {
            _ if step => kernels::selective_state_update(plan, &buffers, shape)?,
            ScanWorkspace::Sequential => kernels::scan_sequential(plan, &buffers, shape)?,
            ScanWorkspace::Blelloch(b) => kernels::scan_blelloch(plan, b, &buffers, shape)?,
            ScanWorkspace::Fused(f) => kernels::scan_fused(plan, f, &buffers, shape)?,
        }
        let bias = layer.out_proj_bias.as_ref();
        kernels::linear(plan, &w.y, &layer.out_proj, bias, &w.hidden, linear(c.d_inner, c.d_model))
    }

    /// The final norm and the head for `rows` tokens from `row0` on.
    pub(super) fn head(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        (row0, rows): (usize, usize),
        logits: &Tensor,
    ) -> Result<(), GpuError> {
        let c = &self.model.config;
        let norm = RmsNorm { rows, row0, d: c.d_model, eps: c.norm_eps };
        // Without layers nothing is to be added.
        let hidden = (c.n_layer > 0).then_some(&w.hidden);
        kernels::rms_norm(plan, &w.residual, hidden, &self.model.norm_f, &w.last, norm)?;
        let head = self.model.lm_head.as_ref().unwrap_or(&self.model.embedding);
        let (x_stride, y_stride) = (c.d_model, c.vocab_size);
        let shape = kernels::Linear { l: rows, x_stride, y_stride, softplus: false };
        kernels::linear(plan, &w.last, head, None, logits, shape)
    }

    /// One token through all layers and the head by the fused step: four dispatches a layer, the residual stream added
    /// to in place.
    pub(super) fn fused_step(&self, plan: &mut PlanBuilder<'_>, w: &Workspace) -> Result<(), GpuError> {
        let c = &self.model.config;
        let falcon = c.arch == Arch::FalconMamba;
        let shape = StepShape {
            d_inner: c.d_inner,
            d_state: c.d_state,
            d_conv: c.d_conv,
            dt_rank: c.dt_rank,
            mixer_rms_eps: falcon.then_some(c.mixer_rms_eps),
        };
        kernels::embedding(plan, &self.model.embedding, &w.tokens, &w.residual, 1)?;
        for (i, layer) in self.model.layers.iter().enumerate() {
            let (conv_state, ssm_state) = (self.state.conv_layer(c, i), self.state.ssm_layer(c, i));
            let buffers = StepBuffers {
                uz: &w.xz,
                x_dbl: &w.x_dbl,
                channels: &layer.channels,
                dt_proj: &layer.dt_proj,
                a: &layer.a,
                conv_state: &conv_state,
                ssm_state: &ssm_state,
                y: &w.y,
            };
            let norm = (&layer.norm, c.norm_eps);
            let in_proj = (&layer.in_proj, layer.in_proj_bias.as_ref());
            kernels::matvec_norm_conv(plan, &w.residual, norm, in_proj, &buffers, shape)?;
            kernels::matvec_x_proj(plan, &buffers, &layer.x_proj)?;
            kernels::step_mixer(plan, &buffers, shape)?;
            kernels::matvec_add(plan, &w.y, &layer.out_proj, layer.out_proj_bias.as_ref(), &w.residual)?;
        }
        let head = self.model.lm_head.as_ref().unwrap_or(&self.model.embedding);
        kernels::matvec_norm(plan, &w.residual, (&self.model.norm_f, c.norm_eps), head, None, &self.logits)
    }
}
