//! The loop of generation: prompt in, pieces of text out, one token at a time.

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use super::writing::Writing;
use super::{DecodeStream, GenerateError, SamplingParams, StopMatcher, Tokenizer};
use crate::error::Result;
use crate::model::Session;

/// What [`Generator`] needs of a model. [`Session`] is the one of this crate; tests use a scripted one.
pub trait TokenSource {
    /// Feeds tokens, after those fed before.
    fn prefill(&mut self, tokens: &[u32]) -> impl Future<Output = Result<()>>;
    /// Feeds one token.
    fn step(&mut self, token: u32) -> impl Future<Output = Result<()>>;
    /// Starts sampling: seeds it, and marks the tokens of `context`, the text so far, as seen (for the repetition
    /// penalty). Random numbers are counted by the place in the text, so that a text that was interrupted goes on as it
    /// would have without.
    fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()>;
    /// Draws a token from the logits after the last token fed; does not feed it.
    fn sample(&mut self) -> impl Future<Output = Result<u32>>;
}

impl TokenSource for Session {
    async fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        Session::prefill(self, tokens, &mut |_, _| {}).await
    }
    async fn step(&mut self, token: u32) -> Result<()> {
        Session::step(self, token).await
    }
    fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        Session::begin_sampling(self, params, context)
    }
    async fn sample(&mut self) -> Result<u32> {
        Session::sample(self).await
    }
}

impl<T: TokenSource> TokenSource for &mut T {
    async fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        (**self).prefill(tokens).await
    }
    async fn step(&mut self, token: u32) -> Result<()> {
        (**self).step(token).await
    }
    fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        (**self).begin_sampling(params, context)
    }
    async fn sample(&mut self) -> Result<u32> {
        (**self).sample().await
    }
}

/// How long to generate, and how.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// At most so many tokens; at least 1.
    pub max_tokens: usize,
    /// How to draw them.
    pub params: SamplingParams,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// Tokens that end the text; they are neither text nor counted as generated. `None`: those that the tokenizer knows to end the
    /// model's texts ([`Tokenizer::end_of_text`]).
    pub eos: Option<Vec<u32>>,
    /// Goes on after an end-of-text token (which then counts as generated and has no text).
    pub ignore_eos: bool,
    /// Tokens that the model has consumed before the prompt: they count as seen, and give the decoder its context.
    pub history: Vec<u32>,
    /// Where the text ends within a character, its beginning is not given out (as U+FFFD) but left to who goes on from
    /// the tokens: for texts that are saved, or continued by another generator.
    pub to_be_continued: bool,
    /// Whether the prompt's end was written by an earlier part of this text: a stop string that began there ends the text as it would
    /// have without the break (what was handed out of it stays so).
    pub continues: bool,
    /// The prompt is fed in pieces of so many tokens, and the cancel flag is looked at between them. The model's own
    /// chunk (or a multiple of it) costs nothing.
    pub prefill_chunk: usize,
    /// Set it to `true` from anywhere to end the text at once.
    pub cancel: Arc<AtomicBool>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            params: SamplingParams::default(),
            stop: Vec::new(),
            eos: None,
            ignore_eos: false,
            history: Vec::new(),
            to_be_continued: false,
            continues: false,
            prefill_chunk: 2048,
            cancel: Arc::default(),
        }
    }
}

impl GenerateOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// [`GenerateError::InvalidParameter`] and [`GenerateError::EmptyStop`].
    pub fn validate(&self) -> Result<(), GenerateError> {
        let at_least_one = |parameter, value: usize| match value {
            0 => Err(GenerateError::InvalidParameter { parameter, value: "0".into(), expected: "1 or more" }),
            _ => Ok(()),
        };
        at_least_one("max_tokens", self.max_tokens)?;
        at_least_one("prefill_chunk", self.prefill_chunk)?;
        self.params.validate()?;
        StopMatcher::new(self.stop.clone()).map(|_| ())
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop string came.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The model ended the text.
    Eos,
    /// The cancel flag was set.
    Cancelled,
}

impl std::fmt::Display for FinishReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Eos => "eos",
            Self::Cancelled => "cancelled",
        })
    }
}

/// One step of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The text that became certain: empty while a character or a possible stop string is unfinished.
    pub text: String,
    /// The token generated in this step; `None` for the piece that only hands out what was held back at the end.
    pub token: Option<u32>,
}

/// Counts of one text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tokens of the prompt that were fed (all of them unless cancelled).
    pub prompt_tokens: usize,
    /// Tokens generated, those of a stop string included, an ending end-of-text token not.
    pub generated_tokens: usize,
    /// Generated tokens that the tokenizer does not know (a model's padding rows): they have no text.
    pub unknown_tokens: usize,
}

/// The text side of generation: tokens in, text out that is neither half a character nor part of a stop string.
#[derive(Debug, Clone)]
pub struct TextStream {
    decode: DecodeStream,
    stop: StopMatcher,
}

impl TextStream {
    /// `context` are the tokens before (see [`Tokenizer::decode_stream`]).
    ///
    /// # Errors
    /// [`GenerateError::EmptyStop`].
    pub fn new(tokenizer: &Tokenizer, context: &[u32], stop: Vec<String>) -> Result<Self, GenerateError> {
        Ok(Self { decode: tokenizer.decode_stream(context), stop: StopMatcher::new(stop)? })
    }

