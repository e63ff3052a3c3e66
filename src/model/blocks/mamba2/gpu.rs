//! A Mamba-2 layer by the kernels.

use super::{Shape, Weights};
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, Conv1d, ConvStep, Ssd, SsdBuffers, SsdInProj, SsdWorkspace, WeightMatrix};
use crate::model::blocks::device::{Chunk, Host, LayerState, Numbers, Stream, Way};
use crate::model::blocks::explain::Seen;
use crate::reference::GatedNorm;
use crate::settings::Scan;

/// A layer's weights on a device.
pub(crate) struct Layer {
    pub shape: Shape,
    /// `a_log` holds A: the loader has put it through `decay_rate`.
    pub w: Weights<WeightMatrix>,
    taps: Tensor,                // (d_conv + 1, channels), see kernels::pack_taps
    columns: Option<Tensor>,     // (row): `Shape::columns`
    gate_weight: Option<Tensor>, // (d_ssm): `Shape::gate_weight`
    /// The fused step's: what in_proj's and out_proj's outputs are multiplied by, with their biases (`kernels::pack_scaled`).
    in_scaled: Option<Tensor>, // (2, row)
    out_scaled: Option<Tensor>,  // (2, d_model)
}

/// The activations of a chunk of up to L tokens; all layers share them. Those marked act are in the format that the chunk's are.
pub(crate) struct Workspace {
    zxbcdt: Tensor, // (L, row), L up to whole COOP_TILEs where cooperative matrices write it
    xbc: Tensor,    // (L, channels), act where the rung multiplies in it
    y: Tensor,      // (L, d_ssm)
    gated: Tensor,  // (L, d_inner), act
    ssd: SsdWorkspace,
    rung: Ssd,
}

impl Workspace {
    /// `scan`: the rung; `None` where one token goes through `ssd_state_update`.
    pub fn new(gpu: &Gpu, s: &Shape, l: usize, scan: Option<Scan>, numbers: &mut Numbers) -> Result<Self, GpuError> {
        let rung = match scan {
            None => Ssd::Sequential,
            Some(Scan::Blelloch | Scan::Fused) => Ssd::best(gpu, &s.ssd(l), numbers.watch),
            Some(_) => Ssd::Sequential,
        };
        numbers.end(gpu)?;
        let act = if rung == Ssd::Matrices { numbers.format } else { NumberFormat::F32 };
        let xbc = Tensor::activations(gpu, "xbc", l * s.channels(), act)?;
        Ok(Self {
            zxbcdt: Tensor::zeros(gpu, "zxbcdt", numbers.tall(gpu, l) * s.row())?,
            xbc: if rung == Ssd::Matrices { numbers.factor(xbc) } else { xbc },
            y: Tensor::zeros(gpu, "y", l * s.d_ssm())?,
            gated: numbers.factor(Tensor::activations(gpu, "gated", l * s.d_inner(), numbers.format)?),
            ssd: SsdWorkspace::new(gpu, rung, &s.ssd(l), act)?,
            rung,
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
        let conv1d = host("mixer.conv1d.weight")?.unwrap_or_default();
        let bias = host("mixer.conv1d.bias")?;
        let taps = kernels::pack_taps(&conv1d, bias.as_deref(), shape.channels());
        let tensor = |label: &str, values: Option<Vec<f32>>| values.map(|v| Tensor::new(gpu, label, &v)).transpose();
        let columns = tensor("multipliers", shape.columns())?;
        let gate_weight = tensor("scale of the output", shape.gate_weight())?;
        let mut scaled = |bias: &str, factor: f32, by: Option<Vec<f32>>| -> Result<Option<Tensor>, E> {
            let Some(by) = by else { return Ok(None) };
            let bias: Option<Vec<f32>> = host(bias)?.map(|bias| bias.iter().map(|b| factor * b).collect());
            Ok(tensor("bias and factors", Some(kernels::pack_scaled(bias.as_deref(), &by)))?)
        };
        let in_bias = "mixer.in_proj.bias";
        let in_scaled = scaled(in_bias, shape.factor(in_bias), shape.columns())?;
        let out_by = (shape.out_scale != 1.0).then(|| vec![shape.out_scale; shape.d_model]);
        let out_scaled = scaled("mixer.out_proj.bias", 1.0, out_by.filter(|_| gate_weight.is_some()))?;
        let taps = Tensor::new(gpu, "taps", &taps)?;
        Ok(Self { shape, w, taps, columns, gate_weight, in_scaled, out_scaled })
    }

    fn buffers<'a>(&'a self, w: &'a Workspace, state: &'a LayerState) -> SsdBuffers<'a> {
        SsdBuffers {
            zxbcdt: &w.zxbcdt,
            xbc: &w.xbc,
            dt_bias: self.w.dt_bias.tensor(),
            a: self.w.a_log.tensor(),
            d: self.w.d.tensor(),
            ssm_state: &state.ssm,
            y: &w.y,
        }
    }

