//! Several texts by the twins, a token of each in a step.

use super::{forward, head, CpuModel, CpuSession, Mode, Workspace};
use crate::error::InputError;
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
        let work = std::mem::take(&mut self.work);
        let text = self.text(slot)?;
        text.work = work;
        let result = text.prefill(tokens, progress);
        let work = std::mem::take(&mut text.work);
        self.work = work;
        result
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
        let drawn: Vec<_> = draw.iter().map(|&slot| self.texts[slot].sample().ok()).collect();
        let fed: Vec<_> = draw.iter().zip(&drawn).filter_map(|(&slot, token)| Some((slot, (*token)?))).collect();
        self.feed(&[&fed, feed].concat());
        Ok(drawn)
    }

    /// A token of each of some texts, which has been checked.
    fn feed(&mut self, tokens: &[(usize, u32)]) {
        let (slots, tokens): (Vec<_>, Vec<_>) = tokens.iter().copied().unzip();
        let vocab_size = self.model.config().vocab_size;
        let mut texts: Vec<_> = self.texts.iter_mut().map(Some).collect();
        let mut rows: Vec<_> = slots.iter().filter_map(|&slot| texts[slot].take()).collect();
        if rows.is_empty() {
            return;
        }
        let states = rows.iter_mut().map(|text| &mut text.state);
        forward(&self.model, &mut self.work, states, &tokens, Mode::Decode);
        self.logits.resize(self.logits.len().max(tokens.len() * vocab_size), 0.0);
        let logits = &mut self.logits[..tokens.len() * vocab_size];
        head(&self.model, &self.work, logits, 0, tokens.len());
        for (text, logits) in rows.into_iter().zip(logits.chunks(vocab_size)) {
            text.logits.copy_from_slice(logits);
            text.ready = true;
        }
    }

    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        check_slots([from, to].into_iter(), self.slots())?;
        self.texts[to] = self.texts[from].try_clone()?;
        Ok(())
    }
}
