//! A mixture of experts by the kernels.

use super::{Shape, Weights};
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, Activate, ExpertRows, Router, Routes, WeightMatrix};
use crate::model::blocks::device::{dense, Chunk, Numbers, Stream};
use std::slice::from_ref;

/// Tokens up to which every pair reads its expert's matrices; beyond, pairs go by their experts, so that tokens share what is read.
const FEW: usize = 8;

/// A layer's weights on a device.
pub(crate) struct Layer {
    pub shape: Shape,
    router: Router,
    norm: WeightMatrix,
    gate: WeightMatrix, // (experts, d_model)
    correction: Option<WeightMatrix>,
    pub up: WeightMatrix, // (experts d_up, d_in)
    down: WeightMatrix,   // (experts d_in, d_ff)
    /// Down and up.
    latent: Option<(WeightMatrix, WeightMatrix)>,
    /// Up and down.
    shared: Option<(WeightMatrix, WeightMatrix)>,
}

/// The activations of a chunk of up to L tokens, of which there are L chosen pairs; all layers share them.
pub(crate) struct Workspace {
    logits: Tensor, // (L, experts), L up to whole COOP_TILEs where cooperative matrices write it
    routes: Routes,
    latent: Tensor,    // (L, d_latent), as tall
    up: Tensor,        // (pairs, d_up)
    y: Tensor,         // (pairs, d_ff), act
    out: Tensor,       // (pairs, d_in)
    mixed: Tensor,     // (L, d_latent)
    shared_up: Tensor, // (L, its d_up), as tall
    shared_y: Tensor,  // (L, d_shared), act
    added: Tensor,     // (L, d_model), as tall
}

impl Workspace {
    pub fn new(gpu: &Gpu, s: &Shape, l: usize, numbers: &mut Numbers) -> Result<Self, GpuError> {
        numbers.end(gpu)?;
        let (tall, pairs, format) = (numbers.tall(gpu, l), s.router.pairs(l), numbers.format);
        let latent = s.d_latent.unwrap_or(0);
        let added = if latent > 0 && s.d_shared > 0 { s.d_model } else { 0 };
        Ok(Self {
            logits: Tensor::zeros(gpu, "router logits", tall * s.router.experts)?,
            routes: Routes::new(gpu, &s.router, l)?,
            latent: numbers.factor(Tensor::zeros(gpu, "latent", tall * latent)?),
            up: Tensor::zeros(gpu, "experts' up", pairs * s.d_up())?,
            y: numbers.factor(Tensor::activations(gpu, "experts' activated", pairs * s.d_ff, format)?),
            out: Tensor::zeros(gpu, "experts' outputs", pairs * s.d_in())?,
            mixed: numbers.factor(Tensor::zeros(gpu, "mixed", l * latent)?),
            shared_up: Tensor::zeros(gpu, "shared up", tall * s.sides() * s.d_shared)?,
            shared_y: numbers.factor(Tensor::activations(gpu, "shared activated", l * s.d_shared, format)?),
            added: Tensor::zeros(gpu, "added", tall * added)?,
        })
    }
}

impl Layer {
    /// From weights of which the experts' lie in one matrix each.
    pub fn new(shape: Shape, w: Weights<WeightMatrix>) -> Option<Self> {
        let one = |each: Vec<(String, WeightMatrix)>| each.into_iter().next().map(|(_, matrix)| matrix);
        Some(Self {
            shape,
            router: shape.scaled_router(),
            norm: w.norm,
            gate: w.router,
            correction: w.correction,
            up: one(w.up)?,
            down: one(w.down)?,
            latent: w.latent_down.zip(w.latent_up),
            shared: w.shared_up.zip(w.shared_down),
        })
    }

    /// Of the experts, or with `scale` of the shared one.
    fn activation(&self, scale: f32) -> Activate {
        let s = &self.shape;
        Activate { f: s.activation, gated: s.gated, gate_scale: 1.0, scale }
    }

    fn route(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, l: usize) -> Result<(), GpuError> {
        let correction = self.correction.as_ref().map(WeightMatrix::tensor);
        kernels::route(plan, &w.logits, correction, &w.routes, &self.router, l)
    }