    /// What out_proj reads: y through its gate and norm, and what goes past the recurrence.
    fn gate(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, l: usize) -> Result<(), GpuError> {
        let s = &self.shape;
        if let Some(passed) = s.passed(l) {
            let pair = (&w.zxbcdt, &w.zxbcdt);
            kernels::gated_rms_norm(plan, pair, None, Some(&w.gated), GatedNorm::GateOnly, &passed)?;
        }
        let weight = self.w.mixer_norm.as_ref().map(WeightMatrix::tensor).or(self.gate_weight.as_ref());
        kernels::gated_rms_norm(plan, (&w.y, &w.zxbcdt), weight, Some(&w.gated), s.norm, &s.gated(l))
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
        kernels::linear(plan, stream.normed, &p.in_proj, in_bias, &w.zxbcdt, linear(s.d_model, s.row()))?;
        if let Some(columns) = &self.columns {
            kernels::scale_add(plan, &w.zxbcdt, (Some(columns), None), (l, s.row()))?;
        }

        let (conv_state, weight) = (&state.conv, p.conv1d.tensor());
        let bias = p.conv1d_bias.as_ref().map(WeightMatrix::tensor);
        let (first, buffers) = (s.conv_offset(), self.buffers(w, state));
        match chunk.way {
            Way::Step(texts) => {
                let conv = ConvStep { xz: &w.zxbcdt, conv_state, weight, bias };
                kernels::conv1d_update(plan, &conv, texts, s.conv(l))?;
                let buffers = SsdBuffers { xbc: &w.zxbcdt, ..buffers };
                kernels::ssd_state_update_rows(plan, &buffers, texts, &s.ssd(l).in_row(first))?;
            }
            Way::Texts(texts) => {
                let conv = Conv1d { xz: &w.zxbcdt, conv_state, weight, bias, u: &w.xbc };
                kernels::conv1d_batch(plan, &conv, texts, s.conv(l / texts))?;
                kernels::conv1d_state_batch(plan, &conv, texts, s.conv(l / texts))?;
                let shape = s.ssd(l / texts);
                for text in 0..texts {
                    let rows = |t: &Tensor, width: usize| {
                        let words = shape.l * width * t.format().bytes() / 4;
                        t.slice(text * words, words)
                    };
                    let (zxbcdt, xbc, y) =
                        (rows(&w.zxbcdt, s.row()), rows(&w.xbc, s.channels()), rows(&w.y, s.d_ssm()));
                    let ssm_state = state.ssm.slice(text * shape.state_len(), shape.state_len());
                    let buffers = SsdBuffers { zxbcdt: &zxbcdt, xbc: &xbc, ssm_state: &ssm_state, y: &y, ..buffers };
                    kernels::ssd(plan, w.rung, &w.ssd, &buffers, &shape)?;
                }
            }
        }
        self.gate(plan, w, l)?;
        let out_bias = p.out_proj_bias.as_ref().map(WeightMatrix::tensor);
        kernels::linear(plan, &w.gated, &p.out_proj, out_bias, stream.hidden, linear(s.d_inner(), s.d_model))
    }

