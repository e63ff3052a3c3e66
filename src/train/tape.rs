//! A batch's way through the model and back, as two plans of dispatches: the model's ops in their order with all that the
//! backward pass reads kept, and the same backwards. No general autodiff: what a layer's gradients are is written down in
//! [`Tape::layer_backward`].

use super::parameters::{Parameters, Side};
use super::tasks::{Batch, IGNORE};
use super::trainer::Evaluation;
use super::TrainError;
use crate::error::{InputError, Result};
use crate::gpu::{Gpu, GpuError, Plan, PlanBuilder, Readback, Tensor};
use crate::kernels::backward::{
    self as grads, Columns, Conv1dGrads, LinearGrad, RmsNormGrads, ScanGrads, ScanTape, Scratch, ScratchShape,
    TrainScan,
};
use crate::kernels::{self, Conv1d, ConvShape, Linear, RmsNorm, SampleBuffers, ScanBuffers, ScanShape, WeightMatrix};

/// Of the layers' norms and the last one, as published models have it.
const NORM_EPS: f32 = 1e-5;
/// The most bytes of logits at a time.
const LOGITS_BYTES: u64 = 256 << 20;

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
struct Model {
    embedding: WeightMatrix, // (vocab_size, d_model)
    layers: Vec<Layer>,
    norm_f: Tensor,     // (d_model)
    head: WeightMatrix, // (vocab_size, d_model): the embedding itself, where they are tied
}

