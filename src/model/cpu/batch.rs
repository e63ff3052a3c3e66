//! Several texts by the twins, a token of each in a step.

use super::{forward, head, CpuModel, CpuSession, Mode, Workspace};
use crate::error::InputError;
use crate::model::span::Input;
use crate::model::types::{check_slots, check_tokens};
use crate::Result;

/// Several texts in memory, each in its slot.
pub struct CpuBatch {
    model: CpuModel,
    /// Without workspaces of their own.
    texts: Vec<CpuSession>,
    work: Workspace,
    logits: Vec<f32>, // (rows of the widest step so far, vocab_size)
}

impl CpuBatch {
    /// So many texts at their begin.
    pub fn new(model: &CpuModel, slots: usize) -> Self {
        let texts = (0..slots).map(|_| CpuSession::new(model)).collect();
        Self { model: model.clone(), texts, work: Workspace::default(), logits: Vec::new() }
    }

    pub fn slots(&self) -> usize {
        self.texts.len()
    }

    pub fn text(&mut self, slot: usize) -> Result<&mut CpuSession, InputError> {
        let slots = self.slots();
        self.texts.get_mut(slot).ok_or(InputError::NoSlot { slot, slots })
    }

    pub fn prefill(&mut self, slot: usize, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        let result = self.lend(slot)?.prefill(tokens, progress);
        self.take_back(slot);
        result
    }

    /// A slot's text, with a workspace for as long.
    pub fn lend(&mut self, slot: usize) -> Result<&mut CpuSession, InputError> {
        self.text(slot)?;
        let work = std::mem::take(&mut self.work);
        let text = self.text(slot)?;
        text.work = work;
        Ok(text)
    }

    /// Takes that back, of a slot that there is.
    pub fn take_back(&mut self, slot: usize) {
        self.work = std::mem::take(&mut self.texts[slot].work);
    }

    pub fn step(&mut self, draw: &[usize], feed: &[(usize, u32)]) -> Result<Vec<Option<u32>>> {
        let (given, tokens): (Vec<_>, Vec<_>) = feed.iter().copied().unzip();
        check_slots(draw.iter().chain(&given).copied(), self.slots())?;
        if draw.is_empty() || !tokens.is_empty() {
            check_tokens(&tokens, self.model.config().vocab_size)?;
        }
        if draw.iter().any(|&slot| !self.texts[slot].ready) {
            return Err(InputError::NoTokens.into());
        }
        let drawn = self.draw(draw);
        let fed: Vec<_> = draw.iter().zip(&drawn).filter_map(|(&slot, token)| Some((slot, (*token)?))).collect();
        let (slots, tokens): (Vec<_>, Vec<_>) = fed.iter().chain(feed).copied().unzip();
        self.pass(&slots, Input::Tokens(&tokens));
        Ok(drawn)
    }

    pub fn has_logits(&self, slot: usize) -> bool {
        self.texts[slot].ready
    }

    /// A token for each of some texts, from logits that are ready; `None` where they left nothing to draw.
    pub fn draw(&mut self, slots: &[usize]) -> Vec<Option<u32>> {
        slots.iter().map(|&slot| self.texts[slot].sample().ok()).collect()
    }

    /// A row of each of some texts through the layers that are here: what they leave in the residual stream, (rows, d_model), where
    /// another part goes on.
    pub fn pass(&mut self, slots: &[usize], input: Input<'_>) -> Vec<f32> {
        let width = self.model.logits();
        let mut texts: Vec<_> = self.texts.iter_mut().map(Some).collect();
        let mut rows: Vec<_> = slots.iter().filter_map(|&slot| texts[slot].take()).collect();
        if rows.is_empty() {
            return Vec::new();
        }
        let states = rows.iter_mut().map(|text| &mut text.state);
        forward(&self.model, &mut self.work, states, input, Mode::Decode);
        if width > 0 {
            self.logits.resize(self.logits.len().max(slots.len() * width), 0.0);
            let logits = &mut self.logits[..slots.len() * width];
            head(&self.model, &self.work, logits, 0, slots.len());
            for (text, logits) in rows.into_iter().zip(logits.chunks(width)) {
                text.logits.copy_from_slice(logits);
                text.ready = true;
            }
        }
        self.model.left(&self.work, slots.len())
    }

    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        check_slots([from, to].into_iter(), self.slots())?;
        self.texts[to] = self.texts[from].try_clone()?;
        Ok(())
    }
}
