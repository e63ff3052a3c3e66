//! One text with its session: all its tokens, and states on the way to go back to.

use super::{GenerateError, GenerateOptions, Generator, SamplingParams, TokenSource, Tokenizer};
use crate::error::Result;
use crate::model::{ModelId, SavedState, Session, StateData};

/// What the states kept for [`Text::rewind`] may take together; beyond, every second one goes.
const MARKS_BYTES: usize = 64 << 20;

/// A text that can be continued, saved, and taken back to any of its tokens.
///
/// The session has consumed the first tokens; those after them are pending. The last token drawn is always pending (see
/// [`Generator`]), and so is a prompt before it is read.
///
/// Going back needs a state from before: one is kept every so many tokens, and what lies between is read again.
pub struct Text {
    session: Session,
    tokens: Vec<u32>,
    /// How many of the tokens the session has consumed.
    consumed: usize,
    /// States by tokens consumed, ascending.
    marks: Vec<(usize, StateData)>,
    /// Tokens between marks; `None`: no marks, going back reads the text again from its begin.
    mark_every: Option<usize>,
}

impl Text {
    /// An empty text on a session at its begin.
    pub fn new(session: Session) -> Self {
        Self { session, tokens: Vec::new(), consumed: 0, marks: Vec::new(), mark_every: None }
    }

    /// Keeps a state every `tokens` tokens, for [`Text::rewind`]. Each costs a read from the device.
    #[must_use]
    pub fn keeping_states(mut self, tokens: usize) -> Self {
        self.mark_every = Some(tokens.max(1));
        self
    }

    /// Goes on from a saved state. The caller has checked that it is this model's.
    ///
    /// # Errors
    /// Those of [`Session::set_state`]; the text is as before then.
    pub fn restore(&mut self, saved: &SavedState) -> Result<()> {
        self.session.set_state(&saved.state)?;
        self.tokens.clone_from(&saved.tokens);
        self.consumed = saved.consumed.min(saved.tokens.len());
        self.marks.clear();
        if self.mark_every.is_some() {
            self.marks.push((self.consumed, saved.state.clone()));
        }
        Ok(())
    }

    /// All tokens, pending ones included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens that are to be fed before anything else.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.consumed..]
    }

    /// Adds tokens at the end, without feeding them yet.
    pub fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Back to an empty text.
    pub fn clear(&mut self) {
        self.session.reset();
        self.tokens.clear();
        self.marks.clear();
        self.consumed = 0;
    }

    /// Back to the first `length` tokens (all of them, if there are fewer). The last one is pending then.
    ///
    /// # Errors
    /// Those of the model; the text is usable then only after [`Text::clear`] or [`Text::restore`].
    pub async fn rewind(&mut self, length: usize) -> Result<()> {
        self.tokens.truncate(length);
        let target = self.tokens.len().saturating_sub(1);
        if self.consumed > target {
            self.marks.retain(|(at, _)| *at <= target);
            match self.marks.last() {
                Some((at, state)) => {
                    self.session.set_state(state)?;
                    self.consumed = *at;
                }
                None => {
                    self.session.reset();
                    self.consumed = 0;
                }
            }
        }
        if self.consumed < target {
            let missing = self.tokens[self.consumed..target].to_vec();
            self.prefill(&missing).await?;
        }
        Ok(())
    }

    /// The present point, to be saved. A text whose tokens are all consumed is first taken back by one, so that whoever
    /// goes on from the file has a token to feed.
    ///
    /// # Errors
    /// Those of the model.
    pub async fn save(&mut self, model: &ModelId) -> Result<SavedState> {
        if self.pending().is_empty() {
            self.rewind(self.tokens.len()).await?;
        }
        let state = self.session.state().await?;
        Ok(SavedState { model: model.clone(), tokens: self.tokens.clone(), consumed: self.consumed, state })
    }

    /// Starts generating from here: pending tokens are fed first. What came before counts as seen and gives the decoder
    /// its context. Give the generator to [`Text::from_generator`] afterwards.
    ///
    /// # Errors
    /// No pending token, or an option out of range.
    pub fn generate(self, tokenizer: &Tokenizer, options: GenerateOptions) -> Result<Generator<Self>, GenerateError> {
        let (history, prompt) = self.tokens.split_at(self.consumed);
        let (options, prompt) = (GenerateOptions { history: history.to_vec(), ..options }, prompt.to_vec());
        Generator::new(self, tokenizer, &prompt, options)
    }

    /// The text again, with the token that was drawn last.
    pub fn from_generator(generator: Generator<Self>) -> Self {
        let pending = generator.pending();
        let mut text = generator.into_source();
        text.push(pending.as_slice());
        text
    }

    /// Tokens have gone through the session: pending ones, or new ones in their place.
    async fn consumed(&mut self, tokens: &[u32]) -> Result<()> {
        if !self.pending().starts_with(tokens) {
            self.tokens.truncate(self.consumed);
            self.tokens.extend_from_slice(tokens);
        }
        self.consumed += tokens.len();
        let Some(every) = self.mark_every else { return Ok(()) };
        if self.consumed >= self.marks.last().map_or(0, |(at, _)| *at) + every {
            self.marks.push((self.consumed, self.session.state().await?));
            // Pages are shared by the marks after them.
            let mut before = None;
            let mut bytes = 0;
            for (_, state) in &self.marks {
                bytes += 4 * (state.conv.len() + state.ssm.len()) + state.pages.bytes_beside(before);
                before = Some(&state.pages);
            }
            if bytes > MARKS_BYTES {
                let mut keep = false;
                self.marks.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.mark_every = Some(every.saturating_mul(2));
            }
        }
        Ok(())
    }
}

impl TokenSource for Text {
    async fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        self.session.prefill(tokens, &mut |_, _| {}).await?;
        self.consumed(tokens).await
    }
    async fn step(&mut self, token: u32) -> Result<()> {
        self.session.step(token).await?;
        self.consumed(&[token]).await
    }
    fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        self.session.begin_sampling(params, context)
    }
    async fn sample(&mut self) -> Result<u32> {
        self.session.sample().await
    }
}
