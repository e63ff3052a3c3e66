//! The dispatches of a batch's way, in their order: there ([`Tape::forward_plans`]), to the loss and back
//! ([`Tape::backward_plan`]), or to what the model says ([`Tape::judging_plan`]).

use super::{Back, Loss, Tape};
use crate::error::Result;
use crate::gpu::{GpuError, Plan, PlanBuilder, Tensor};
use crate::kernels::backward::{
    self as grads, Columns, Conv1dGrads, CrossEntropy, LinearGrad, MatmulGrads, RmsNormGrads, ScanGrads,
};
use crate::kernels::{self, Conv1d, Linear, RmsNorm, ScanBuffers, WeightMatrix};
use crate::train::named::NORM_EPS;
use crate::train::parameters::{Parameters, Side};
use crate::train::TrainError;

/// A layer's parameters, or their gradients.
struct Layer {
    norm: Tensor,                  // (d_model)
    in_proj: WeightMatrix,         // (2 d_inner, d_model)
    conv1d: Tensor,                // (d_inner, d_conv)
    conv1d_bias: Tensor,           // (d_inner)
    x_proj: Option<WeightMatrix>,  // (dt_rank + 2 d_state, d_inner); None: LTI
    dt_proj: Option<WeightMatrix>, // (d_inner, dt_rank); None: LTI
    c: Option<Tensor>,             // (d_inner, d_state); LTI only
    dt_bias: Tensor,               // (d_inner)
    a_log: Tensor,                 // (d_inner, d_state)
    d: Tensor,                     // (d_inner)
    out_proj: WeightMatrix,        // (d_model, d_inner)
}

impl Layer {
    fn new(parameters: &Parameters, layer: usize, side: Side) -> Result<Self, TrainError> {
        let name = |end: &str| format!("backbone.layers.{layer}.{end}");
        let vector = |end: &str| parameters.vector(&name(end), side);
        let matrix = |end: &str| parameters.matrix(&name(end), side);
        let lti = parameters.shape().lti;
        Ok(Self {
            norm: vector("norm.weight")?,
            in_proj: matrix("mixer.in_proj.weight")?,
            conv1d: vector("mixer.conv1d.weight")?,
            conv1d_bias: vector("mixer.conv1d.bias")?,
            x_proj: if lti { None } else { Some(matrix("mixer.x_proj.weight")?) },
            dt_proj: if lti { None } else { Some(matrix("mixer.dt_proj.weight")?) },
            c: if lti { Some(vector("mixer.C")?) } else { None },
            dt_bias: vector("mixer.dt_proj.bias")?,
            a_log: vector("mixer.A_log")?,
            d: vector("mixer.D")?,
            out_proj: matrix("mixer.out_proj.weight")?,
        })
    }
}

/// A model's parameters, or their gradients.
pub(super) struct Model {
    embedding: WeightMatrix, // (vocab_size, d_model)
    layers: Vec<Layer>,
    norm_f: Tensor,     // (d_model)
    head: WeightMatrix, // (vocab_size, d_model): the embedding itself, where they are tied
}

impl Model {
    pub fn new(parameters: &Parameters, side: Side) -> Result<Self, TrainError> {
        let embedding = parameters.matrix("backbone.embeddings.weight", side)?;
        Ok(Self {
            head: if parameters.shape().tied {
                embedding.clone()
            } else {
                parameters.matrix("lm_head.weight", side)?
            },
            embedding,
            layers: (0..parameters.shape().n_layer)
                .map(|layer| Layer::new(parameters, layer, side))
                .collect::<Result<_, _>>()?,
            norm_f: parameters.vector("backbone.norm_f.weight", side)?,
        })
    }
}

impl Tape {
    fn norm_shape(&self) -> RmsNorm {
        RmsNorm { rows: self.rows(), row0: 0, d: self.d_model, eps: NORM_EPS }
    }

    fn linear(&self, x_stride: usize, y_stride: usize) -> Linear {
        Linear { l: self.rows(), x_stride, y_stride, softplus: false }
    }

