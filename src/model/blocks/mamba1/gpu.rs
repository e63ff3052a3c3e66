//! A Mamba layer by the kernels.

use super::{Shape, Weights};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{
    self, BlellochWorkspace, ConvStep, FusedWorkspace, ScanBuffers, StateUpdate, StepBuffers, StepShape, WeightMatrix,
};
use crate::model::blocks::device::{Chunk, Host, LayerState, Numbers, Stream, Way};
use crate::model::blocks::explain::Seen;
use crate::settings::Scan;

/// A layer's weights on a device.
pub(crate) struct Layer {
    pub shape: Shape,
    /// `a_log` holds A: the loader has put it through `decay_rate`.
    pub w: Weights<WeightMatrix>,
    channels: Tensor, // (d_conv + 3, d_inner), see kernels::pack_channels
}

enum ScanWorkspace {
    Sequential,
    Blelloch(BlellochWorkspace),
    Fused(FusedWorkspace),
}

/// The activations of a chunk of up to L tokens; all layers share them. Those marked act are in the format that the chunk's are.
pub(crate) struct Workspace {
    xz: Tensor,    // (L, 2 d_inner), L up to whole COOP_TILEs where cooperative matrices write it
    u: Tensor,     // (L, d_inner), act
    x_dbl: Tensor, // (L, dt_rank + 2 d_state)
    delta: Tensor, // (L, d_inner), act
    y: Tensor,     // (L, d_inner), act
    scan: ScanWorkspace,
}

impl Workspace {
    /// `scan`: the rung; `None` where one token goes through `selective_state_update`.
    pub fn new(gpu: &Gpu, s: &Shape, l: usize, scan: Option<Scan>, numbers: &mut Numbers) -> Result<Self, GpuError> {
        let scan = match scan {
            None | Some(Scan::Sequential) => ScanWorkspace::Sequential,
            Some(Scan::Blelloch) => ScanWorkspace::Blelloch(BlellochWorkspace::new(gpu, l, s.d_inner, s.d_state)?),
            Some(Scan::Fused) => ScanWorkspace::Fused(FusedWorkspace::new(gpu, l, s.d_inner, s.d_state)?),
        };
        if let ScanWorkspace::Fused(fused) = &scan {
            // scan_fused_apply has no binding left for another flag than the one among its own buffers.
            numbers.watch_by(fused.beyond());
        }
        let act = |label: &str, width: usize| Tensor::activations(gpu, label, l * width, numbers.format);
        let y = act("y", s.d_inner)?;
        Ok(Self {
            xz: Tensor::zeros(gpu, "xz", numbers.tall(gpu, l) * 2 * s.d_inner)?,
            u: numbers.factor(act("u", s.d_inner)?),
            x_dbl: numbers.factor(Tensor::zeros(gpu, "x_dbl", l * s.x_dbl_width())?),
            delta: act("delta", s.d_inner)?, // scan_fused looks at it
            // The other scans have no binding left for a flag.
            y: if matches!(scan, ScanWorkspace::Fused(_)) { numbers.factor(y) } else { y.of_any_size() },
            scan,
        })
    }
}

impl Layer {
    /// `host`: a parameter's values as they are stored.
    pub fn new<E: From<GpuError>>(
        gpu: &Gpu,
        shape: Shape,
        w: Weights<WeightMatrix>,
        host: &mut Host<'_, E>,
    ) -> Result<Self, E> {
        let mut small = |name: &str| Ok::<_, E>(host(name)?.unwrap_or_default());
        let (conv1d, dt_bias, d) = (small("mixer.conv1d.weight")?, small("mixer.dt_proj.bias")?, small("mixer.D")?);
        let bias = host("mixer.conv1d.bias")?;
        let channels = kernels::pack_channels(&conv1d, bias.as_deref(), &dt_bias, &d);
        Ok(Self { shape, w, channels: Tensor::new(gpu, "channels", &channels)? })
    }

    /// A (d_inner, d_state).
    fn a(&self) -> &Tensor {
        self.w.a_log.tensor()
    }

    /// Of the layer's activations over l tokens, still in the workspace.
    pub fn seen<'a>(&'a self, w: &'a Workspace, l: usize) -> Seen<'a> {
        let kernels::ScanShape { xz_stride, z_offset, .. } = self.shape.scan(l);
        Seen {
            shape: self.shape.explained(l),
            u: &w.u,
            delta: w.delta.clone(),
            a: self.a(),
            bc: &w.x_dbl,
            gate: Some((&w.xz, xz_stride, z_offset)),
            d: self.w.d.tensor(),
            y: &w.y,
        }
    }

    /// A chunk of l tokens, or a step of l texts, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        state: &LayerState,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        let (s, p, l) = (&self.shape, &self.w, chunk.l);
        stream.norm(plan, &p.norm, chunk)?;
        let linear = |x_stride, y_stride| kernels::Linear { l, x_stride, y_stride, softplus: false };
        let in_bias = p.in_proj_bias.as_ref().map(WeightMatrix::tensor);
        kernels::linear(plan, stream.normed, &p.in_proj, in_bias, &w.xz, linear(s.d_model, 2 * s.d_inner))?;

