//! Several texts on the device, a token of each in a step.

use super::buffers::{Memory, Plans, Workspace, SCORE_ROWS};
use super::pool::{Held, MOST};
use super::{GpuModel, GpuSession};
use crate::error::{InputError, Result};
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Plan, PlanBuilder, Readback, Tensor, Variant};
use crate::kernels::{self, Draw, SampleBuffers, SampleSlots};
use crate::model::blocks::device::Way;
use crate::model::blocks::Shape;
use crate::model::types::{check_slots, check_tokens, StateData};
use crate::settings::SamplingParams;
use std::sync::Arc;

/// Plans that are kept: of the last numbers of texts, and of the last slots alone.
const PLANS: usize = 8;

/// What the host knows of a slot.
struct Text {
    /// The element of [`GpuBatch::logits`] where its last logits begin.
    logits: Option<usize>,
    /// Its prompt has had activations beyond f16.
    wide: bool,
    draw: Draw,
}

impl Text {
    fn new() -> Self {
        Self { logits: None, wide: false, draw: Draw::Greedy }
    }
}

/// Several texts' states on the device, each in its slot.
pub struct GpuBatch {
    pub(super) model: Arc<GpuModel>,
    memory: Memory,
    texts: Vec<Text>,
    /// (slots, vocab_size): of texts that the last step had no token of; then, from [`GpuBatch::rows_at`] on, (rows, vocab_size): the
    /// last step's.
    logits: Tensor,
    sampling: SampleSlots,
    /// Reads prompts, one at a time.
    reader: GpuSession,
    pub(super) work: Workspace,
    steps: Plans<Step>,
    samples: Plans<(usize, Draw)>,
    tokens_back: Readback,
    logits_back: Readback,
    /// Of as many rows as there are slots; made when first needed, where another part of the model goes on.
    pub(super) residual_back: Option<Readback>,
}

/// Which plan is a step's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// One text's, in its slot, by the fused step.
    One { slot: usize },
    /// So many texts', wherever they are.
    Rows(usize),
}

impl GpuBatch {
    /// The most slots that the adapter's bindings allow; `None` where the kernels of a step of several texts are not to be used.
    pub fn most_slots(model: &GpuModel) -> Option<usize> {
        let (gpu, c) = (&model.gpu, &model.config);
        if !gpu.allows(Variant::Batch) || !model.layers.iter().all(|layer| layer.steps(gpu)) {
            return None;
        }
        let states = c.layers.iter().flat_map(|layer| layer.state()).map(|field| field.elements());
        let widest = c.layers.iter().map(Shape::widest).chain(states).chain([c.d_model, 2 * c.vocab_size]);
        // Rows of the table of pages, where there is attention.
        let pages = model.pool.as_ref().map_or(0, |_| MOST);
        let widest = widest.chain([SampleSlots::widest(c.vocab_size), pages]).max().unwrap_or(1);
        Some(((gpu.max_binding() / 4) as usize / widest).max(1))
    }

    /// So many texts at their begin.
    pub fn new(model: &Arc<GpuModel>, slots: usize) -> Result<Self> {
        let (gpu, vocab_size) = (&model.gpu, model.logits());
        let batch = Self {
            memory: Memory::of_texts(model, slots)?,
            texts: (0..slots).map(|_| Text::new()).collect(),
            logits: Tensor::zeros(gpu, "logits", rows_at(slots, vocab_size) + slots * vocab_size)?,
            sampling: SampleSlots::new(gpu, slots, vocab_size)?,
            reader: GpuSession::new(model)?,
            work: Workspace::new(model, slots, None, (NumberFormat::F32, false))?,
            steps: Plans::new(PLANS),
            samples: Plans::new(PLANS),
            tokens_back: Readback::new(gpu, "sampled tokens", slots),
            logits_back: Readback::new(gpu, "logits", vocab_size),
            residual_back: None,
            model: model.clone(),
        };
        (0..slots).for_each(|slot| batch.set_sampling(slot, &SamplingParams::default(), &[]));
        gpu.check()?;
        Ok(batch)
    }

    pub fn slots(&self) -> usize {
        self.texts.len()
    }

    /// Whether the tokens are the model's.
    pub fn takes(&self, tokens: &[u32]) -> bool {
        check_tokens(tokens, self.model.config.vocab_size).is_ok()
    }

