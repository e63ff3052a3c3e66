//! Several texts of one model at once.

use super::cpu::CpuBatch;
use super::gpu::GpuBatch;
use super::lm::Session;
use super::parts::{Natively, PartsBatch};
use super::types::{check_slots, check_tokens, StateData};
use crate::error::{InputError, Result};
use crate::gpu::Plan;
use crate::settings::SamplingParams;

pub(super) enum Inner {
    Cpu(Box<CpuBatch>),
    Gpu(Box<GpuBatch>),
    /// On a device whose kernels for several texts are not to be used: one after the other.
    Apart(Vec<Session>),
    Parts(Natively, Box<PartsBatch>),
}

/// Several texts, each in a slot of its own with its own state, logits and sampling. A step takes a token of any of them, which
/// reads the weights once instead of once a text; a text in a batch is what it would be in a [`Session`](super::Session), but for
/// rounding. Texts come and go between steps: [`Batch::reset`] makes a slot free for another.
pub struct Batch(pub(super) Inner);

impl Batch {
    /// How many texts it holds.
    pub fn slots(&self) -> usize {
        match &self.0 {
            Inner::Cpu(b) => b.slots(),
            Inner::Gpu(b) => b.slots(),
            Inner::Parts(_, b) => b.slots(),
            Inner::Apart(texts) => texts.len(),
        }
    }

