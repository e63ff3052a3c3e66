//! Several texts generated at once, in the slots of a batch.

use std::collections::VecDeque;

use super::writing::Writing;
use super::{FinishReason, GenerateError, GenerateOptions, Piece, Stats, Tokenizer};
use crate::error::{Error, InputError, Result};
use crate::model::Batch;

/// What has become of a text.
#[derive(Debug)]
pub enum Event {
    /// It has a slot.
    Begun,
    /// Its prompt was read.
    Read,
    /// It goes on.
    Piece(Piece),
    /// It is over, after its last piece.
    End(FinishReason, Stats),
    /// It cannot go on; the others can.
    Failed(Error),
}

/// Events, each with its text's number.
type Events = Vec<(usize, Event)>;

/// Texts being generated, as many at once as a batch has slots; the others wait for one to end. [`next`](Self::next) tells what happens
/// until there is nothing left to do. Each text is what a [`Generator`](super::Generator) makes of its prompt and options.
pub struct BatchGenerator {
    batch: Batch,
    waiting: VecDeque<(usize, Writing)>,
    slots: Vec<Option<Running>>,
    /// Texts that there were so far.
    count: usize,
}

/// A text in a slot.
struct Running {
    number: usize,
    text: Writing,
    /// Its prompt is read beside the others' steps.
    by_steps: bool,
}

impl Running {
    /// Why the text ends, if it does with these pieces.
    fn told(&self, piece: Option<Piece>, events: &mut Events) -> Option<Event> {
        events.extend(piece.map(|piece| (self.number, Event::Piece(piece))));
        self.text.finish.map(|finish| Event::End(finish, self.text.stats))
    }

    /// Ends it for good.
    fn end(mut self, reason: FinishReason, events: &mut Events) {
        let over = match self.text.end(reason) {
            Ok(piece) => self.told(piece, events),
            Err(error) => Some(Event::Failed(error)),
        };
        events.extend(over.map(|over| (self.number, over)));
    }
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

    /// The next thing that happens: a text gets a slot, its prompt is read, or there is a step, which every text takes part in (short
    /// prompts are read by steps). What came of it, with the texts' numbers; nothing once all have ended.
    ///
    /// # Errors
    /// The device's, after which none of the texts can go on.
    pub async fn next(&mut self) -> Result<Vec<(usize, Event)>> {
        let mut events = Vec::new();
        self.end_cancelled(&mut events);
        while events.is_empty() && self.unfinished() > 0 {
            let unread = |slot: &Option<Running>| {
                slot.as_ref().is_some_and(|running| !running.by_steps && running.text.next_token().is_some())
            };
            if let Some(slot) = self.slots.iter().position(unread) {
                self.read(slot, &mut events).await?;
            } else if !self.take_up(&mut events)? {
                self.step(&mut events).await?;
            }
        }
        Ok(events)
    }

    fn end_cancelled(&mut self, events: &mut Events) {
        for slot in &mut self.slots {
            if let Some(running) = slot.take_if(|running| running.text.cancelled()) {
                running.end(FinishReason::Cancelled, events);
            }
        }
        let (over, waiting): (VecDeque<_>, _) = self.waiting.drain(..).partition(|(_, text)| text.cancelled());
        self.waiting = waiting;
        for (number, text) in over {
            Running { number, text, by_steps: false }.end(FinishReason::Cancelled, events);
        }
    }

    /// Gives a waiting text a slot. False where there is none, or nobody who waits.
    fn take_up(&mut self, events: &mut Events) -> Result<bool> {
        let Some(slot) = self.slots.iter().position(Option::is_none) else { return Ok(false) };
        let texts = self.unfinished().min(self.slots.len());
        let Some((number, text)) = self.waiting.pop_front() else { return Ok(false) };
        self.batch.reset(slot)?;
        self.batch.begin_sampling(slot, &text.options.params, &text.context)?;
        let by_steps = self.batch.reads_by_steps(text.prompt(), texts);
        self.slots[slot] = Some(Running { number, text, by_steps });
        events.push((number, Event::Begun));
        Ok(true)
    }

    /// Reads the next part of a slot's prompt.
    async fn read(&mut self, slot: usize, events: &mut Events) -> Result<()> {
        let Some(Running { number, text, .. }) = &mut self.slots[slot] else { return Ok(()) };
        let Some(part) = text.next_part() else { return Ok(()) };
        match self.batch.prefill(slot, &text.context[part.clone()], &mut |_, _| {}).await {
            Err(error @ Error::Input(_)) => {
                events.push((*number, Event::Failed(error)));
                self.slots[slot] = None;
                return Ok(());
            }
            read => read?,
        }
        text.fed(part.len());
        events.extend(text.next_token().is_none().then_some((*number, Event::Read)));
        if text.cancelled() {
            self.end_cancelled(events);
        }
        Ok(())
    }

    /// A token of every text: of its prompt, or one that is drawn.
    async fn step(&mut self, events: &mut Events) -> Result<()> {
        let (mut draw, mut feed) = (Vec::new(), Vec::new());
        for (slot, running) in self.slots.iter().enumerate() {
            match running.as_ref().map(|running| running.text.next_token()) {
                Some(Some(token)) => feed.push((slot, token)),
                Some(None) => draw.push(slot),
                None => {}
            }
        }
        let drawn = self.batch.advance_and_feed(&draw, &feed).await?;
        for (slot, _) in feed {
            let Some(running) = &mut self.slots[slot] else { continue };
            running.text.fed(1);
            events.extend(running.text.next_token().is_none().then_some((running.number, Event::Read)));
        }
        for (slot, token) in draw.into_iter().zip(drawn) {
            let Some(running) = &mut self.slots[slot] else { continue };
            let taken = match token {
                Some(token) => running.text.take(token),
                None => Err(InputError::NoTokenToChoose.into()),
            };
            let over = match taken {
                Ok(piece) => running.told(piece, events),
                Err(error) => Some(Event::Failed(error)),
            };
            if let Some(over) = over {
                events.push((running.number, over));
                self.slots[slot] = None;
            }
        }
        Ok(())
    }
}