    fn rows_at(&self) -> usize {
        rows_at(self.slots(), self.model.logits())
    }

    fn check_slot(&self, slot: usize) -> Result<(), InputError> {
        check_slots([slot].into_iter(), self.slots())
    }

    /// A row of logits.
    fn row(&self, at: usize) -> Tensor {
        self.logits.slice(at, self.model.logits())
    }

    /// Records the copy of a slot's logits to where the next step leaves them alone.
    fn keep_logits(&mut self, encoder: &mut wgpu::CommandEncoder, slot: usize) {
        let (from, to) = (self.texts[slot].logits, slot * self.model.logits());
        if let Some(from) = from.filter(|&from| from >= self.rows_at()) {
            // A buffer cannot be copied within itself.
            self.row(from).copy_to(encoder, &self.reader.logits);
            self.reader.logits.copy_to(encoder, &self.row(to));
            self.texts[slot].logits = Some(to);
        }
    }

    /// Feeds a slot's text by chunks through the parallel kernels.
    pub async fn prefill(&mut self, slot: usize, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        check_tokens(tokens, self.model.config.vocab_size)?;
        self.lend(slot)?.prefill(tokens, progress).await?;
        self.take_back(slot)
    }

    /// The reader, at the point of a slot's text.
    pub fn lend(&mut self, slot: usize) -> Result<&mut GpuSession> {
        self.check_slot(slot)?;
        let gpu = self.model.gpu.clone();
        self.reader.take_up(self.texts[slot].wide);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.memory.copy_slot(&mut encoder, slot, (&self.reader.memory, 0));
        gpu.submit([encoder.finish()]);
        self.reader.memory.share(&gpu, 0, &self.memory, slot);
        Ok(&mut self.reader)
    }

    /// Brings a slot to where the reader is, which has been lent.
    pub fn take_back(&mut self, slot: usize) -> Result<()> {
        let gpu = self.model.gpu.clone();
        self.memory.share(&gpu, slot, &self.reader.memory, 0);
        self.let_go();
        let at = slot * self.model.logits();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.reader.memory.copy_slot(&mut encoder, 0, (&self.memory, slot));
        self.reader.logits.copy_to(&mut encoder, &self.row(at));
        gpu.submit([encoder.finish()]);
        self.texts[slot].logits = self.reader.has_logits.then_some(at);
        self.texts[slot].wide = self.reader.is_wide();
        Ok(gpu.check()?)
    }

    /// Pages that the reader shares with a text would be copied at that one's next token.
    fn let_go(&mut self) {
        if let Some(held) = self.reader.memory.text() {
            held.clear();
        }
    }

    /// Makes room for a token of each of these texts.
    pub(super) fn reserve(&mut self, slots: &[usize]) -> Result<()> {
        for &slot in slots {
            if let Some(held) = self.memory.held.get_mut(slot) {
                if held.reserve(&self.model.gpu, 1)? {
                    self.steps.clear();
                }
            }
        }
        Ok(())
    }

    /// The table of the texts of a step, as the device has it ([`kernels::TEXT`]).
    pub(super) fn write_texts(&self, slots: impl Iterator<Item = usize>) {
        let row = |slot: usize| {
            let tokens = self.memory.held.get(slot).map_or(0, Held::tokens);
            [slot as u32, self.texts[slot].logits.unwrap_or_default() as u32, tokens as u32]
        };
        let table: Vec<u32> = slots.flat_map(row).collect();
        self.work.texts.write(&self.model.gpu, 0, &table);
    }

    /// The plan of a step of these slots.
    fn step_plan(&mut self, slots: &[usize]) -> Result<&Plan> {
        let (model, work, memory) = (&self.model, &self.work, &self.memory);
        let (at, vocab_size) = (self.rows_at(), model.logits());
        let logits = &self.logits;
        let step = match *slots {
            [slot] if model.fuses_the_step() && memory.slots_can_be_bound() => Step::One { slot },
            _ => Step::Rows(slots.len()),
        };
        self.steps.get(step, || {
            let mut builder = PlanBuilder::new(&model.gpu);
            if let Step::One { slot } = step {
                let logits = logits.slice(at, vocab_size);
                model.fused_step(&mut builder, work, &|layer| memory.layer_of(layer, slot), &logits)?;
                return Ok(builder.finish()?);
            }
            let rows = slots.len();
            model.layers(&mut builder, (work, memory), rows, Way::Step(&work.texts))?;
            for row0 in (0..rows).step_by(SCORE_ROWS) {
                let some = SCORE_ROWS.min(rows - row0);
                let logits = logits.slice(at + row0 * vocab_size, some * vocab_size);
                model.head(&mut builder, work, (row0, some), &logits)?;
            }
            Ok(builder.finish()?)
        })
    }