    /// Feeds a slot's text by chunks through the parallel scan, as [`Session::prefill`](super::Session::prefill) does.
    ///
    /// # Errors
    /// No such slot, no tokens, a token out of range (the text is then as it was), or the device's.
    pub async fn prefill(&mut self, slot: usize, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(b) => b.prefill(slot, tokens, progress),
            Inner::Gpu(b) => b.prefill(slot, tokens, progress).await,
            Inner::Parts(_, b) => b.prefill(slot, tokens, progress).await,
            Inner::Apart(texts) => apart(texts, slot)?.prefill(tokens, progress).await,
        }
    }

    /// Feeds a token to each of some slots, (slot, token), through the recurrent step; their logits are ready afterwards.
    ///
    /// # Errors
    /// As [`Batch::advance_and_feed`].
    pub async fn step(&mut self, tokens: &[(usize, u32)]) -> Result<()> {
        self.advance_and_feed(&[], tokens).await.map(|_| ())
    }

    /// Draws a token from the last logits of each of some slots and feeds it: afterwards the texts have consumed it. `None` where the
    /// logits left nothing to draw (NaN, or nothing but minus infinity); that text is of no use then until it is reset.
    ///
    /// # Errors
    /// As [`Batch::advance_and_feed`].
    pub async fn advance(&mut self, slots: &[usize]) -> Result<Vec<Option<u32>>> {
        self.advance_and_feed(slots, &[]).await
    }

    /// Both in one step: [`Batch::advance`] of some slots, and of others, (slot, token), [`Batch::step`]. So a prompt can be read beside
    /// texts that are being written. The tokens drawn, in the order of `draw`.
    ///
    /// # Errors
    /// No slots at all, one that there is not or that is named twice, one to draw from that was never fed, a token out of range (all
    /// texts are then as they were); or the device's.
    pub async fn advance_and_feed(&mut self, draw: &[usize], feed: &[(usize, u32)]) -> Result<Vec<Option<u32>>> {
        match &mut self.0 {
            Inner::Cpu(b) => b.step(draw, feed),
            Inner::Gpu(b) => b.step(draw, feed).await,
            Inner::Parts(_, b) => b.step(draw, feed).await,
            Inner::Apart(texts) => {
                check_slots(draw.iter().copied().chain(feed.iter().map(|&(slot, _)| slot)), texts.len())?;
                let fed: Vec<_> = feed.iter().map(|&(_, token)| token).collect();
                let vocab_size = texts.first().map_or(0, |text| text.config().vocab_size);
                if draw.is_empty() || !fed.is_empty() {
                    check_tokens(&fed, vocab_size)?;
                }
                if draw.iter().any(|&slot| !texts[slot].has_logits()) {
                    return Err(InputError::NoTokens.into());
                }
                let mut drawn = Vec::new();
                for &slot in draw {
                    drawn.push(match texts[slot].sample().await {
                        Ok(token) => {
                            texts[slot].step(token).await?;
                            Some(token)
                        }
                        Err(crate::Error::Input(InputError::NoTokenToChoose)) => None,
                        Err(error) => return Err(error),
                    });
                }
                for &(slot, token) in feed {
                    texts[slot].step(token).await?;
                }
                Ok(drawn)
            }
        }
    }

    /// Whether a prompt is read sooner by steps, beside so many texts that take part in them, than by itself: on a GPU a step costs
    /// about the same however many rows it has, and a short prompt hardly less than a longer one. Not one that is refused.
    pub(crate) fn reads_by_steps(&self, prompt: &[u32], texts: usize) -> bool {
        match &self.0 {
            Inner::Gpu(b) => prompt.len() <= texts && b.takes(prompt),
            Inner::Parts(_, b) => b.reads_by_steps(prompt, texts),
            Inner::Cpu(_) | Inner::Apart(_) => false,
        }
    }

    /// The last logits of a slot's text (vocab_size).
    ///
    /// # Errors
    /// No such slot; `NoTokens` before any token was fed.
    pub async fn logits(&mut self, slot: usize) -> Result<Vec<f32>> {
        match &mut self.0 {
            Inner::Cpu(b) => b.text(slot)?.logits(),
            Inner::Gpu(b) => b.logits(slot).await,
            Inner::Parts(_, b) => b.logits(slot).await,
            Inner::Apart(texts) => apart(texts, slot)?.logits().await,
        }
    }

    /// Sets how [`Batch::advance`] draws a slot's tokens: see [`Session::begin_sampling`](super::Session::begin_sampling). Greedy
    /// before.
    ///
    /// # Errors
    /// No such slot, a parameter out of range.
    pub fn begin_sampling(&mut self, slot: usize, params: &SamplingParams, context: &[u32]) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(b) => b.text(slot)?.begin_sampling(params, context),
            Inner::Gpu(b) => b.begin_sampling(slot, params, context),
            Inner::Parts(_, b) => b.begin_sampling(slot, params, context),
            Inner::Apart(texts) => apart(texts, slot)?.begin_sampling(params, context),
        }
    }

    /// A slot back to the begin of a text, with no logits and no sampling.
    ///
    /// # Errors
    /// No such slot.
    pub fn reset(&mut self, slot: usize) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(b) => b.text(slot)?.reset(),
            Inner::Gpu(b) => b.reset(slot)?,
            Inner::Parts(_, b) => b.reset(slot)?,
            Inner::Apart(texts) => apart(texts, slot)?.reset(),
        }
        Ok(())
    }

    /// Brings a slot to the point of another one's text; both go on alone. Sampling begins anew in the copy.
    ///
    /// # Errors
    /// No such slot, or one and the same.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(b) => b.fork(from, to),
            Inner::Gpu(b) => b.fork(from, to),
            Inner::Parts(_, b) => b.fork(from, to),
            Inner::Apart(texts) => {
                check_slots([from, to].into_iter(), texts.len())?;
                texts[to] = texts[from].try_clone()?;
                Ok(())
            }
        }
    }

    /// The recurrent state of a slot's text on the host.
    ///
    /// # Errors
    /// No such slot; the device's.
    pub async fn state(&mut self, slot: usize) -> Result<StateData> {
        match &mut self.0 {
            Inner::Cpu(b) => b.text(slot)?.state(),
            Inner::Gpu(b) => b.state(slot).await,
            Inner::Parts(_, b) => b.state(slot).await,
            Inner::Apart(texts) => apart(texts, slot)?.state().await,
        }
    }

    /// A slot's text goes on from a state; its logits are there after the next token.
    ///
    /// # Errors
    /// No such slot, a state of another shape.
    pub fn set_state(&mut self, slot: usize, state: &StateData) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(b) => b.text(slot)?.set_state(state),
            Inner::Gpu(b) => b.set_state(slot, state),
            Inner::Parts(_, b) => b.set_state(slot, state),
            Inner::Apart(texts) => apart(texts, slot)?.set_state(state),
        }
    }
}

impl Batch {
    /// The plan by which a GPU takes a step of all slots; `None` on a CPU, on several backends and where there is none. The states are of no use once it has run.
    pub(crate) fn plan(&mut self) -> Result<Option<&Plan>> {
        match &mut self.0 {
            Inner::Gpu(b) => b.plan().map(Some),
            Inner::Cpu(_) | Inner::Apart(_) | Inner::Parts(..) => Ok(None),
        }
    }
}

fn apart(texts: &mut [Session], slot: usize) -> Result<&mut Session, InputError> {
    let slots = texts.len();
    texts.get_mut(slot).ok_or(InputError::NoSlot { slot, slots })
}