impl Model {
    fn new(parameters: &Parameters, side: Side) -> Result<Self, TrainError> {
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

/// What a layer's forward pass leaves for its backward pass; without one, all layers share it.
struct Kept {
    sum: Tensor,    // (rows, d_model): the residual stream into the layer
    normed: Tensor, // (rows, d_model)
    xz: Tensor,     // (rows, 2 d_inner)
    u: Tensor,      // (rows, d_inner)
    x_dbl: Tensor,  // (rows, dt_rank + 2 d_state)
    delta: Tensor,  // (rows, d_inner); LTI: (d_inner)
    y: Tensor,      // (rows, d_inner)
    a: Tensor,      // (d_inner, d_state)
    scan: ScanTape,
}

/// Gradients on their way down.
struct Back {
    residual: Tensor, // (rows, d_model)
    normed: Tensor,   // (rows, d_model)
    xz: Tensor,       // (rows, 2 d_inner)
    x_dbl: Tensor,    // (rows, dt_rank + 2 d_state)
    y: Tensor,        // (rows, d_inner)
    scratch: Scratch,
    order: Tensor, // u32 (rows): positions sorted by token
}

/// The plans and buffers for batches of one shape.
pub struct Tape {
    gpu: Gpu,
    sequences: usize,
    length: usize,
    n_layer: usize,
    d_model: usize,
    vocab_size: usize,
    tokens: Tensor,  // u32 (rows)
    targets: Tensor, // u32 (rows)
    nll: Tensor,     // (rows)
    argmax: Tensor,  // u32 (rows)
    hidden: Tensor,  // (rows, d_model)
    kept: Vec<Kept>,
    states: Tensor,     // n_layer of (sequences, d_inner, d_state)
    conv_state: Tensor, // (sequences, d_conv, d_inner), zeros
    sum_f: Tensor,      // (rows, d_model)
    normed_f: Tensor,   // (rows, d_model)
    logits: Tensor,     // (block rows, vocab_size)
    back: Option<Back>,
    prepare: Plan,
    forward: Plan,
    backward: Plan,
    read: [Readback; 2],
}

/// Elements up to where the next slice may begin.
fn aligned(elements: usize) -> usize {
    elements.next_multiple_of(64)
}

impl Tape {
    /// For training on micro-batches of `sequences` x `length`: `loss_scale` (1) is what each token's gradient counts, `loss_sum` (1)
    /// gets the sum of nll.
    pub(super) fn training(
        gpu: &Gpu,
        parameters: &Parameters,
        (sequences, length): (usize, usize),
        loss_scale: &Tensor,
        loss_sum: &Tensor,
    ) -> Result<Self> {
        Self::build(gpu, parameters, (sequences, length), Some((loss_scale, loss_sum)))
    }

    /// For looking at what the model says of batches of `sequences` x `length`: nothing is kept for a way back.
    ///
    /// # Errors
    /// Buffers over the adapter's limits; a full memory.
    pub fn evaluation(gpu: &Gpu, parameters: &Parameters, (sequences, length): (usize, usize)) -> Result<Self> {
        Self::build(gpu, parameters, (sequences, length), None)
    }

    fn build(
        gpu: &Gpu,
        parameters: &Parameters,
        (sequences, length): (usize, usize),
        loss: Option<(&Tensor, &Tensor)>,
    ) -> Result<Self> {
        let (shape, vocab_size) = (parameters.shape(), parameters.vocab_size());
        let (rows, d_model, d_inner) = (sequences * length, shape.d_model, shape.d_inner());
        let (d_state, width) = (shape.d_state, shape.x_dbl_width());
        let zeros = |label: &str, elements| Tensor::zeros(gpu, label, elements);
        let scan = Self::scan_of(parameters, sequences, length);
        let kept = |layer: usize, sum: Option<&Kept>| -> Result<Kept, GpuError> {
            let label = |what: &str| format!("layers.{layer} {what}");
            if let Some(shared) = sum {
                // Two residual streams in turn; everything else is the first layer's.
                let scan = ScanTape::new(gpu, scan)?;
                return Ok(Kept {
                    sum: zeros(&label("sum"), rows * d_model)?,
                    normed: shared.normed.clone(),
                    xz: shared.xz.clone(),
                    u: shared.u.clone(),
                    x_dbl: shared.x_dbl.clone(),
                    delta: shared.delta.clone(),
                    y: shared.y.clone(),
                    a: shared.a.clone(),
                    scan,
                });
            }
            Ok(Kept {
                sum: zeros(&label("sum"), rows * d_model)?,
                normed: zeros(&label("normed"), rows * d_model)?,
                xz: zeros(&label("xz"), rows * 2 * d_inner)?,
                u: zeros(&label("u"), rows * d_inner)?,
                x_dbl: zeros(&label("x_dbl"), if shape.lti { 0 } else { rows * width })?,
                delta: zeros(&label("delta"), if shape.lti { d_inner } else { rows * d_inner })?,
                y: zeros(&label("y"), rows * d_inner)?,
                a: zeros(&label("A"), d_inner * d_state)?,
                scan: ScanTape::new(gpu, scan)?,
            })
        };
        let mut all = Vec::new();
        for layer in 0..shape.n_layer {
            let shared = if loss.is_some() || layer == 0 { None } else { all.first() };
            let this = match layer {
                2.. if loss.is_none() => break,
                _ => kept(layer, shared)?,
            };
            all.push(this);
        }
        let back = match loss {
            None => None,
            Some(_) => Some(Back {
                residual: zeros("gradient of the residual stream", rows * d_model)?,
                normed: zeros("gradient of normed", rows * d_model)?,
                xz: zeros("gradient of xz", rows * 2 * d_inner)?,
                x_dbl: zeros("gradient of x_dbl", if shape.lti { 0 } else { rows * width })?,
                y: zeros("gradient of y", rows * d_inner)?,
                scratch: Scratch::new(
                    gpu,
                    ScratchShape {
                        rows,
                        batch: sequences,
                        d_model,
                        d_inner,
                        d_state,
                        d_conv: shape.d_conv,
                        dt_rank: shape.dt_rank(),
                    },
                )?,
                order: zeros("order of tokens", rows)?,
            }),
        };
        let block = Self::block_rows(gpu, rows, vocab_size);
        let empty = || PlanBuilder::new(gpu).finish();
        let mut tape = Self {
            gpu: gpu.clone(),
            sequences,
            length,
            n_layer: shape.n_layer,
            d_model,
            vocab_size,
            tokens: zeros("tokens", rows)?,
            targets: zeros("targets", rows)?,
            nll: zeros("nll", rows)?,
            argmax: zeros("argmax", rows)?,
            hidden: zeros("hidden", rows * d_model)?,
            kept: all,
            states: zeros("states", shape.n_layer * aligned(sequences * d_inner * d_state))?,
            conv_state: zeros("conv_state", sequences * shape.d_conv * d_inner)?,
            sum_f: zeros("norm_f sum", rows * d_model)?,
            normed_f: zeros("norm_f normed", rows * d_model)?,
            logits: zeros("logits", block * vocab_size)?,
            back,
            prepare: empty()?,
            forward: empty()?,
            backward: empty()?,
            read: [Readback::new(gpu, "nll", rows), Readback::new(gpu, "argmax", rows)],
        };
        let model = Model::new(parameters, Side::Value)?;
        (tape.prepare, tape.forward) = tape.forward_plans(&model, parameters)?;
        tape.backward = match loss {
            Some(loss) => tape.backward_plan(&model, &Model::new(parameters, Side::Gradient)?, parameters, loss)?,
            None => tape.judging_plan(&model)?,
        };
        gpu.check()?;
        Ok(tape)
    }

    fn scan_of(parameters: &Parameters, batch: usize, l: usize) -> TrainScan {
        let s = parameters.shape();
        let shape = ScanShape {
            l,
            d_inner: s.d_inner(),
            d_state: s.d_state,
            x_dbl_stride: s.x_dbl_width(),
            b_offset: s.dt_rank(),
            c_offset: s.dt_rank() + s.d_state,
            xz_stride: 2 * s.d_inner(),
            z_offset: s.d_inner(),
        };
        TrainScan { batch, shape, lti: s.lti }
    }

    fn conv_shape(&self, parameters: &Parameters) -> ConvShape {
        let s = parameters.shape();
        ConvShape { l: self.length, d_inner: s.d_inner(), d_conv: s.d_conv, x_stride: 2 * s.d_inner() }
    }

    /// Rows whose logits fit into the buffer, a multiple of 64 unless they are all.
    fn block_rows(gpu: &Gpu, rows: usize, vocab_size: usize) -> usize {
        let room = LOGITS_BYTES.min(gpu.max_binding()) / (4 * vocab_size.max(1) as u64);
        rows.min((room as usize / 64 * 64).max(64))
    }

    fn rows(&self) -> usize {
        self.sequences * self.length
    }

    fn layer_kept(&self, layer: usize) -> &Kept {
        // In evaluation there are two, used in turn.
        &self.kept[layer % self.kept.len().max(1)]
    }

    /// A layer's states (sequences, d_inner, d_state).
    fn states_of(&self, layer: usize) -> Tensor {
        let each = self.states.elements() / self.n_layer.max(1);
        self.states.slice(layer * each, each)
    }

    fn norm_shape(&self) -> RmsNorm {
        RmsNorm { rows: self.rows(), row0: 0, d: self.d_model, eps: NORM_EPS }
    }

    fn linear(&self, x_stride: usize, y_stride: usize) -> Linear {
        Linear { l: self.rows(), x_stride, y_stride, softplus: false }
    }

    /// What a step needs once, and a batch's way to `normed_f`. In evaluation, where layers share buffers, the former is
    /// part of the latter.
    fn forward_plans(&self, model: &Model, parameters: &Parameters) -> Result<(Plan, Plan)> {
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
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
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
    fn judging_plan(&self, model: &Model) -> Result<Plan> {
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
    fn backward_plan(
        &self,
        model: &Model,
        grad: &Model,
        parameters: &Parameters,
        (loss_scale, loss_sum): (&Tensor, &Tensor),
    ) -> Result<Plan> {
        let mut plan = PlanBuilder::new(&self.gpu);
        let Some(b) = &self.back else { return Ok(plan.finish()?) };
        for (at, rows) in self.blocks() {
            self.head(&mut plan, model, (at, rows))?;
            let (targets, nll) = (self.targets.slice(at, rows), self.nll.slice(at, rows));
            grads::cross_entropy(&mut plan, &self.logits, &targets, loss_scale, &nll, rows, self.vocab_size)?;
            let shape = LinearGrad { l: rows, x_stride: self.d_model, y_stride: self.vocab_size };
            let block = |tensor: &Tensor| tensor.slice(at * self.d_model, rows * self.d_model);
            let grad_normed = block(&b.normed);
            grads::matmul_grad_x(&mut plan, &b.scratch, &self.logits, &model.head, &grad_normed, shape, false)?;
            grads::matmul_grad_w(&mut plan, &b.scratch, &block(&self.normed_f), &self.logits, &grad.head, shape)?;
        }
        let columns = Columns { rows: self.rows(), cols: 1, stride: 1 };
        grads::column_sums(&mut plan, &b.scratch, &self.nll, loss_sum, columns)?;
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
        let shape = linear(d_inner, self.d_model);
        grads::matmul_grad_w(plan, &b.scratch, &k.y, &b.residual, &grad.out_proj, shape)?;
        grads::matmul_grad_x(plan, &b.scratch, &b.residual, &layer.out_proj, &b.y, shape, false)?;

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
            let shape = linear(width, d_inner);
            grads::matmul_grad_w(plan, &b.scratch, &k.x_dbl, &k.delta, grad_dt, shape)?;
            grads::matmul_grad_x(plan, &b.scratch, &k.delta, dt_proj, &b.x_dbl, shape, false)?;
            let shape = linear(d_inner, width);
            grads::matmul_grad_w(plan, &b.scratch, &k.u, &b.x_dbl, grad_x, shape)?;
            grads::matmul_grad_x(plan, &b.scratch, &b.x_dbl, x_proj, &b.y, shape, true)?;
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

        let shape = linear(self.d_model, 2 * d_inner);
        grads::matmul_grad_w(plan, &b.scratch, &k.normed, &b.xz, &grad.in_proj, shape)?;
        grads::matmul_grad_x(plan, &b.scratch, &b.xz, &layer.in_proj, &b.normed, shape, false)?;
        let norm = RmsNormGrads {
            x: &k.sum,
            weight: &layer.norm,
            grad_y: &b.normed,
            grad_x: &b.residual,
            grad_weight: &grad.norm,
        };
        grads::rms_norm_backward(plan, &b.scratch, &norm, self.norm_shape())
    }

    /// Writes a batch to the device, before all that is submitted later.
    pub(super) fn write(&self, batch: &Batch) -> Result<()> {
        let fail = |what, got, expected| Err(TrainError::BatchShape { what, got, expected }.into());
        if batch.length != self.length {
            return fail("tokens of a sequence", batch.length, self.length);
        }
        if batch.sequences != self.sequences || batch.tokens.len() != self.rows() {
            return fail("sequences of a batch", batch.sequences, self.sequences);
        }
        if batch.targets.len() != self.rows() {
            return fail("targets of a batch", batch.targets.len(), self.rows());
        }
        let vocab_size = self.vocab_size;
        let out = |&t: &u32| t as usize >= vocab_size;
        let bad = batch.tokens.iter().position(out);
        let bad = bad.map(|i| (i, batch.tokens[i]));
        let bad = bad.or_else(|| {
            let i = batch.targets.iter().position(|t| *t != IGNORE && out(t))?;
            Some((i, batch.targets[i]))
        });
        if let Some((position, token)) = bad {
            return Err(InputError::TokenOutOfRange { token, position, vocab_size }.into());
        }
        self.tokens.write(&self.gpu, 0, &batch.tokens);
        match &self.back {
            Some(b) => {
                self.targets.write(&self.gpu, 0, &batch.targets);
                b.order.write(&self.gpu, 0, batch.order());
            }
            None => {
                // token_nll knows no target that does not count: what it says of those is thrown away.
                let targets: Vec<u32> = batch.targets.iter().map(|&t| if t == IGNORE { 0 } else { t }).collect();
                self.targets.write(&self.gpu, 0, &targets);
            }
        }
        Ok(())
    }

    /// What a step needs once.
    pub(super) fn record_prepare(&self, encoder: &mut wgpu::CommandEncoder) {
        self.prepare.record(encoder);
    }

    pub(super) fn record_forward(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.clear_buffer(self.states.buffer(), 0, None);
        self.forward.record(encoder);
    }

    /// The way back of what the forward pass has left.
    pub(super) fn record_backward(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.clear_buffer(self.states.buffer(), 0, None);
        if let Some(back) = &self.back {
            encoder.clear_buffer(back.residual.buffer(), 0, None);
        }
        self.backward.record(encoder);
    }

    fn record_all(&self, encoder: &mut wgpu::CommandEncoder) {
        self.record_prepare(encoder);
        self.record_forward(encoder);
        self.record_backward(encoder);
    }

    /// Dispatches of a batch, there and back.
    pub fn dispatches(&self) -> usize {
        self.forward.labels().len() + self.backward.labels().len()
    }

    /// The first activation that is not finite, in the order of the forward pass.
    pub(super) async fn not_finite(&self) -> Result<Option<String>> {
        let layers = self.kept.iter().flat_map(|k| [&k.sum, &k.normed, &k.xz, &k.u, &k.x_dbl, &k.delta, &k.y]);
        for tensor in layers.chain([&self.sum_f, &self.normed_f, &self.nll]) {
            let values: Vec<f32> = tensor.read(&self.gpu).await?;
            if values.iter().any(|x| !x.is_finite()) {
                return Ok(Some(tensor.label().to_owned()));
            }
        }
        Ok(None)
    }

    /// The probability of each token to follow these. For a tape made by [`Tape::evaluation`] for one sequence.
    ///
    /// # Errors
    /// Tokens of another number, or out of range; logits with NaN.
    pub async fn probabilities(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.write(&Batch::new(1, tokens.len(), tokens.to_vec(), vec![IGNORE; tokens.len()]))?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.record_all(&mut encoder);
        self.gpu.queue().submit([encoder.finish()]);
        // The buffer holds the last block's logits, the last row's behind all others.
        let (_, rows) = self.blocks().last().unwrap_or_default();
        let at = rows.saturating_sub(1) * self.vocab_size;
        let logits: Vec<f32> = self.logits.slice(at, self.vocab_size).read(&self.gpu).await?;
        let most = logits.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
        let mass: Vec<f64> = logits.iter().map(|&x| f64::from(x - most).exp()).collect();
        let sum: f64 = mass.iter().sum();
        if !sum.is_finite() {
            return Err(InputError::NoTokenToChoose.into());
        }
        Ok(mass.iter().map(|x| (x / sum) as f32).collect())
    }

    /// What the model says of a batch. For a tape made by [`Tape::evaluation`].
    ///
    /// # Errors
    /// A batch of another shape; logits with NaN.
    pub async fn evaluate(&self, batch: &Batch) -> Result<Evaluation> {
        self.write(batch)?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.record_all(&mut encoder);
        let [nll, argmax] = &self.read;
        nll.copy_from(&mut encoder, &self.nll);
        argmax.copy_from(&mut encoder, &self.argmax);
        self.gpu.queue().submit([encoder.finish()]);
        let nll: Vec<f32> = nll.read(&self.gpu, self.rows()).await?;
        let argmax: Vec<u32> = argmax.read(&self.gpu, self.rows()).await?;
        let mut sum = Evaluation::default();
        for ((&target, nll), argmax) in batch.targets.iter().zip(nll).zip(argmax).filter(|((t, _), _)| **t != IGNORE) {
            if argmax == SampleBuffers::NOT_A_NUMBER || !nll.is_finite() {
                return Err(InputError::NoTokenToChoose.into());
            }
            sum.counted += 1;
            sum.correct += u64::from(argmax == target);
            sum.nll_sum += f64::from(nll);
        }
        Ok(sum)
    }
}
