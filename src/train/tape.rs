//! A batch's way through the model and back, as two plans of dispatches: the model's ops in their order with all that the
//! backward pass reads kept, and the same backwards. No general autodiff: what a layer's gradients are is written down in its
//! block (`model/blocks/mamba1/trained.rs`), those of embedding, head and loss in `tape/plans.rs`.

mod plans;

use self::plans::Model;
use super::named::NORM_EPS;
use super::parameters::{Parameters, Side};
use super::tasks::{Batch, IGNORE};
use super::TrainError;
use crate::error::{InputError, Result};
use crate::gpu::{Gpu, Plan, PlanBuilder, Readback, Tensor};
use crate::kernels::SampleBuffers;
use crate::model::blocks::mamba1::trained::{Back, Kept, Pass};

/// The most bytes of logits at a time.
const LOGITS_BYTES: u64 = 256 << 20;

/// What a batch's loss is taken with.
#[derive(Clone, Copy)]
pub(super) struct Loss<'a> {
    /// (1): what each target's gradient counts.
    pub scale: &'a Tensor,
    /// (1), added to: the sum of nll.
    pub sum: &'a Tensor,
    pub label_smoothing: f32,
}

/// What a model says of some batches.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evaluation {
    /// Targets that count.
    pub counted: u64,
    /// Of those, the ones that the model thought the most likely.
    pub correct: u64,
    /// Sum of -log p (natural).
    pub nll_sum: f64,
}

impl Evaluation {
    /// Nats a target.
    pub fn loss(&self) -> f64 {
        self.nll_sum / self.counted.max(1) as f64
    }
    /// The part of the targets that the model thought the most likely.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.counted.max(1) as f64
    }
    /// Both together.
    pub fn add(&mut self, other: &Evaluation) {
        self.counted += other.counted;
        self.correct += other.correct;
        self.nll_sum += other.nll_sum;
    }
}

/// The plans and buffers for batches of one shape.
pub struct Tape {
    gpu: Gpu,
    sequences: usize,
    length: usize,
    pass: Pass,
    n_layer: usize,
    d_model: usize,
    vocab_size: usize,
    tokens: Tensor,               // u32 (rows)
    targets: Tensor,              // u32 (rows)
    nll: Tensor,                  // (rows)
    argmax: Tensor,               // u32 (rows)
    hidden: Tensor,               // (rows, d_model)
    sums: Vec<Tensor>,            // (rows, d_model): the residual stream into each layer; in evaluation two in turn
    kept: Vec<Kept>,              // a layer's; in evaluation one for all
    states: Tensor,               // n_layer of ssm_state, of all sequences
    conv_state: Tensor,           // of all sequences, zeros
    sum_f: Tensor,                // (rows, d_model)
    normed_f: Tensor,             // (rows, d_model)
    logits: Tensor,               // (block rows, vocab_size)
    back: Option<(Back, Tensor)>, // in training, with u32 (rows): positions sorted by token
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
    /// For training on micro-batches of `sequences` x `length`.
    pub(super) fn training(
        gpu: &Gpu,
        parameters: &Parameters,
        (sequences, length): (usize, usize),
        loss: Loss<'_>,
    ) -> Result<Self> {
        Self::build(gpu, parameters, (sequences, length), Some(loss))
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
        loss: Option<Loss<'_>>,
    ) -> Result<Self> {
        let (shape, vocab_size) = (parameters.shape(), parameters.vocab_size());
        let (rows, d_model, n_layer) = (sequences * length, shape.d_model, shape.n_layer);
        let pass = Pass::new(shape.layer, d_model, (sequences, length), NORM_EPS);
        let zeros = |label: &str, elements| Tensor::zeros(gpu, label, elements);
        let (sums, kept) = if loss.is_some() { (n_layer, n_layer) } else { (n_layer.min(2), n_layer.min(1)) };
        let sums = (0..sums).map(|i| zeros(&format!("layers.{i} sum"), rows * d_model)).collect::<Result<_, _>>()?;
        let kept = (0..kept).map(|i| Kept::new(gpu, &pass, i)).collect::<Result<_, _>>()?;
        let back = match loss {
            None => None,
            Some(_) => Some((Back::new(gpu, &pass)?, zeros("order of tokens", rows)?)),
        };
        let block = Self::block_rows(gpu, rows, vocab_size);
        let empty = || PlanBuilder::new(gpu).finish();
        let mut tape = Self {
            gpu: gpu.clone(),
            sequences,
            length,
            pass,
            n_layer,
            d_model,
            vocab_size,
            tokens: zeros("tokens", rows)?,
            targets: zeros("targets", rows)?,
            nll: zeros("nll", rows)?,
            argmax: zeros("argmax", rows)?,
            hidden: zeros("hidden", rows * d_model)?,
            sums,
            kept,
            states: zeros("states", n_layer * aligned(pass.state_elements("ssm_state")))?,
            conv_state: zeros("conv_state", pass.state_elements("conv_state"))?,
            sum_f: zeros("norm_f sum", rows * d_model)?,
            normed_f: zeros("norm_f normed", rows * d_model)?,
            logits: zeros("logits", block * vocab_size)?,
            back,
            prepare: empty()?,
            forward: empty()?,
            backward: empty()?,
            read: [Readback::new(gpu, "nll", rows), Readback::new(gpu, "argmax", rows)],
        };
        let model = Model::new(parameters, &pass, Side::Value)?;
        (tape.prepare, tape.forward) = tape.forward_plans(&model)?;
        tape.backward = match loss {
            Some(loss) => tape.backward_plan(&model, &Model::new(parameters, &pass, Side::Gradient)?, loss)?,
            None => tape.judging_plan(&model)?,
        };
        gpu.check()?;
        Ok(tape)
    }

    /// Rows whose logits fit into the buffer, a multiple of 64 unless they are all.
    fn block_rows(gpu: &Gpu, rows: usize, vocab_size: usize) -> usize {
        let room = LOGITS_BYTES.min(gpu.max_binding()) / (4 * vocab_size.max(1) as u64);
        rows.min((room as usize / 64 * 64).max(64))
    }

    /// Sequences that go through together.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    fn rows(&self) -> usize {
        self.sequences * self.length
    }

    fn sum(&self, layer: usize) -> &Tensor {
        &self.sums[layer % self.sums.len().max(1)]
    }

    fn kept(&self, layer: usize) -> &Kept {
        &self.kept[layer % self.kept.len().max(1)]
    }

    /// A layer's ssm_state, of all sequences.
    fn states_of(&self, layer: usize) -> Tensor {
        let each = self.states.elements() / self.n_layer.max(1);
        self.states.slice(layer * each, each)
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
            Some((_, order)) => {
                self.targets.write(&self.gpu, 0, &batch.targets);
                order.write(&self.gpu, 0, batch.order());
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
        if let Some((back, _)) = &self.back {
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
        let layers =
            self.sums.iter().zip(&self.kept).flat_map(|(sum, kept)| [sum].into_iter().chain(kept.activations()));
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
        self.gpu.submit([encoder.finish()]);
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
        self.gpu.submit([encoder.finish()]);
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
