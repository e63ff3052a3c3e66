//! Several texts generated at once, in the slots of a batch.

use std::collections::VecDeque;

use super::writing::Writing;
use super::{FinishReason, GenerateError, GenerateOptions, Piece, Stats, Tokenizer};
use crate::error::{Error, InputError, Result};
use crate::model::Batch;

/// What has become of a text.
#[derive(Debug)]
pub enum Event {
    /// Its prompt was read.
    Read,
    /// It goes on.
    Piece(Piece),
    /// It is over, after its last piece.
    End(FinishReason, Stats),
    /// It cannot go on; the others can.
    Failed(Error),
}

/// Texts being generated, as many at once as a batch has slots; the others wait for one to end. [`next`](Self::next) tells what happens
/// until there is nothing left to do. Each text is what a [`Generator`](super::Generator) makes of its prompt and options.
pub struct BatchGenerator {
    batch: Batch,
    waiting: VecDeque<(usize, Writing)>,
    /// In each slot a text whose prompt was read.
    slots: Vec<Option<(usize, Writing)>>,
    /// Texts that there were so far.
    count: usize,
}

impl BatchGenerator {
    /// Without texts so far. What a batch's slots hold is overwritten.
    pub fn new(batch: Batch) -> Self {
        let slots = (0..batch.slots()).map(|_| None).collect();
        Self { batch, waiting: VecDeque::new(), slots, count: 0 }
    }

    /// Adds a text, which begins when a slot is free. It is known by the number that comes back: how many were added before it. Its
    /// options' `history` counts as seen and is not fed.
    ///
    /// # Errors
    /// [`GenerateError`] for an empty prompt or an option out of range.
    pub fn push(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<usize, GenerateError> {
        let (text, number) = (Writing::new(tokenizer, prompt, options)?, self.count);
        self.waiting.push_back((number, text));
        self.count += 1;
        Ok(number)
    }

    /// Texts that have not ended.
    pub fn unfinished(&self) -> usize {
        self.waiting.len() + self.slots.iter().flatten().count()
    }

    /// The next thing that happens: a waiting text's prompt is read, or every text that is being written gets a token. What came of it,
    /// with the texts' numbers; nothing once all have ended.
    ///
    /// # Errors
    /// The device's, after which none of the texts can go on.
    pub async fn next(&mut self) -> Result<Vec<(usize, Event)>> {
        let mut events = Vec::new();
        self.end_cancelled(&mut events);
        while events.is_empty() && self.unfinished() > 0 {
            let free = self.slots.iter().position(Option::is_none);
            match free.and_then(|slot| Some((slot, self.waiting.pop_front()?))) {
                Some((slot, (number, text))) => self.read(slot, number, text, &mut events).await?,
                None => self.advance(&mut events).await?,
            }
        }
        Ok(events)
    }

    /// Ends a text for good.
    fn end(number: usize, text: &mut Writing, reason: FinishReason, events: &mut Vec<(usize, Event)>) {
        match text.end(reason) {
            Ok(piece) => {
                events.extend(piece.map(|piece| (number, Event::Piece(piece))));
                events.push((number, Event::End(text.finish.unwrap_or(reason), text.stats)));
            }
            Err(error) => events.push((number, Event::Failed(error))),
        }
    }

    fn end_cancelled(&mut self, events: &mut Vec<(usize, Event)>) {
        let slots = self.slots.iter_mut().filter_map(|slot| slot.take_if(|(_, text)| text.cancelled()));
        for (number, mut text) in slots {
            Self::end(number, &mut text, FinishReason::Cancelled, events);
        }
        for (number, text) in self.waiting.iter_mut().filter(|(_, text)| text.cancelled()) {
            Self::end(*number, text, FinishReason::Cancelled, events);
        }
        self.waiting.retain(|(_, text)| text.finish.is_none());
    }

    /// Reads a text's prompt into a slot.
    async fn read(
        &mut self,
        slot: usize,
        number: usize,
        mut text: Writing,
        events: &mut Vec<(usize, Event)>,
    ) -> Result<()> {
        self.batch.reset(slot)?;
        while let Some(part) = text.next_part() {
            if text.cancelled() {
                Self::end(number, &mut text, FinishReason::Cancelled, events);
                return Ok(());
            }
            match self.batch.prefill(slot, &text.context[part.clone()], &mut |_, _| {}).await {
                Err(error @ Error::Input(_)) => {
                    events.push((number, Event::Failed(error)));
                    return Ok(());
                }
                read => read?,
            }
            text.fed(part);
        }
        self.batch.begin_sampling(slot, &text.options.params, &text.context)?;
        self.slots[slot] = Some((number, text));
        events.push((number, Event::Read));
        Ok(())
    }

    /// A token of every text.
    async fn advance(&mut self, events: &mut Vec<(usize, Event)>) -> Result<()> {
        let slots: Vec<_> = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_some()).collect();
        let tokens = self.batch.advance(&slots).await?;
        for (slot, token) in slots.into_iter().zip(tokens) {
            let Some((number, text)) = &mut self.slots[slot] else { continue };
            let number = *number;
            let taken = match token {
                Some(token) => text.take(token),
                None => Err(InputError::NoTokenToChoose.into()),
            };
            let over = match taken {
                Ok(piece) => {
                    events.extend(piece.map(|piece| (number, Event::Piece(piece))));
                    text.finish.map(|finish| Event::End(finish, text.stats))
                }
                Err(error) => Some(Event::Failed(error)),
            };
            if let Some(over) = over {
                events.push((number, over));
                self.slots[slot] = None;
            }
        }
        Ok(())
    }
}