    /// Goes on with a text whose last tokens these are, all of it handed out: see [`StopMatcher::after`].
    ///
    /// # Errors
    /// [`GenerateError::Decode`].
    pub fn after(mut self, tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Self, GenerateError> {
        // A token has a byte at least, but for special ones; some more do no harm.
        let last = tokens.len().saturating_sub(2 * self.stop.longest() + 8);
        self.stop = self.stop.after(&tokenizer.decode_so_far(&tokens[last..])?);
        Ok(self)
    }

    /// Text that became certain with this token.
    ///
    /// # Errors
    /// [`GenerateError::Decode`].
    pub fn push(&mut self, token: u32) -> Result<String, GenerateError> {
        let text = self.decode.push(token)?;
        Ok(self.stop.push(&text))
    }

    /// Text that was held back, at the end.
    ///
    /// # Errors
    /// [`GenerateError::Decode`].
    pub fn finish(&mut self) -> Result<String, GenerateError> {
        let rest = self.decode.finish()?;
        Ok(self.last(&rest))
    }

    /// The same at the end of a part of a text: see [`DecodeStream::pause`].
    ///
    /// # Errors
    /// [`GenerateError::Decode`].
    pub fn pause(&mut self) -> Result<String, GenerateError> {
        let rest = self.decode.pause()?;
        Ok(self.last(&rest))
    }

    fn last(&mut self, rest: &str) -> String {
        let mut text = self.stop.push(rest);
        text += &self.stop.finish();
        text
    }

    /// Whether a stop string came.
    pub fn stopped(&self) -> bool {
        self.stop.stopped()
    }

    /// Tokens so far that the tokenizer does not know.
    pub fn unknown(&self) -> usize {
        self.decode.unknown()
    }
}

/// A text being generated. [`next`](Self::next) gives its pieces until `None`.
///
/// # What the source has consumed
/// Let `p` be the prompt and `t_1, t_2, ...` the tokens of the pieces so far. After a piece with token `t_n` the source
/// has consumed `p, t_1, ..., t_(n-1)`: `t_n` is drawn but not fed, so that its text comes out before the next step is
/// computed and no step is computed for nothing. [`pending`](Self::pending) is that `t_n`; [`settle`](Self::settle)
/// feeds it, and leaves the source ready for more text. An end-of-text token that ended the text is not pending. After
/// a stop string the tokens it was made of are consumed (all but the pending one): clone the state before if it must
/// be taken back. When cancelled during the prompt the source has consumed the first
/// [`Stats::prompt_tokens`] tokens of it. An error leaves the source wherever the failing call left it.
///
/// Dropping the generator at any time is fine; it owns nothing but the source (or a `&mut` of it).
#[derive(Debug)]
pub struct Generator<S> {
    source: S,
    text: Writing,
    pending: Option<u32>,
    prompt_done: bool,
}

impl<S: TokenSource> Generator<S> {
    /// Continues `prompt`, which is fed to the source (after what it consumed before) by the first call of
    /// [`next`](Self::next) or by [`prefill`](Self::prefill).
    ///
    /// # Errors
    /// [`GenerateError`] for an empty prompt or an option out of range.
    pub fn new(
        source: S,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<Self, GenerateError> {
        Ok(Self { source, text: Writing::new(tokenizer, prompt, options)?, pending: None, prompt_done: false })
    }

    /// Feeds the prompt, with progress in tokens (done, total). Does nothing the second time.
    ///
    /// # Errors
    /// Those of the model.
    pub async fn prefill(&mut self, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        if self.prompt_done || self.text.finish.is_some() {
            return Ok(());
        }
        let text = &mut self.text;
        self.source.begin_sampling(&text.options.params, &text.context)?;
        let total = text.prompt().len();
        progress(0, total);
        while let Some(part) = text.next_part() {
            if text.cancelled() {
                text.finish = Some(FinishReason::Cancelled);
                return Ok(());
            }
            self.source.prefill(&text.context[part.clone()]).await?;
            text.fed(part.len());
            progress(text.stats.prompt_tokens, total);
        }
        self.prompt_done = true;
        Ok(())
    }

    /// The next piece, or `None` after the last one.
    ///
    /// # Errors
    /// Those of the model and of the tokenizer's decoder.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        if self.text.finish.is_none() && self.text.cancelled() {
            return self.text.end(FinishReason::Cancelled);
        }
        self.prefill(&mut |_, _| {}).await?;
        if self.text.finish.is_some() {
            return Ok(None);
        }
        if let Some(token) = self.pending {
            self.source.step(token).await?;
            self.pending = None;
            if self.text.cancelled() {
                return self.text.end(FinishReason::Cancelled);
            }
        }
        let token = self.source.sample().await?;
        let piece = self.text.take(token)?;
        self.pending = piece.as_ref().and_then(|piece| piece.token);
        Ok(piece)
    }

    /// Why the text ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.text.finish
    }

    /// Counts so far.
    pub fn stats(&self) -> Stats {
        self.text.stats
    }

    /// The last token generated, while the source has not consumed it.
    pub fn pending(&self) -> Option<u32> {
        self.pending
    }

    /// Feeds the pending token, so that the source has consumed the prompt and every generated token.
    ///
    /// # Errors
    /// Those of the model.
    pub async fn settle(&mut self) -> Result<()> {
        if let Some(token) = self.pending {
            self.source.step(token).await?;
            self.pending = None;
        }
        Ok(())
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }
}

#[cfg(test)]
mod tests;
