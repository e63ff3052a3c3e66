//! What becomes of the tokens of a text, whoever computes them: its pieces, its end, its counts.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{FinishReason, GenerateError, GenerateOptions, Piece, Stats, TextStream, Tokenizer};
use crate::error::Result;

/// A text being written.
#[derive(Debug)]
pub(super) struct Writing {
    pub options: GenerateOptions,
    /// What was before the prompt, and the prompt.
    pub context: Vec<u32>,
    history: usize,
    text: TextStream,
    eos: HashSet<u32>,
    pub finish: Option<FinishReason>,
    pub stats: Stats,
}

impl Writing {
    /// Of a prompt that is to be fed.
    ///
    /// # Errors
    /// [`GenerateError`] for an empty prompt or an option out of range.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], mut options: GenerateOptions) -> Result<Self, GenerateError> {
        options.validate()?;
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let mut context = std::mem::take(&mut options.history);
        let history = context.len();
        context.extend_from_slice(prompt);
        let mut text = TextStream::new(tokenizer, &context, options.stop.clone())?;
        if options.continues {
            text = text.after(tokenizer, &context)?;
        }
        let eos = options.eos.as_deref().unwrap_or(tokenizer.end_of_text()).iter().copied().collect();
        Ok(Self { options, context, history, text, eos, finish: None, stats: Stats::default() })
    }

    pub fn prompt(&self) -> &[u32] {
        &self.context[self.history..]
    }

    /// Which tokens of the context are to be fed next; `None` once the prompt is.
    pub fn next_part(&self) -> Option<Range<usize>> {
        let start = self.history + self.stats.prompt_tokens;
        let end = self.context.len().min(start.saturating_add(self.options.prefill_chunk));
        (start < end).then_some(start..end)
    }

    /// The next of them.
    pub fn next_token(&self) -> Option<u32> {
        self.context.get(self.history + self.stats.prompt_tokens).copied()
    }

    /// So many more have been.
    pub fn fed(&mut self, tokens: usize) {
        self.stats.prompt_tokens += tokens;
    }

    /// A token that was drawn. What it adds to the text; nothing where it ended a text of which nothing was held back. A piece without a
    /// token is the last one: the token ended the text and is no part of it.
    ///
    /// # Errors
    /// [`GenerateError::Decode`].
    pub fn take(&mut self, token: u32) -> Result<Option<Piece>> {
        if self.eos.contains(&token) && !self.options.ignore_eos {
            return self.end(FinishReason::Eos);
        }
        self.stats.generated_tokens += 1;
        let mut text = self.text.push(token)?;
        self.stats.unknown_tokens = self.text.unknown();
        if !self.text.stopped() && self.stats.generated_tokens >= self.options.max_tokens {
            self.finish = Some(FinishReason::Length);
            text += &self.held_back()?;
        }
        if self.text.stopped() {
            self.finish = Some(FinishReason::Stop);
        }
        Ok(Some(Piece { text, token: Some(token) }))
    }

    /// Ends the text with what was held back, as a piece of its own if there is any.
    ///
    /// # Errors
    /// [`GenerateError::Decode`].
    pub fn end(&mut self, reason: FinishReason) -> Result<Option<Piece>> {
        self.finish = Some(reason);
        let text = self.held_back()?;
        // What was held back may end with a stop string only when broken bytes became U+FFFD, a stop string too.
        if self.text.stopped() {
            self.finish = Some(FinishReason::Stop);
        }
        Ok((!text.is_empty()).then_some(Piece { text, token: None }))
    }

    fn held_back(&mut self) -> Result<String, GenerateError> {
        match self.options.to_be_continued {
            true => self.text.pause(),
            false => self.text.finish(),
        }
    }

    pub fn cancelled(&self) -> bool {
        self.options.cancel.load(Ordering::Relaxed)
    }
}