    /// Whether texts of l tokens each can go through together: what each has of rows and states must begin where it can be bound.
    pub fn takes_texts(&self, l: usize) -> bool {
        let s = &self.shape;
        let parts = [l * s.row(), l * s.d_ssm(), s.ssd(l).state_len()];
        // Those of xbc may be in f16.
        parts.iter().all(|elements| elements.is_multiple_of(64)) && (l * s.channels()).is_multiple_of(128)
    }

    /// Whether the fused step can run, which reads rows in whole quads.
    pub fn fuses_the_step(&self) -> bool {
        self.shape.d_model.is_multiple_of(4) && self.shape.d_inner().is_multiple_of(4)
    }

    /// The weight of a norm that out_proj's matvec can make as it reads: over all that it reads, and after the gate, which
    /// `ssd_state_update` does then.
    fn norm_of_out_proj(&self) -> Option<&Tensor> {
        let s = &self.shape;
        let whole = s.n_groups == 1 && s.d_mlp == 0 && s.norm == GatedNorm::GateFirst;
        self.w.mixer_norm.as_ref().filter(|_| whole).map(WeightMatrix::tensor)
    }

    /// One token in three dispatches, four where the norm is over groups or before the gate, the residual stream added to in place.
    pub fn fused_step(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        state: &LayerState,
    ) -> Result<(), GpuError> {
        let (s, p) = (&self.shape, &self.w);
        let shape = s.ssd(1);
        let in_proj = SsdInProj {
            residual: stream.residual,
            norm: p.norm.tensor(),
            eps: stream.norm_eps,
            in_proj: &p.in_proj,
            bias: self.in_scaled.as_ref().or(p.in_proj_bias.as_ref().map(WeightMatrix::tensor)),
            taps: &self.taps,
            conv_state: &state.conv,
            zxbcdt: &w.zxbcdt,
        };
        kernels::ssd_in_proj(plan, &in_proj, (s.conv_offset(), s.d_conv), &shape)?;
        let buffers = SsdBuffers { xbc: &w.zxbcdt, ..self.buffers(w, state) };
        let norm = self.norm_of_out_proj();
        let gate_only = s.d_mlp == 0 && s.norm == GatedNorm::GateOnly;
        kernels::ssd_state_update(plan, &buffers, norm.is_some() || gate_only, &shape.in_row(s.conv_offset()))?;
        let bias = p.out_proj_bias.as_ref().map(WeightMatrix::tensor);
        if let Some(weight) = norm {
            return kernels::matvec_norm_add(plan, &w.y, (weight, s.norm_eps), &p.out_proj, bias, stream.residual);
        }
        if gate_only {
            return kernels::matvec_add(plan, &w.y, &p.out_proj, self.out_scaled.as_ref().or(bias), stream.residual);
        }
        self.gate(plan, w, 1)?;
        kernels::matvec_add(plan, &w.gated, &p.out_proj, bias, stream.residual)
    }

    /// Of the layer's activations over l tokens, still in the workspace, but for delta: the chunked rung does not keep it so.
    pub async fn seen<'a>(&'a self, gpu: &Gpu, w: &'a Workspace, l: usize) -> crate::Result<Seen<'a>> {
        let delta = Tensor::zeros(gpu, "delta", l * self.shape.n_heads)?;
        let mut plan = PlanBuilder::new(gpu);
        kernels::ssd_delta(&mut plan, (&w.zxbcdt, self.w.dt_bias.tensor()), &delta, &self.shape.ssd(l))?;
        plan.finish()?.run(gpu).await?;
        Ok(Seen {
            shape: self.shape.explained(l),
            u: &w.xbc,
            delta,
            a: self.w.a_log.tensor(),
            bc: &w.xbc,
            gate: None,
            d: self.w.d.tensor(),
            y: &w.y,
        })
    }
}