    /// What a step needs once, and a batch's way to `normed_f`. In evaluation, where layers share buffers, the former is
    /// part of the latter.
    pub(super) fn forward_plans(&self, model: &Model, parameters: &Parameters) -> Result<(Plan, Plan)> {
        let s = parameters.shape();
        let (d_inner, width) = (s.d_inner(), s.x_dbl_width());
        let mut prepare = PlanBuilder::new(&self.gpu);
        let mut plan = PlanBuilder::new(&self.gpu);
        let training = self.back.is_some();
        kernels::embedding(&mut plan, &model.embedding, &self.tokens, &self.hidden, self.rows())?;
        for (i, layer) in model.layers.iter().enumerate() {
            let k = self.layer_kept(i);
            let once = if training { &mut prepare } else { &mut plan };
            grads::negative_exp(once, &layer.a_log, &k.a, d_inner * s.d_state)?;
            if s.lti {
                grads::softplus(once, &layer.dt_bias, &k.delta, d_inner)?;
            }
            let (residual, hidden) = match i {
                0 => (&self.hidden, None),
                _ => (&self.layer_kept(i - 1).sum, Some(&self.hidden)),
            };
            grads::rms_norm_train(&mut plan, residual, hidden, &k.sum, &layer.norm, &k.normed, self.norm_shape())?;
            let in_proj = self.linear(self.d_model, 2 * d_inner);
            kernels::matmul(&mut plan, &k.normed, &layer.in_proj, None, &k.xz, in_proj)?;
            let conv = Conv1d {
                xz: &k.xz,
                conv_state: &self.conv_state,
                weight: &layer.conv1d,
                bias: Some(&layer.conv1d_bias),
                u: &k.u,
            };
            grads::conv1d_batch(&mut plan, &conv, self.sequences, self.conv_shape(parameters))?;
            if let (Some(x_proj), Some(dt_proj)) = (&layer.x_proj, &layer.dt_proj) {
                kernels::matmul(&mut plan, &k.u, x_proj, None, &k.x_dbl, self.linear(d_inner, width))?;
                let delta = Linear { softplus: true, ..self.linear(width, d_inner) };
                kernels::matmul(&mut plan, &k.x_dbl, dt_proj, Some(&layer.dt_bias), &k.delta, delta)?;
            }
            let states = self.states_of(i);
            let buffers = ScanBuffers {
                u: &k.u,
                delta: &k.delta,
                a: &k.a,
                x_dbl: layer.c.as_ref().unwrap_or(&k.x_dbl),
                d: &layer.d,
                xz: &k.xz,
                ssm_state: &states,
                y: &k.y,
            };
            grads::scan_train(&mut plan, &k.scan, &buffers, Self::scan_of(parameters, self.sequences, self.length))?;
            let out_proj = self.linear(d_inner, self.d_model);
            kernels::matmul(&mut plan, &k.y, &layer.out_proj, None, &self.hidden, out_proj)?;
        }
        let last = &self.layer_kept(self.n_layer.saturating_sub(1)).sum;
        let (sum, normed) = (&self.sum_f, &self.normed_f);
        grads::rms_norm_train(&mut plan, last, Some(&self.hidden), sum, &model.norm_f, normed, self.norm_shape())?;
        Ok((prepare.finish()?, plan.finish()?))
    }

