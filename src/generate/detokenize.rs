//! Tokens back to text, one at a time, without ever showing half a character.

use std::borrow::Cow;

use super::{GenerateError, Tokenizer};

/// Incremental detokenisation: text comes out as soon as it is certain, never half a character.
///
/// A token may end within a character (byte-level BPE cuts emoji and accented letters anywhere). Its bytes are held
/// back until the character is whole; [`finish`](Self::finish) gives out what is left, as `U+FFFD`, and
/// [`pause`](Self::pause) keeps it for whoever goes on with the tokens as context. For byte-level tokenizers the pieces
/// together are exactly [`Tokenizer::decode`] of all the tokens, whatever the bytes.
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
            let mut stream = Utf8Stream::default();
            // What is whole of the context is out already; what is not waits for the first token.
            stream.push(&byte_level_end(&tokenizer, context));
            Kind::Bytes(stream)
        } else {
            let ids = context[context.len().saturating_sub(WINDOW_CONTEXT)..].to_vec();
            Kind::Window(Window { given: ids.len() - unfinished(&tokenizer, &ids), ids })
        };
        Self { tokenizer, kind, unknown: 0 }
    }

    /// Takes the next token and returns the text that became certain (often all of the token's, sometimes none).
    ///
    /// # Errors
    /// [`GenerateError::Decode`] where the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, GenerateError> {
        let Some((text, special)) = self.tokenizer.token_and_special(token) else {
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

    /// Ends the text for now: gives out what was held back but for the beginning of a character, which a stream with
    /// these tokens as its context holds back too. This one can go on as well.
    ///
    /// # Errors
    /// [`GenerateError::Decode`] where the tokenizer's decoder fails.
    pub fn pause(&mut self) -> Result<String, GenerateError> {
        match &mut self.kind {
            Kind::Bytes(_) => Ok(String::new()), // nothing else is held back
            Kind::Window(window) => window.pause(&self.tokenizer),
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

/// The last bytes of a text: enough to hold all of an unfinished character.
fn byte_level_end(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut bytes = 0;
    let texts = tokens.iter().rev().filter_map(|&id| tokenizer.token_and_special(id));
    for (text, _) in texts.filter(|(_, special)| !special) {
        parts.push(byte_level_bytes(&text).into_owned());
        bytes += parts.last().map_or(0, Vec::len);
        if bytes >= MOST_UNFINISHED {
            break;
        }
    }
    parts.into_iter().rev().flatten().collect()
}

/// Tokens at the end that make the beginning of a character, of a tokenizer with a token for each byte (`<0xE2>`).
fn unfinished(tokenizer: &Tokenizer, tokens: &[u32]) -> usize {
    let byte = |id: u32| {
        let token = tokenizer.token(id)?;
        u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
    };
    let mut bytes = Vec::new();
    for &id in tokens.iter().rev().take(MOST_UNFINISHED) {
        let Some(byte) = byte(id) else { break };
        bytes.insert(0, byte);
        if std::str::from_utf8(&bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none()) {
            return bytes.len();
        }
    }
    0
}

/// Text of tokens, without the beginning of a character at the end.
pub(super) fn decode_so_far(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<String, GenerateError> {
    if !tokenizer.is_byte_level() {
        return tokenizer.decode(&tokens[..tokens.len() - unfinished(tokenizer, tokens)]);
    }
    let mut text = tokenizer.decode(tokens)?;
    let mut end = Utf8Stream::default();
    end.push(&byte_level_end(tokenizer, tokens));
    let held = end.finish();
    text.truncate(text.strip_suffix(held.as_str()).unwrap_or(&text).len());
    Ok(text)
}

/// `String::from_utf8_lossy` for bytes that come in pieces: the same text, with an unfinished character held back.
#[derive(Debug, Clone, Default)]
struct Utf8Stream {
    /// The beginning of a character.
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

/// Bytes of the beginning of a character, at most.
const MOST_UNFINISHED: usize = 3;
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

    fn pause(&mut self, tokenizer: &Tokenizer) -> Result<String, GenerateError> {
        let end = self.ids.len() - unfinished(tokenizer, &self.ids);
        let held = self.ids.split_off(end.max(self.given));
        let (text, _) = self.difference(tokenizer)?;
        self.given = self.ids.len();
        self.ids.extend(held);
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
