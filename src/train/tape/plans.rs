//! The dispatches of a batch's way, in their order: there ([`Tape::forward_plans`]), to the loss and back
//! ([`Tape::backward_plan`]), or to what the model says ([`Tape::judging_plan`]).

use super::{Loss, Tape};
use crate::error::Result;
use crate::gpu::{GpuError, Plan, PlanBuilder, Tensor};
use crate::kernels::backward::{self as grads, Columns, CrossEntropy, LinearGrad, MatmulGrads, RmsNormGrads};
use crate::kernels::{self, Linear, RmsNorm, WeightMatrix};
use crate::model::blocks::mamba1::trained::{Layer, Pass, States, Stream};
use crate::train::named::NORM_EPS;
use crate::train::parameters::{Parameters, Side};
use crate::train::TrainError;

/// A model's parameters, or their gradients.
pub(super) struct Model {
    embedding: WeightMatrix, // (vocab_size, d_model)
    layers: Vec<Layer>,
    norm_f: WeightMatrix, // (d_model)
    head: WeightMatrix,   // (vocab_size, d_model): the embedding itself, where they are tied
}

impl Model {
    pub fn new(parameters: &Parameters, pass: &Pass, side: Side) -> Result<Self, TrainError> {
        let find = |name: &str| parameters.find(name, side);
        let layer = |i: usize| Layer::new(pass, &mut |name| find(&format!("backbone.layers.{i}.{name}")));
        let embedding = find("backbone.embeddings.weight")?;
        Ok(Self {
            head: if parameters.shape().tied { embedding.clone() } else { find("lm_head.weight")? },
            embedding,
            layers: (0..parameters.shape().n_layer).map(layer).collect::<Result<_, _>>()?,
            norm_f: find("backbone.norm_f.weight")?,
        })
    }
}

impl Tape {
    fn norm_f(&self) -> RmsNorm {
        RmsNorm { rows: self.rows(), row0: 0, d: self.d_model, eps: NORM_EPS }
    }

    /// What a step needs once, and a batch's way to `normed_f`. In evaluation, where layers share buffers, the former is
    /// part of the latter.
    pub(super) fn forward_plans(&self, model: &Model) -> Result<(Plan, Plan)> {
        let mut prepare = PlanBuilder::new(&self.gpu);
        let mut plan = PlanBuilder::new(&self.gpu);
        let training = self.back.is_some();
        let hidden = &self.hidden;
        kernels::embedding(&mut plan, &model.embedding, &self.tokens, hidden, self.rows())?;
        let (mut residual, mut added) = (hidden, None);
        for (i, layer) in model.layers.iter().enumerate() {
            let (sum, kept, ssm) = (self.sum(i), self.kept(i), self.states_of(i));
            layer.prepare(if training { &mut prepare } else { &mut plan }, kept)?;
            let states = States { conv: &self.conv_state, ssm: &ssm };
            layer.forward(&mut plan, &self.pass, kept, Stream { residual, added, sum, hidden }, states)?;
            (residual, added) = (sum, Some(hidden));
        }
        let (sum, normed) = (&self.sum_f, &self.normed_f);
        grads::rms_norm_train(&mut plan, residual, added, sum, model.norm_f.tensor(), normed, self.norm_f())?;
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
    pub(super) fn backward_plan(&self, model: &Model, grad: &Model, loss: Loss<'_>) -> Result<Plan> {
        let mut plan = PlanBuilder::new(&self.gpu);
        let Some((b, order)) = &self.back else { return Ok(plan.finish()?) };
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
            weight: model.norm_f.tensor(),
            grad_y: &b.normed,
            grad_x: &b.residual,
            grad_weight: grad.norm_f.tensor(),
        };
        grads::rms_norm_backward(&mut plan, &b.scratch, &norm, self.norm_f())?;
        for (i, (layer, grad)) in model.layers.iter().zip(&grad.layers).enumerate().rev() {
            let ssm = self.states_of(i);
            let states = States { conv: &self.conv_state, ssm: &ssm };
            layer.backward(&mut plan, grad, (&self.pass, self.kept(i), b), self.sum(i), states)?;
        }
        let (tokens, table) = (&self.tokens, &grad.embedding);
        grads::embedding_backward(&mut plan, &b.scratch, tokens, order, &b.residual, table, self.rows())?;
        Ok(plan.finish()?)
    }
}
