//! A language model's data: a text as tokens, and a tokenizer of one's own.

use super::{Batch, Data, IGNORE};
pub use crate::error::TextError;
use crate::generate::Tokenizer;
use crate::train::random::{Purpose, Stream};
use tokenizers::models::bpe::{BpeTrainerBuilder, BPE};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder, TokenizerImpl};

/// A text's tokens, cut into windows: at random places to train on, one after the other to validate on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextData {
    tokens: Vec<u32>,
    bytes: usize,
    length: usize,
}

/// Bytes that are tokenised at once: a paragraph's end at a time.
const PIECE: usize = 1 << 20;

impl TextData {
    /// Tokenises a text for windows of `length`. `file` is for messages.
    ///
    /// # Errors
    /// A text shorter than a window; tokens that the model does not have.
    pub fn new(file: &str, text: &str, tokenizer: &Tokenizer, length: usize) -> Result<Self, TextError> {
        let mut tokens = Vec::with_capacity(text.len() / 3);
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(cut(rest));
            tokens.extend(tokenizer.encode(piece)?);
            rest = later;
        }
        Self::from_tokens(file, tokens, text.len(), length)
    }

    /// Tokens that are there already, of a text of so many bytes.
    ///
    /// # Errors
    /// Fewer tokens than a window takes.
    pub fn from_tokens(file: &str, tokens: Vec<u32>, bytes: usize, length: usize) -> Result<Self, TextError> {
        if tokens.len() <= length {
            let needed = length.saturating_add(1);
            return Err(TextError::TooShort { file: file.into(), tokens: tokens.len(), needed });
        }
        Ok(Self { tokens, bytes, length })
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Of the text as it was read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The windows of `length` that follow each other, each token predicted once from those before it in its window: `count`
    /// of them from the `first`-th on, the last one filled up with what counts for nothing. `None` behind the end.
    /// As `mamba-wgpu score`: `bos` stands before the text.
    pub fn window(&self, bos: u32, length: usize, first: usize, count: usize) -> Option<Batch> {
        let begin = first * length;
        if begin >= self.tokens.len() {
            return None;
        }
        let (mut tokens, mut targets) = (vec![bos; count * length], vec![IGNORE; count * length]);
        let after = &self.tokens[begin..(begin + count * length).min(self.tokens.len())];
        targets[..after.len()].copy_from_slice(after);
        tokens[1..after.len()].copy_from_slice(&after[..after.len() - 1]);
        if begin > 0 {
            tokens[0] = self.tokens[begin - 1];
        }
        Some(Batch::new(count, length, tokens, targets))
    }
}

/// Where a piece to tokenise ends: behind a line break, so that no word is cut in two.
fn cut(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    text.as_bytes()[..PIECE].iter().rposition(|&byte| byte == b'\n').map_or_else(|| text.len(), |at| at + 1)
}

impl Data for TextData {
    fn length(&self) -> usize {
        self.length
    }

    fn batch(&self, seed: u64, purpose: Purpose, first: u64, sequences: usize) -> Batch {
        let l = self.length;
        let (mut tokens, mut targets) = (Vec::with_capacity(sequences * l), Vec::with_capacity(sequences * l));
        for i in 0..sequences {
            let begin = Stream::new(seed, purpose, first + i as u64).below(self.tokens.len() - l);
            tokens.extend(&self.tokens[begin..begin + l]);
            targets.extend(&self.tokens[begin + 1..begin + l + 1]);
        }
        Batch::new(sequences, l, tokens, targets)
    }
}

/// A byte-level BPE of `vocab_size` entries from a text, as a `tokenizer.json`. Entry 0 is `<|endoftext|>`.
///
/// # Errors
/// What `tokenizers` says.
pub fn train_tokenizer(text: &str, vocab_size: usize) -> Result<Vec<u8>, TextError> {
    let fail = |e: tokenizers::Error| TextError::Tokenizer { message: e.to_string() };
    let bytes = ByteLevel::new(false, true, true);
    let builder = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes));
    let mut tokenizer: TokenizerImpl<_, tokenizers::NormalizerWrapper, _, _, _> = builder.build().map_err(fail)?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .build();
    tokenizer.train(&mut trainer, text.split_inclusive('\n')).map_err(fail)?;
    tokenizer.to_string(false).map(String::into_bytes).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_and_predict_every_token_once() {
        let data = TextData::from_tokens("t", (10..20).collect(), 30, 4).unwrap();
        let first = data.window(0, 4, 0, 2).unwrap();
        assert_eq!(first.tokens, [0, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(first.targets, [10, 11, 12, 13, 14, 15, 16, 17]);
        let last = data.window(0, 4, 2, 2).unwrap();
        assert_eq!((&last.tokens[..2], last.counted()), (&[17, 18][..], 2));
        assert_eq!(last.targets[..3], [18, 19, IGNORE]);
        assert!(data.window(0, 4, 3, 1).is_none());
    }

    #[test]
    fn random_windows_stay_inside_and_reach_both_ends() {
        let data = TextData::from_tokens("t", (0..9).collect(), 9, 4).unwrap();
        let batch = data.batch(5, Purpose::Training, 0, 200);
        let mut begins: Vec<u32> = batch.tokens.chunks(4).map(|row| row[0]).collect();
        for (tokens, targets) in batch.tokens.chunks(4).zip(batch.targets.chunks(4)) {
            assert_eq!(tokens[1..], targets[..3]);
        }
        begins.sort_unstable();
        begins.dedup();
        assert_eq!(begins, [0, 1, 2, 3, 4]);
        assert!(TextData::from_tokens("t", vec![1, 2], 2, 2).is_err());
    }

    #[test]
    fn a_tokenizer_of_ones_own_gives_the_text_back() {
        let text = "the cat sat on the mat, the cat sat.\nÄ \u{1F600} the end of the cat\n".repeat(20);
        let json = train_tokenizer(&text, 300).unwrap();
        let tokenizer = Tokenizer::from_bytes(&json, 300).unwrap();
        assert!((258..=300).contains(&tokenizer.vocab_size()), "{}", tokenizer.vocab_size());
        assert_eq!(tokenizer.token_to_id("<|endoftext|>"), Some(0));
        let tokens = tokenizer.encode(&text).unwrap();
        assert!(tokens.len() * 2 < text.len(), "{} tokens of {} bytes", tokens.len(), text.len());
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        let data = TextData::new("t", &text, &tokenizer, 8).unwrap();
        assert_eq!((data.tokens(), data.bytes()), (&tokens[..], text.len()));
    }
}