    /// What each pair's expert makes of its row, from a row a token to a row a pair.
    fn experts(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, x: &Tensor, l: usize) -> Result<(), GpuError> {
        let (s, routes) = (&self.shape, (&w.routes, &self.router));
        if l <= FEW && x.format() == NumberFormat::F32 && w.y.format() == NumberFormat::F32 {
            let act = Some(self.activation(1.0));
            kernels::experts_matvec(plan, ExpertRows::Tokens(x), &self.up, routes, &w.y, (l, act))?;
            return kernels::experts_matvec(plan, ExpertRows::Pairs(&w.y), &self.down, routes, &w.out, (l, None));
        }
        kernels::route_order(plan, &w.routes, &self.router, l)?;
        kernels::experts_matmul(plan, (x, true), &self.up, routes, &w.up, l)?;
        let activate = s.activate(self.router.pairs(l));
        kernels::activate(plan, (&w.up, s.gated.then_some(&w.up)), &w.y, s.activation, &activate)?;
        kernels::experts_matmul(plan, (&w.y, false), &self.down, routes, &w.out, l)
    }

    fn sum(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, out: (&Tensor, bool), l: usize) -> Result<(), GpuError> {
        kernels::experts_sum(plan, out, &w.out, &w.routes, &self.router, (l, self.shape.d_in()))
    }

    /// A chunk of l tokens, or a step of l texts, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        let (s, l) = (&self.shape, chunk.l);
        stream.norm(plan, &self.norm, chunk)?;
        let to = |plan: &mut PlanBuilder<'_>, x: &Tensor, matrix: &WeightMatrix, y: &Tensor| {
            dense(plan, x, from_ref(matrix), None, (y, matrix.n()), l)
        };
        to(plan, stream.normed, &self.gate, &w.logits)?;
        self.route(plan, w, l)?;
        if let Some((up, down)) = &self.shared {
            to(plan, stream.normed, up, &w.shared_up)?;
            let gate = s.gated.then_some(&w.shared_up);
            kernels::activate(plan, (&w.shared_up, gate), &w.shared_y, s.activation, &s.activate_shared(l))?;
            to(plan, &w.shared_y, down, stream.hidden)?;
        }
        let Some((down, up)) = &self.latent else {
            self.experts(plan, w, stream.normed, l)?;
            return self.sum(plan, w, (stream.hidden, self.shared.is_some()), l);
        };
        to(plan, stream.normed, down, &w.latent)?;
        self.experts(plan, w, &w.latent, l)?;
        self.sum(plan, w, (&w.mixed, false), l)?;
        if self.shared.is_none() {
            return to(plan, &w.mixed, up, stream.hidden);
        }
        to(plan, &w.mixed, up, &w.added)?;
        kernels::scale_add(plan, stream.hidden, (None, Some(&w.added)), (l, s.d_model))
    }

    /// Whether the fused step can run, which reads rows in whole quads.
    pub fn fuses_the_step(&self) -> bool {
        self.shape.d_model.is_multiple_of(4)
    }

    /// One token, the residual stream added to in place: once all that reads it has.
    pub fn fused_step(&self, plan: &mut PlanBuilder<'_>, w: &Workspace, stream: &Stream<'_>) -> Result<(), GpuError> {
        let (s, norm, routes) = (&self.shape, (self.norm.tensor(), stream.norm_eps), (&w.routes, &self.router));
        kernels::matvec_norm(plan, stream.residual, norm, &self.gate, None, &w.logits)?;
        self.route(plan, w, 1)?;
        if let Some((up, _)) = &self.shared {
            if up.parts().len() == 1 {
                let act = self.activation(s.out_scale);
                kernels::matvec_norm_activate(plan, stream.residual, norm, (up, None), &w.shared_y, act)?;
            } else {
                kernels::matvec_norm(plan, stream.residual, norm, up, None, &w.shared_up)?;
                let gate = s.gated.then_some(&w.shared_up);
                kernels::activate(plan, (&w.shared_up, gate), &w.shared_y, s.activation, &s.activate_shared(1))?;
            }
        }
        let x = match &self.latent {
            Some((down, _)) => {
                kernels::matvec_norm(plan, stream.residual, norm, down, None, &w.latent)?;
                ExpertRows::Tokens(&w.latent)
            }
            None => ExpertRows::Norm(stream.residual, norm.0, norm.1),
        };
        kernels::experts_matvec(plan, x, &self.up, routes, &w.y, (1, Some(self.activation(1.0))))?;
        kernels::experts_matvec(plan, ExpertRows::Pairs(&w.y), &self.down, routes, &w.out, (1, None))?;
        match &self.latent {
            Some((_, up)) => {
                self.sum(plan, w, (&w.mixed, false), 1)?;
                kernels::matvec_add(plan, &w.mixed, up, None, stream.residual)?;
            }
            None => self.sum(plan, w, (stream.residual, true), 1)?,
        }
        match &self.shared {
            Some((_, down)) => kernels::matvec_add(plan, &w.shared_y, down, None, stream.residual),
            None => Ok(()),
        }
    }
}
