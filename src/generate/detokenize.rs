//! Tokens back to text, one at a time, without ever showing half a character.

use std::borrow::Cow;

use super::{GenerateError, Tokenizer};

/// Incremental detokenisation: text comes out as soon as it is certain, never half a character.
///
/// A token may end within a character (byte-level BPE cuts emoji and accented letters anywhere). Its bytes are held
/// back until the character is whole; [`finish`](Self::finish) gives out what is left, as `U+FFFD`. For byte-level
/// tokenizers the pieces together are exactly [`Tokenizer::decode`] of all the tokens, whatever the bytes.
///
/// Ids which the tokenizer does not know (a model's padding rows) have no text; they are counted in
/// [`unknown`](Self::unknown), so that a caller can tell its user once.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    kind: Kind,
    unknown: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Bytes(Utf8Stream),
    Window(Window),
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, context: &[u32]) -> Self {
        let kind = if tokenizer.is_byte_level() {
            Kind::Bytes(Utf8Stream::default())
        } else {
            let ids = context[context.len().saturating_sub(WINDOW_CONTEXT)..].to_vec();
            Kind::Window(Window { given: ids.len(), ids })
        };
        Self { tokenizer, kind, unknown: 0 }
    }

    /// Takes the next token and returns the text that became certain (often all of the token's, sometimes none).
    ///
    /// # Errors
    /// [`GenerateError::Decode`] where the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, GenerateError> {
        let Some((text, special)) = self.tokenizer.token_and_special(token) else {
            if self.unknown == 0 {
                tracing::warn!(token, vocab_size = self.tokenizer.vocab_size(), "token unknown to the tokenizer");
            }
            self.unknown += 1;
            return Ok(String::new());
        };
        match &mut self.kind {
            Kind::Bytes(_) if special => Ok(String::new()),
            Kind::Bytes(stream) => Ok(stream.push(&byte_level_bytes(&text))),
            Kind::Window(window) => window.push(&self.tokenizer, token),
        }
    }

    /// Ends the text and returns what was held back. The stream can be used again after that.
    ///
    /// # Errors
    /// [`GenerateError::Decode`] where the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String, GenerateError> {
        match &mut self.kind {
            Kind::Bytes(stream) => Ok(stream.finish()),
            Kind::Window(window) => window.finish(&self.tokenizer),
        }
    }

    /// How many tokens so far were unknown to the tokenizer.
    pub fn unknown(&self) -> usize {
        self.unknown
    }
}

/// Bytes of a byte-level token: GPT-2 writes each byte as one character, printable ones as themselves and the other 68
/// as U+0100 and up. A token with any other character is text as it stands (an added token, say two spaces).
pub(super) fn byte_level_bytes(token: &str) -> Cow<'_, [u8]> {
    let byte = |c: char| match c as u32 {
        c @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(c as u8),
        // The bytes 0x00..=0x20, 0x7f..=0xa0 and 0xad, in this order.
        c @ 0x100..=0x120 => Some((c - 0x100) as u8),
        c @ 0x121..=0x142 => Some((c - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    };
    match token.chars().map(byte).collect::<Option<Vec<u8>>>() {
        Some(bytes) => Cow::Owned(bytes),
        None => Cow::Borrowed(token.as_bytes()),
    }
}

/// `String::from_utf8_lossy` for bytes that come in pieces: the same text, with an unfinished character held back.
#[derive(Debug, Clone, Default)]
struct Utf8Stream {
    /// The beginning of a character, at most 3 bytes.
    held: Vec<u8>,
}

impl Utf8Stream {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut out = String::new();
        let mut rest = self.held.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(good));
                    rest = bad;
                    match error.error_len() {
                        Some(length) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[length..];
                        }
                        // The character may still be completed by the next token.
                        None => break,
                    }
                }
            }
        }
        let held = rest.to_vec();
        self.held = held;
        out
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// How many tokens of the prompt a [`Window`] decodes along with the first new ones.
const WINDOW_CONTEXT: usize = 8;
/// A character is at most 4 byte tokens; text that is still broken after so many tokens will stay so.
const WINDOW_HELD: usize = 8;
/// Where tokens without text stop adding up.
const WINDOW_MAX: usize = 64;

/// For decoders whose text depends on the tokens around (SentencePiece's spaces and byte tokens): decodes the last
/// tokens with and without the new ones, and gives out the difference.
#[derive(Debug, Clone)]
struct Window {
    /// Tokens given out last (the context), then those held back.
    ids: Vec<u32>,
    /// How many of `ids` have been given out.
    given: usize,
}

impl Window {
    fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, GenerateError> {
        self.ids.push(token);
        let held = self.ids.len() - self.given;
        let (text, whole) = self.difference(tokenizer)?;
        if !whole && held < WINDOW_HELD {
            return Ok(String::new());
        }
        // Tokens without text (special ones) are no context for the next, so keep what came before them.
        if !text.is_empty() || self.given > WINDOW_MAX {
            self.ids.drain(..self.given);
        }
        self.given = self.ids.len();
        Ok(text)
    }

    fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, GenerateError> {
        let (text, _) = self.difference(tokenizer)?;
        self.ids.clear();
        self.given = 0;
        Ok(text)
    }

    /// The text that the tokens held back add, and whether it ends with a whole character.
    fn difference(&self, tokenizer: &Tokenizer) -> Result<(String, bool), GenerateError> {
        let before = tokenizer.decode(&self.ids[..self.given])?;
        let after = tokenizer.decode(&self.ids)?;
        let text = match after.strip_prefix(before.as_str()) {
            Some(text) => text.to_string(),
            // New tokens changed the text before them: that is out already, so give theirs alone.
            None => tokenizer.decode(&self.ids[self.given..])?,
        };
        let whole = !after.ends_with(char::REPLACEMENT_CHARACTER);
        Ok((text, whole))
    }
}
