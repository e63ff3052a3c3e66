//! Text to tokens and back, over Hugging Face's `tokenizers`.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::BPE;
use tokenizers::{DecoderWrapper, ModelWrapper, PostProcessorWrapper};

use self::beside::TokenizerConfig;
use self::sound::{guarded, unsound};
use super::detokenize::decode_so_far;
use super::{DecodeStream, GenerateError};
use crate::checkpoint::sidecars::{MERGES, TOKENIZER, VOCAB};
use crate::checkpoint::sniff::{instead, trim_bom};
use crate::model::{Checkpoint, Fingerprint, ModelId, Sidecars};

mod beside;
mod slow;
mod sound;

/// A model's tokenizer, checked against the model it is used with. A clone is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    vocab_size: usize,
    model_vocab_size: usize,
    /// What the post-processor puts before and after a text.
    before: Vec<u32>,
    after: Vec<u32>,
    end_of_text: Vec<u32>,
    /// What the tokenizer's own files call its beginning and end of a text.
    bos: Option<u32>,
    eos: Option<u32>,
    fingerprint: Arc<OnceLock<Fingerprint>>,
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
        let bad = |message| GenerateError::BadTokenizer { message };
        if let Some(message) = unsound(trim_bom(json)) {
            return Err(bad(message));
        }
        let read = guarded(|| tokenizers::Tokenizer::from_bytes(trim_bom(json))).map_err(bad)?;
        let inner = read.map_err(|error| {
            let cut =
                if error.to_string().starts_with("EOF") { ": the file is cut short, download it again" } else { "" };
            bad(instead(json).unwrap_or_else(|| format!("{error}{cut}")))
        })?;
        Self::new(inner, model_vocab_size)
    }

    fn new(inner: tokenizers::Tokenizer, model_vocab_size: usize) -> Result<Self, GenerateError> {
        guarded(|| Self::prepared(inner, model_vocab_size))
            .unwrap_or_else(|message| Err(GenerateError::BadTokenizer { message }))
    }

    fn prepared(mut inner: tokenizers::Tokenizer, model_vocab_size: usize) -> Result<Self, GenerateError> {
        // Some published files ask for padding or truncation, which are for batches: here they would change the text.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| GenerateError::BadTokenizer { message: error.to_string() })?;
        // Merges left out by chance are for training: a text would be other tokens each time.
        if let ModelWrapper::BPE(BPE { dropout: Some(_), .. }) = inner.get_model() {
            let mut model = inner.get_model().clone();
            if let ModelWrapper::BPE(bpe) = &mut model {
                bpe.dropout = None;
            }
            inner.with_model(model);
        }
        let (before, after) = around(&inner)?;
        // What panics does so now. What it refuses to encode or to decode is a text's matter.
        for text in PROBES {
            let ids = inner.encode_fast(text, true).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
            let _ = inner.decode(&ids, true);
        }
        Ok(Self {
            vocab_size: inner.get_vocab_size(true),
            model_vocab_size,
            before,
            after,
            end_of_text: inner.token_to_id("<|endoftext|>").into_iter().collect(),
            bos: None,
            eos: None,
            fingerprint: Arc::default(),
            inner: Arc::new(inner),
        })
    }

    /// The tokenizer that the files beside a model's weights make, for a model of so many tokens; `None` where there is none.
    ///
    /// `tokenizer.json`, or else `vocab.json` with `merges.txt` (byte-level BPE, as GPT-2's), read as transformers reads them. Of
    /// `tokenizer_config.json` and the files of special tokens the first needs only the end-of-text token: its post-processor says
    /// itself which tokens stand around a text, unless the class is GPTNeoXTokenizer, for which transformers takes it away.
    ///
    /// # Errors
    /// [`GenerateError::BadTokenizer`], [`GenerateError::TokenizerFile`]: damaged files, or files of another kind of tokenizer.
    pub fn from_sidecars(sidecars: &Sidecars, model_vocab_size: usize) -> Result<Option<Self>, GenerateError> {
        if sidecars.get(TOKENIZER).is_none() && (sidecars.get(VOCAB).is_none() || sidecars.get(MERGES).is_none()) {
            return Ok(None);
        }
        let config = TokenizerConfig::read(sidecars)?;
        let tokenizer = match sidecars.get(TOKENIZER) {
            Some(json) => {
                let mut tokenizer = Self::from_bytes(json, model_vocab_size)?;
                if config.class() == Some("GPTNeoXTokenizer") {
                    tokenizer = tokenizer.without_post_processor()?;
                }
                tokenizer
            }
            None => match slow::tokenizer_json(sidecars, &config)? {
                None => return Ok(None),
                Some(json) => Self::from_bytes(&json, model_vocab_size).map_err(|error| match error {
                    GenerateError::BadTokenizer { message } => {
                        GenerateError::TokenizerFile { file: format!("{VOCAB}, {MERGES}"), reason: message }
                    }
                    other => other,
                })?,
            },
        };
        let id = |role| Ok(config.token(role)?.flatten().and_then(|token| tokenizer.token_to_id(&token)));
        let (bos, eos): (_, Option<u32>) = (id("bos_token")?, id("eos_token")?);
        Ok(Some(Self { bos, eos, ..tokenizer }.with_ends(None, eos.as_slice())))
    }

    fn without_post_processor(self) -> Result<Self, GenerateError> {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.with_post_processor(None::<PostProcessorWrapper>);
        Self::new(inner, self.model_vocab_size)
    }

    /// With what the model's configuration says of the tokens that begin and end a text, as far as it says anything.
    #[must_use]
    pub fn with_ends(mut self, bos: Option<u32>, eos: &[u32]) -> Self {
        self.bos = bos.or(self.bos);
        if !eos.is_empty() {
            self.end_of_text = eos.to_vec();
        }
        self
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

    /// As [`encode`](Self::encode), with the special tokens that the tokenizer's post-processor puts around a text, as transformers'
    /// `tokenizer(text)` does: often one before it, at times one after it.
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, GenerateError> {
        let encode = || self.inner.encode_fast(text, special_tokens).map_err(|error| error.to_string());
        let encoding = guarded(encode).and_then(|done| done).map_err(|message| GenerateError::Encode { message })?;
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

    /// The tokens that the post-processor puts before a text.
    pub fn tokens_before(&self) -> &[u32] {
        &self.before
    }

    /// The tokens that the post-processor puts after a text.
    pub fn tokens_after(&self) -> &[u32] {
        &self.after
    }

    /// Text of tokens, special tokens left out. Ids that the tokenizer does not know have no text.
    ///
    /// # Errors
    /// [`GenerateError::Decode`] where the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, GenerateError> {
        let decode = || self.inner.decode(tokens, true).map_err(|error| error.to_string());
        guarded(decode).and_then(|done| done).map_err(|message| GenerateError::Decode { message })
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

    /// Tokens that end a text: those that the model's files name ([`Checkpoint::tokenizer`]), or `<|endoftext|>`, as GPT-NeoX's is
    /// called, which mamba-ssm's models use without saying so.
    pub fn end_of_text(&self) -> &[u32] {
        &self.end_of_text
    }

    /// The token before a text that is scored: what the post-processor puts there, or the model's beginning-of-text token, or the first
    /// of those that end a text.
    pub fn beginning_of_text(&self) -> Option<u32> {
        self.before.last().copied().or(self.bos).or(self.end_of_text.first().copied())
    }

    /// A SHA-256 over the vocabulary, the merges and the added tokens: the same for the same tokenizer, however its files are written.
    pub fn fingerprint(&self) -> Fingerprint {
        *self.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new();
            let mut add = |text: &str| {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            };
            let mut vocab: Vec<(u32, String)> =
                self.inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
            vocab.sort_unstable();
            for (id, token) in &vocab {
                add(&id.to_string());
                add(token);
            }
            let mut added: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
            added.sort_unstable_by_key(|(id, _)| *id);
            for (id, token) in &added {
                add(&format!("added {id} {} {} {}", token.special, token.lstrip, token.rstrip));
            }
            // A model's own JSON, whose merges are pairs or, in older versions, strings. (A wrapped model always serialises.)
            let model = serde_json::to_value(self.inner.get_model()).unwrap_or_default();
            for merge in model["merges"].as_array().into_iter().flatten() {
                match merge {
                    Value::String(pair) => add(pair),
                    pair => add(&[&pair[0], &pair[1]].map(|part| part.as_str().unwrap_or_default()).join(" ")),
                }
            }
            Fingerprint::of(hash)
        })
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

/// Texts that come through most of what a tokenizer may do: cases, accents, scripts, numbers, white space, none at all.
const PROBES: [&str; 4] = [
    "",
    " ",
    "The 12,345 cats' Café\n\n\tx = \"y\"  ",
    "\u{fb01}\u{1f600} \u{4f60}\u{597d}e\u{301}\u{ff21}\u{0}\u{feff}",
];

/// The tokens that the post-processor puts before and after a text.
fn around(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), GenerateError> {
    let post_processor = serde_json::to_value(tokenizer.get_post_processor()).unwrap_or_default();
    if let Some(message) = unusable_template(&post_processor) {
        return Err(GenerateError::BadTokenizer { message });
    }
    // A vocabulary of words may have neither "a" nor a token for what it does not know.
    let encoding = tokenizer.encode_fast("a", true).or_else(|_| tokenizer.encode_fast("", true));
    let encoding = encoding.map_err(|error| GenerateError::BadTokenizer { message: error.to_string() })?;
    let added = |mask: &&u32| **mask == 1;
    let (ids, mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let before = mask.iter().take_while(added).count();
    // A vocabulary that has no "a": all of them stand before it.
    let after = mask[before..].iter().rev().take_while(added).count();
    Ok((ids[..before].to_vec(), ids[ids.len() - after..].to_vec()))
}

/// What is wrong with a post-processor's template, which the library would notice by a panic at the first text.
fn unusable_template(post_processor: &Value) -> Option<String> {
    if let Some(parts) = post_processor["processors"].as_array() {
        return parts.iter().find_map(unusable_template);
    }
    post_processor["single"].as_array()?.iter().find_map(|piece| {
        if let Some(token) = piece["SpecialToken"]["id"].as_str() {
            let known = post_processor["special_tokens"].get(token).is_some();
            return (!known)
                .then(|| format!("`post_processor`: its template names {token:?}, which its special_tokens lack"));
        }
        let sequence = piece["Sequence"]["id"].as_str().filter(|&id| id != "A")?;
        Some(format!(
            "`post_processor`: its template for one text names the text {sequence:?}, and there is only \"A\""
        ))
    })
}

impl Checkpoint {
    /// The tokenizer beside the weights (see [`Tokenizer::from_sidecars`]), which knows where the model's texts end: by
    /// `generation_config.json`, else by `config.json`, else by the tokenizer's own files. `None` where there is none.
    ///
    /// # Errors
    /// As [`Tokenizer::from_sidecars`].
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, GenerateError> {
        let (config, generation) = (self.config(), self.generation_config());
        let tokenizer = Tokenizer::from_sidecars(self.sidecars(), config.vocab_size)?;
        Ok(tokenizer.map(|tokenizer| {
            // Configuration classes have a token that ends texts even where the file says nothing.
            let default = if tokenizer.eos.is_some() { &[] } else { &config.eos_token_id[..] };
            let eos = self.named_eos().unwrap_or(default);
            tokenizer.with_ends(generation.bos_token_id.or(config.bos_token_id), eos)
        }))
    }
}

impl ModelId {
    /// With the tokenizer that texts are made with, so that a state of another tokenizer's tokens is refused.
    #[must_use]
    pub fn with_tokenizer(self, tokenizer: &Tokenizer) -> Self {
        Self { tokenizer: Some(tokenizer.fingerprint()), ..self }
    }
}

#[cfg(test)]
mod tests;
