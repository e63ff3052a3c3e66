//! Text to tokens and back, over Hugging Face's `tokenizers`.

use std::sync::Arc;

use tokenizers::DecoderWrapper;

use super::detokenize::decode_so_far;
use super::{DecodeStream, GenerateError};
use crate::model::ModelConfig;

/// A `tokenizer.json`, checked against the model it is used with. A clone is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    vocab_size: usize,
    model_vocab_size: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("model_vocab_size", &self.model_vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json` for a model with `model_vocab_size` tokens (rows of its embedding).
    ///
    /// The two sizes need not be equal: published models are often padded to a multiple of 8, and fine-tunes come with
    /// tokens that the model does not have. See [`encode`](Self::encode) and [`DecodeStream`] for what happens then.
    ///
    /// # Errors
    /// [`GenerateError::BadTokenizer`] where the bytes are no such file.
    pub fn from_bytes(json: &[u8], model_vocab_size: usize) -> Result<Self, GenerateError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|error| GenerateError::BadTokenizer { message: error.to_string() })?;
        // Some published files ask for padding or truncation, which are for batches: here they would change the text.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| GenerateError::BadTokenizer { message: error.to_string() })?;
        let vocab_size = inner.get_vocab_size(true);
        Ok(Self { inner: Arc::new(inner), vocab_size, model_vocab_size })
    }

    /// Number of tokens of the tokenizer, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Number of tokens of the model.
    pub fn model_vocab_size(&self) -> usize {
        self.model_vocab_size
    }

    /// Tokens of a text, without special tokens at its beginning or end. Special tokens written out in the text
    /// (`<|endoftext|>`) become the token they name.
    ///
    /// # Errors
    /// [`GenerateError::TokenBeyondModel`] where the text needs a token that the model does not have.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.encode_with(text, false)
    }

    /// As [`encode`](Self::encode), with the special tokens which the tokenizer's post-processor adds.
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, GenerateError> {
        let encoding = self
            .inner
            .encode_fast(text, special_tokens)
            .map_err(|error| GenerateError::Encode { message: error.to_string() })?;
        let ids = encoding.get_ids();
        match ids.iter().find(|&&id| id as usize >= self.model_vocab_size) {
            Some(&token) => Err(GenerateError::TokenBeyondModel {
                token,
                token_text: self.token(token).unwrap_or_default(),
                model_vocab_size: self.model_vocab_size,
                tokenizer_vocab_size: self.vocab_size,
            }),
            None => Ok(ids.to_vec()),
        }
    }

    /// Text of tokens, special tokens left out. Ids that the tokenizer does not know have no text.
    ///
    /// # Errors
    /// [`GenerateError::Decode`] where the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, GenerateError> {
        self.inner.decode(tokens, true).map_err(|error| GenerateError::Decode { message: error.to_string() })
    }

    /// The same without the beginning of a character at the end, which whoever goes on with the text gets with the rest
    /// of it.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_so_far(&self, tokens: &[u32]) -> Result<String, GenerateError> {
        decode_so_far(self, tokens)
    }

    /// Turns tokens into text one at a time. `context` are the tokens before them (the prompt): some decoders drop the
    /// space of a text's first word, which a continuation's first word must keep. Where the context ends within a
    /// character, the whole character comes with the token that ends it.
    pub fn decode_stream(&self, context: &[u32]) -> DecodeStream {
        DecodeStream::new(self.clone(), context)
    }

    /// The text of each token, in the context of those before it: together the text. Of a character that several tokens make, the last
    /// has it.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn pieces(&self, tokens: &[u32]) -> Result<Vec<String>, GenerateError> {
        let (mut pieces, mut stream) = self.streamed(tokens)?;
        let rest = stream.finish()?;
        if let Some(last) = pieces.last_mut() {
            last.push_str(&rest);
        }
        Ok(pieces)
    }

    /// The same of a text that will go on: the beginning of a character at its end has no text yet.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn pieces_so_far(&self, tokens: &[u32]) -> Result<Vec<String>, GenerateError> {
        let (mut pieces, mut stream) = self.streamed(tokens)?;
        let rest = stream.pause()?;
        if let Some(last) = pieces.last_mut() {
            last.push_str(&rest);
        }
        Ok(pieces)
    }

    fn streamed(&self, tokens: &[u32]) -> Result<(Vec<String>, DecodeStream), GenerateError> {
        let mut stream = self.decode_stream(&[]);
        let pieces = tokens.iter().map(|&t| stream.push(t)).collect::<Result<Vec<_>, _>>()?;
        Ok((pieces, stream))
    }

    /// The token as it stands in the vocabulary (byte-level BPE writes a space as `Ġ`); `None` for an unknown id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether the tokenizer knows the id.
    pub fn knows(&self, id: u32) -> bool {
        self.token(id).is_some()
    }

    /// Whether the id is a special token (end of text, padding), which has no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.token_and_special(id).is_some_and(|(_, special)| special)
    }

    /// Id of a token as it stands in the vocabulary, e.g. `<|endoftext|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens that end a text. Configs of mamba-ssm name none: their models use GPT-NeoX's.
    pub fn end_of_text(&self, config: &ModelConfig) -> Vec<u32> {
        match config.eos_token_id.is_empty() {
            true => self.token_to_id("<|endoftext|>").into_iter().collect(),
            false => config.eos_token_id.clone(),
        }
    }

    /// The id's token, and whether it is a special one; `None` for an unknown id.
    pub(super) fn token_and_special(&self, id: u32) -> Option<(String, bool)> {
        let token = self.token(id)?;
        let special = self.inner.get_added_vocabulary().is_special_token(&token);
        Some((token, special))
    }

    /// Whether tokens are strings of bytes, each byte a character of its own (GPT-2, GPT-NeoX, Falcon).
    pub(super) fn is_byte_level(&self) -> bool {
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }
}

#[cfg(test)]
mod tests;