    /// The plan of a step of all slots, which it has written the table of: for measuring. The states are of no use once it has run.
    pub fn plan(&mut self) -> Result<&Plan> {
        let slots: Vec<_> = (0..self.slots()).collect();
        self.reserve(&slots)?;
        self.write_texts(slots.iter().copied());
        self.step_plan(&slots)
    }

    /// Records the step of the tokens in the workspace, those of these slots in this order.
    pub(super) fn record_step(&mut self, encoder: &mut wgpu::CommandEncoder, slots: &[usize]) -> Result<()> {
        // Who takes no part keeps logits that the step would overwrite.
        let mut resting = vec![true; self.slots()];
        slots.iter().for_each(|&slot| resting[slot] = false);
        for slot in (0..self.slots()).filter(|&slot| resting[slot]) {
            self.keep_logits(encoder, slot);
        }
        let at = self.rows_at();
        self.step_plan(slots)?.record(encoder);
        for (row, &slot) in slots.iter().enumerate() {
            self.texts[slot].logits = Some(at + row * self.model.logits());
            if let Some(held) = self.memory.held.get_mut(slot) {
                held.set_tokens(held.tokens() + 1);
            }
        }
        Ok(())
    }

    /// A step: of some texts a token that is drawn, of others one that is given. The device is at it still when the drawn ones are here.
    /// `None`: the logits left nothing to draw.
    pub async fn step(&mut self, draw: &[usize], feed: &[(usize, u32)]) -> Result<Vec<Option<u32>>> {
        let (given, tokens): (Vec<_>, Vec<_>) = feed.iter().copied().unzip();
        let slots = [draw, &given].concat();
        check_slots(slots.iter().copied(), self.slots())?;
        if slots.is_empty() || draw.iter().any(|&slot| self.texts[slot].logits.is_none()) {
            return Err(InputError::NoTokens.into());
        }
        if !tokens.is_empty() {
            check_tokens(&tokens, self.model.config.vocab_size)?;
        }
        let gpu = self.model.gpu.clone();
        self.reserve(&slots)?;
        self.write_texts(slots.iter().copied());
        self.work.tokens.write(&gpu, draw.len(), &tokens);
        let submission = if draw.is_empty() { None } else { Some(self.submit_draws(draw)?) };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.record_step(&mut encoder, &slots)?;
        gpu.submit([encoder.finish()]);
        if submission.is_none() {
            gpu.check()?;
            return Ok(Vec::new());
        }
        self.drawn(draw.len(), submission).await
    }

