//! Several texts, a token of each in a step through all parts.

use super::session::{prefill, Reader};
use super::{OnPart, PartsModel};
use crate::error::{InputError, Result};
use crate::model::cpu::CpuBatch;
use crate::model::gpu::GpuBatch;
use crate::model::span::Input;
use crate::model::types::{check_slots, check_tokens, StateData};
use crate::settings::SamplingParams;
use std::sync::Arc;

/// The texts in one part.
enum InPart {
    Cpu(Box<CpuBatch>),
    Gpu(Box<GpuBatch>),
}

impl InPart {
    fn new(part: &OnPart, slots: usize) -> Result<Self> {
        Ok(match part {
            OnPart::Cpu(m) => InPart::Cpu(Box::new(CpuBatch::new(m, slots))),
            OnPart::Gpu(m) => InPart::Gpu(Box::new(GpuBatch::new(m, slots)?)),
        })
    }

    fn lend(&mut self, slot: usize) -> Result<Reader<'_>> {
        Ok(match self {
            InPart::Cpu(b) => Reader::Cpu(b.lend(slot)?),
            InPart::Gpu(b) => Reader::Gpu(b.lend(slot)?),
        })
    }

    fn take_back(&mut self, slot: usize) -> Result<()> {
        match self {
            InPart::Cpu(b) => b.take_back(slot),
            InPart::Gpu(b) => b.take_back(slot)?,
        }
        Ok(())
    }
}

/// Several texts: what each part keeps of them.
pub struct PartsBatch {
    model: Arc<PartsModel>,
    slots: usize,
    /// All but the last, and the last, which has the logits.
    before: Vec<InPart>,
    last: InPart,
}

impl PartsBatch {
    /// So many texts at their begin.
    pub fn new(model: &Arc<PartsModel>, slots: usize) -> Result<Self> {
        let (last, before) = model.parts.split_last().ok_or_else(|| model.none())?;
        let before = before.iter().map(|part| InPart::new(part, slots)).collect::<Result<_>>()?;
        Ok(Self { model: model.clone(), slots, before, last: InPart::new(last, slots)? })
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Whether a prompt is the model's, and is read sooner by steps beside other texts' than by itself: see
    /// [`Batch::reads_by_steps`](crate::model::Batch).
    pub fn reads_by_steps(&self, prompt: &[u32], texts: usize) -> bool {
        let on_gpus = self.before.iter().chain([&self.last]).all(|part| matches!(part, InPart::Gpu(_)));
        on_gpus && prompt.len() <= texts && self.check_tokens(prompt).is_ok()
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), InputError> {
        check_tokens(tokens, self.model.config.vocab_size)
    }

    fn check_slot(&self, slot: usize) -> Result<(), InputError> {
        check_slots([slot].into_iter(), self.slots)
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut InPart> {
        self.before.iter_mut().chain([&mut self.last])
    }

    pub async fn prefill(&mut self, slot: usize, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        self.check_slot(slot)?;
        self.check_tokens(tokens)?;
        let chunk = self.model.chunk();
        let readers = self.parts_mut().map(|part| part.lend(slot)).collect::<Result<Vec<_>>>()?;
        let read = prefill(readers, chunk, tokens, progress).await;
        // Also what was read before something failed: all parts are at one point of the text.
        self.parts_mut().try_for_each(|part| part.take_back(slot))?;
        read
    }

    /// A step: of some texts a token that is drawn, of others one that is given. `None`: the logits left nothing to draw.
    pub async fn step(&mut self, draw: &[usize], feed: &[(usize, u32)]) -> Result<Vec<Option<u32>>> {
        check_slots(draw.iter().copied().chain(feed.iter().map(|&(slot, _)| slot)), self.slots)?;
        if draw.is_empty() || !feed.is_empty() {
            self.check_tokens(&feed.iter().map(|&(_, token)| token).collect::<Vec<_>>())?;
        }
        let ready = |slot: &usize| match &self.last {
            InPart::Cpu(b) => b.has_logits(*slot),
            InPart::Gpu(b) => b.has_logits(*slot),
        };
        if !draw.iter().all(ready) {
            return Err(InputError::NoTokens.into());
        }
        let drawn = match &mut self.last {
            InPart::Cpu(b) => b.draw(draw),
            InPart::Gpu(b) => b.draw(draw).await?,
        };
        let fed = draw.iter().zip(&drawn).filter_map(|(&slot, token)| Some((slot, (*token)?)));
        let (slots, tokens): (Vec<_>, Vec<_>) = fed.chain(feed.iter().copied()).unzip();
        if slots.is_empty() {
            return Ok(drawn);
        }
        // Whoever has no room for a token says so before any state has moved.
        for part in self.parts_mut() {
            if let InPart::Gpu(b) = part {
                b.room_for(&slots)?;
            }
        }
        let mut residual = Vec::new();
        for (i, part) in self.parts_mut().enumerate() {
            let input = match i {
                0 => Input::Tokens(&tokens),
                _ => Input::Residual(&residual, slots.len()),
            };
            residual = match part {
                InPart::Cpu(b) => b.pass(&slots, input),
                InPart::Gpu(b) => b.pass(&slots, input).await?,
            };
        }
        Ok(drawn)
    }

    pub async fn logits(&mut self, slot: usize) -> Result<Vec<f32>> {
        match &mut self.last {
            InPart::Cpu(b) => b.text(slot)?.logits(),
            InPart::Gpu(b) => b.logits(slot).await,
        }
    }

    pub fn begin_sampling(&mut self, slot: usize, params: &SamplingParams, context: &[u32]) -> Result<()> {
        match &mut self.last {
            InPart::Cpu(b) => b.text(slot)?.begin_sampling(params, context),
            InPart::Gpu(b) => b.begin_sampling(slot, params, context),
        }
    }

    pub fn reset(&mut self, slot: usize) -> Result<()> {
        self.parts_mut().try_for_each(|part| match part {
            InPart::Cpu(b) => {
                b.text(slot)?.reset();
                Ok(())
            }
            InPart::Gpu(b) => b.reset(slot),
        })
    }

    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        self.parts_mut().try_for_each(|part| match part {
            InPart::Cpu(b) => b.fork(from, to),
            InPart::Gpu(b) => b.fork(from, to),
        })
    }

    pub async fn state(&mut self, slot: usize) -> Result<StateData> {
        let mut states = Vec::new();
        for part in self.parts_mut() {
            states.push(match part {
                InPart::Cpu(b) => b.text(slot)?.state()?,
                InPart::Gpu(b) => b.state(slot).await?,
            });
        }
        Ok(StateData::join(states))
    }

    pub fn set_state(&mut self, slot: usize, state: &StateData) -> Result<()> {
        self.check_slot(slot)?;
        state.check(&self.model.config)?;
        let states = state.split(self.model.clone().parts.iter().map(OnPart::config));
        self.parts_mut().zip(&states).try_for_each(|(part, state)| match part {
            InPart::Cpu(b) => b.text(slot)?.set_state(state),
            InPart::Gpu(b) => b.set_state(slot, state),
        })
    }
}