    /// (first row, rows) of the blocks that the head is computed in.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let rows = self.rows();
        let block = Self::block_rows(&self.gpu, rows, self.vocab_size).max(1);
        (0..rows).step_by(block).map(move |at| (at, block.min(rows - at)))
    }

    fn head(&self, plan: &mut PlanBuilder<'_>, model: &Model, (at, rows): (usize, usize)) -> Result<(), GpuError> {
        let x = self.normed_f.slice(at * self.d_model, rows * self.d_model);
        let shape = Linear { l: rows, x_stride: self.d_model, y_stride: self.vocab_size, softplus: false };
        kernels::matmul(plan, &x, &model.head, None, &self.logits, shape)
    }

    /// The most likely successors, and -log p of the targets.
    pub(super) fn judging_plan(&self, model: &Model) -> Result<Plan> {
        let mut plan = PlanBuilder::new(&self.gpu);
        for (at, rows) in self.blocks() {
            self.head(&mut plan, model, (at, rows))?;
            let (targets, nll) = (self.targets.slice(at, rows), self.nll.slice(at, rows));
            kernels::argmax(&mut plan, &self.logits, &self.argmax.slice(at, rows), rows, self.vocab_size)?;
            kernels::token_nll(&mut plan, &self.logits, &targets, &nll, rows, self.vocab_size)?;
        }
        Ok(plan.finish()?)
    }

    /// From `normed_f` to the loss and back to all gradients.
    pub(super) fn backward_plan(
        &self,
        model: &Model,
        grad: &Model,
        parameters: &Parameters,
        loss: Loss<'_>,
    ) -> Result<Plan> {
        let mut plan = PlanBuilder::new(&self.gpu);
        let Some(b) = &self.back else { return Ok(plan.finish()?) };
        for (at, rows) in self.blocks() {
            self.head(&mut plan, model, (at, rows))?;
            let (targets, nll) = (self.targets.slice(at, rows), self.nll.slice(at, rows));
            let Loss { label_smoothing, .. } = loss;
            let entropy = CrossEntropy { rows, vocab_size: self.vocab_size, label_smoothing };
            grads::cross_entropy(&mut plan, &self.logits, &targets, loss.scale, &nll, entropy)?;
            let shape = LinearGrad { l: rows, x_stride: self.d_model, y_stride: self.vocab_size };
            let block = |tensor: &Tensor| tensor.slice(at * self.d_model, rows * self.d_model);
            let grad_normed = block(&b.normed);
            let head = MatmulGrads {
                x: &block(&self.normed_f),
                w: &model.head,
                grad_y: &self.logits,
                grad_x: &grad_normed,
                grad_w: &grad.head,
            };
            grads::matmul_grad(&mut plan, &b.scratch, &head, shape, false)?;
        }
        let columns = Columns { rows: self.rows(), cols: 1, stride: 1 };
        grads::column_sums(&mut plan, &b.scratch, &self.nll, loss.sum, columns)?;
        let norm = RmsNormGrads {
            x: &self.sum_f,
            weight: &model.norm_f,
            grad_y: &b.normed,
            grad_x: &b.residual,
            grad_weight: &grad.norm_f,
        };
        grads::rms_norm_backward(&mut plan, &b.scratch, &norm, self.norm_shape())?;
        for (i, (layer, grad)) in model.layers.iter().zip(&grad.layers).enumerate().rev() {
            self.layer_backward(&mut plan, parameters, i, (layer, grad), b)?;
        }
        let (tokens, order, table) = (&self.tokens, &b.order, &grad.embedding);
        grads::embedding_backward(&mut plan, &b.scratch, tokens, order, &b.residual, table, self.rows())?;
        Ok(plan.finish()?)
    }

    /// A layer backwards: `b.residual`, the gradient of the stream above it, becomes that of the stream below.
    fn layer_backward(
        &self,
        plan: &mut PlanBuilder<'_>,
        parameters: &Parameters,
        i: usize,
        (layer, grad): (&Layer, &Layer),
        b: &Back,
    ) -> Result<(), GpuError> {
        let (s, k) = (parameters.shape(), self.layer_kept(i));
        let (d_inner, width) = (s.d_inner(), s.x_dbl_width());
        let linear = |x_stride, y_stride| LinearGrad { l: self.rows(), x_stride, y_stride };

        // hidden = y out_proj^T: the stream's gradient is hidden's too.
        let out_proj =
            MatmulGrads { x: &k.y, w: &layer.out_proj, grad_y: &b.residual, grad_x: &b.y, grad_w: &grad.out_proj };
        grads::matmul_grad(plan, &b.scratch, &out_proj, linear(d_inner, self.d_model), false)?;

        let states = self.states_of(i);
        let scan = ScanGrads {
            u: &k.u,
            a: &k.a,
            x_dbl: layer.c.as_ref().unwrap_or(&k.x_dbl),
            d: &layer.d,
            xz: &k.xz,
            delta: &k.delta,
            grad_y: &b.y,
            grad_xz: &b.xz,
            grad_x_dbl: grad.c.as_ref().unwrap_or(&b.x_dbl),
            grad_a_log: &grad.a_log,
            grad_d: &grad.d,
            grad_dt_bias: &grad.dt_bias,
            grad_state: &states,
        };
        grads::scan_backward(plan, &b.scratch, &k.scan, &scan, Self::scan_of(parameters, self.sequences, self.length))?;

        // b.y is the gradient of u now, and k.delta that of what dt_proj gives.
        if let (Some(x_proj), Some(dt_proj), Some(grad_x), Some(grad_dt)) =
            (&layer.x_proj, &layer.dt_proj, &grad.x_proj, &grad.dt_proj)
        {
            let dt = MatmulGrads { x: &k.x_dbl, w: dt_proj, grad_y: &k.delta, grad_x: &b.x_dbl, grad_w: grad_dt };
            grads::matmul_grad(plan, &b.scratch, &dt, linear(width, d_inner), false)?;
            let x = MatmulGrads { x: &k.u, w: x_proj, grad_y: &b.x_dbl, grad_x: &b.y, grad_w: grad_x };
            grads::matmul_grad(plan, &b.scratch, &x, linear(d_inner, width), true)?;
        }
        let conv = Conv1dGrads {
            xz: &k.xz,
            weight: &layer.conv1d,
            bias: Some(&layer.conv1d_bias),
            grad_u: &b.y,
            grad_xz: &b.xz,
            grad_weight: &grad.conv1d,
            grad_bias: Some(&grad.conv1d_bias),
        };
        grads::conv1d_backward(plan, &b.scratch, &conv, self.sequences, self.conv_shape(parameters))?;

        let in_proj =
            MatmulGrads { x: &k.normed, w: &layer.in_proj, grad_y: &b.xz, grad_x: &b.normed, grad_w: &grad.in_proj };
        grads::matmul_grad(plan, &b.scratch, &in_proj, linear(self.d_model, 2 * d_inner), false)?;
        let norm = RmsNormGrads {
            x: &k.sum,
            weight: &layer.norm,
            grad_y: &b.normed,
            grad_x: &b.residual,
            grad_weight: &grad.norm,
        };
        grads::rms_norm_backward(plan, &b.scratch, &norm, self.norm_shape())
    }
}