    /// So many tokens that were drawn.
    pub(super) async fn drawn(
        &self,
        count: usize,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<Option<u32>>> {
        let drawn = self.tokens_back.read_after::<u32>(&self.model.gpu, count, submission).await?;
        Ok(drawn.into_iter().map(|token| Some(token).filter(|&t| t != SampleBuffers::NOT_A_NUMBER)).collect())
    }

    /// Whether a token can be drawn for a slot.
    pub fn has_logits(&self, slot: usize) -> bool {
        self.texts[slot].logits.is_some()
    }

    /// Draws a token for the first rows of the table, to the step's tokens and on their way to the host.
    pub(super) fn submit_draws(&mut self, slots: &[usize]) -> Result<wgpu::SubmissionIndex> {
        let (gpu, rows) = (self.model.gpu.clone(), slots.len());
        let draw = slots.iter().map(|&slot| self.texts[slot].draw).max().unwrap_or(Draw::Greedy);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let (work, logits, sampling) = (&self.work, &self.logits, &self.sampling);
        let plan = self.samples.get((rows, draw), || {
            let mut builder = PlanBuilder::new(&gpu);
            kernels::sample_batch(&mut builder, logits, sampling, (&work.texts, rows), &work.tokens, draw)?;
            Ok(builder.finish()?)
        })?;
        plan.record(&mut encoder);
        self.tokens_back.copy_from(&mut encoder, &self.work.tokens.slice(0, rows));
        Ok(gpu.submit([encoder.finish()]))
    }

    /// A text's last logits (vocab_size).
    pub async fn logits(&mut self, slot: usize) -> Result<Vec<f32>> {
        self.check_slot(slot)?;
        let at = self.texts[slot].logits.ok_or(InputError::NoTokens)?;
        let gpu = &self.model.gpu;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.logits_back.copy_from(&mut encoder, &self.row(at));
        gpu.submit([encoder.finish()]);
        Ok(self.logits_back.read(gpu, self.model.config.vocab_size).await?)
    }

    /// Sets how a slot's tokens are drawn, and what its text so far is.
    pub fn begin_sampling(&mut self, slot: usize, params: &SamplingParams, context: &[u32]) -> Result<()> {
        self.check_slot(slot)?;
        params.validate()?;
        self.texts[slot].draw = Draw::of(params, self.model.logits());
        self.set_sampling(slot, params, context);
        Ok(())
    }

    fn set_sampling(&self, slot: usize, params: &SamplingParams, context: &[u32]) {
        let seen = super::session::seen(context, self.model.logits());
        self.sampling.begin(&self.model.gpu, slot, params, &seen, context.len() as u32);
    }

    /// A slot back to the begin of a text.
    pub fn reset(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        let gpu = self.model.gpu.clone();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.memory.clear_slot(&mut encoder, slot);
        gpu.submit([encoder.finish()]);
        if let Some(held) = self.memory.held.get_mut(slot) {
            held.clear();
        }
        self.texts[slot] = Text::new();
        self.set_sampling(slot, &SamplingParams::default(), &[]);
        Ok(())
    }

    /// A slot's text to another slot as well; how that one draws is as after a reset.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        check_slots([from, to].into_iter(), self.slots())?;
        let gpu = self.model.gpu.clone();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.memory.copy_slot(&mut encoder, from, (&self.reader.memory, 0));
        self.reader.memory.copy_slot(&mut encoder, 0, (&self.memory, to));
        self.reader.memory.share(&gpu, 0, &self.memory, from);
        self.memory.share(&gpu, to, &self.reader.memory, 0);
        self.let_go();
        self.texts[to] = Text { wide: self.texts[from].wide, ..Text::new() };
        if let Some(at) = self.texts[from].logits {
            let kept = to * self.model.logits();
            self.row(at).copy_to(&mut encoder, &self.reader.logits);
            self.reader.logits.copy_to(&mut encoder, &self.row(kept));
            self.texts[to].logits = Some(kept);
        }
        gpu.submit([encoder.finish()]);
        self.set_sampling(to, &SamplingParams::default(), &[]);
        Ok(())
    }

    /// A slot's state on the host.
    pub async fn state(&mut self, slot: usize) -> Result<StateData> {
        self.check_slot(slot)?;
        let gpu = self.model.gpu.clone();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.memory.copy_slot(&mut encoder, slot, (&self.reader.memory, 0));
        gpu.submit([encoder.finish()]);
        self.reader.memory.share(&gpu, 0, &self.memory, slot);
        let state = self.reader.memory.read(&gpu).await;
        self.let_go();
        state
    }

    /// A slot's text goes on from a state; its logits are there after the next token.
    pub fn set_state(&mut self, slot: usize, state: &StateData) -> Result<()> {
        self.check_slot(slot)?;
        state.check(&self.model.config)?;
        let gpu = self.model.gpu.clone();
        self.reader.memory.write(&gpu, state);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.reader.memory.copy_slot(&mut encoder, 0, (&self.memory, slot));
        gpu.submit([encoder.finish()]);
        if let Some(held) = self.memory.held.get_mut(slot) {
            if held.write(&gpu, &state.pages)? {
                self.steps.clear();
            }
        }
        self.texts[slot].logits = None;
        Ok(gpu.check()?)
    }
}

/// Where in the logits those of a step's rows begin: where they can be bound.
fn rows_at(slots: usize, vocab_size: usize) -> usize {
    (slots * vocab_size).next_multiple_of(64)
}