        let (conv_state, weight) = (&state.conv, p.conv1d.tensor());
        let bias = p.conv1d_bias.as_ref().map(WeightMatrix::tensor);
        // A step leaves u where x was.
        let (u, u_stride) = match chunk.way {
            Way::Step(texts) => {
                let conv = ConvStep { xz: &w.xz, conv_state, weight, bias };
                kernels::conv1d_update(plan, &conv, texts, s.conv(l))?;
                (&w.xz, 2 * s.d_inner)
            }
            Way::Texts(texts) => {
                let conv = kernels::Conv1d { xz: &w.xz, conv_state, weight, bias, u: &w.u };
                kernels::conv1d_batch(plan, &conv, texts, s.conv(l / texts))?;
                kernels::conv1d_state_batch(plan, &conv, texts, s.conv(l / texts))?;
                (&w.u, s.d_inner)
            }
        };

        let width = s.x_dbl_width();
        kernels::linear(plan, u, &p.x_proj, None, &w.x_dbl, linear(u_stride, width))?;
        if let Some(eps) = s.mixer_rms_eps {
            kernels::x_dbl_norm(plan, &w.x_dbl, l, s.dt_rank, s.d_state, eps)?;
        }
        let dt = kernels::Linear { softplus: true, ..linear(width, s.d_inner) };
        kernels::linear(plan, &w.x_dbl, &p.dt_proj, Some(p.dt_proj_bias.tensor()), &w.delta, dt)?;

        self.scan(plan, w, state, chunk)?;
        let out_bias = p.out_proj_bias.as_ref().map(WeightMatrix::tensor);
        kernels::linear(plan, &w.y, &p.out_proj, out_bias, stream.hidden, linear(s.d_inner, s.d_model))
    }

    /// The recurrence: y from u, delta, B, C and z.
    fn scan(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        state: &LayerState,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        let (a, d) = (self.a(), self.w.d.tensor());
        let (delta, x_dbl, ssm_state, y) = (&w.delta, &w.x_dbl, &state.ssm, &w.y);
        let texts = match chunk.way {
            Way::Texts(texts) => texts,
            Way::Step(texts) => {
                let update = StateUpdate { uz: &w.xz, delta, a, x_dbl, d, ssm_state, y };
                return kernels::selective_state_update(plan, &update, texts, self.shape.scan(chunk.l));
            }
        };
        let shape = self.shape.scan(chunk.l / texts);
        let buffers = ScanBuffers { u: &w.u, delta, a, x_dbl, d, xz: &w.xz, ssm_state, y };
        match &w.scan {
            ScanWorkspace::Sequential => kernels::scan_sequential(plan, &buffers, shape),
            ScanWorkspace::Blelloch(b) => kernels::scan_blelloch(plan, b, &buffers, shape),
            ScanWorkspace::Fused(f) => kernels::scan_fused_batch(plan, f, &buffers, texts, shape),
        }
    }

    /// Whether texts of l tokens each can go through together, by the rung that the model reads with.
    pub fn takes_texts(&self, l: usize, scan: Scan) -> bool {
        scan == Scan::Fused && l >= FusedWorkspace::LEAST
    }

    /// Whether the fused step can run, which reads rows in whole quads.
    pub fn fuses_the_step(&self) -> bool {
        self.shape.d_model.is_multiple_of(4) && self.shape.d_inner.is_multiple_of(4)
    }

    /// One token in four dispatches, the residual stream added to in place.
    pub fn fused_step(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        state: &LayerState,
    ) -> Result<(), GpuError> {
        let (s, p) = (&self.shape, &self.w);
        let shape = StepShape {
            d_inner: s.d_inner,
            d_state: s.d_state,
            d_conv: s.d_conv,
            dt_rank: s.dt_rank,
            mixer_rms_eps: s.mixer_rms_eps,
        };
        let buffers = StepBuffers {
            uz: &w.xz,
            x_dbl: &w.x_dbl,
            channels: &self.channels,
            dt_proj: &p.dt_proj,
            a: self.a(),
            conv_state: &state.conv,
            ssm_state: &state.ssm,
            y: &w.y,
        };
        let norm = (p.norm.tensor(), stream.norm_eps);
        let in_proj = (&p.in_proj, p.in_proj_bias.as_ref().map(WeightMatrix::tensor));
        kernels::matvec_norm_conv(plan, stream.residual, norm, in_proj, &buffers, shape)?;
        kernels::matvec_x_proj(plan, &buffers, &p.x_proj)?;
        kernels::step_mixer(plan, &buffers, shape)?;
        let bias = p.out_proj_bias.as_ref().map(WeightMatrix::tensor);
        kernels::matvec_add(plan, &w.y, &p.out_proj, bias, stream.residual)
    }
}
