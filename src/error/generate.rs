//! What can go wrong in writing a text.

/// Text generation was asked for something that makes no sense, or the tokenizer and the model do not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A sampling or generation option out of its range; `parameter` is the field's name.
    #[error("{parameter} is {value}: it must be {expected}")]
    InvalidParameter { parameter: &'static str, value: String, expected: &'static str },
    /// An empty stop string would end every text before its first character.
    #[error("stop string {index} is empty: it would end every text at once")]
    EmptyStop { index: usize },
    /// The logits hold NaN, or nothing but minus infinity.
    #[error("no token can be drawn: the model's logits hold NaN, or nothing but minus infinity (`mamba-wgpu doctor` says whether the device computes rightly)")]
    NotSampleable,
    /// Nothing to continue: the model needs one token at least.
    #[error("the prompt is empty: the model needs at least one token to continue from")]
    EmptyPrompt,
    /// `tokenizer.json` is not what the `tokenizers` crate can read.
    #[error("the tokenizer cannot be read; take the tokenizer.json that was published with the model: {message}")]
    BadTokenizer { message: String },
    /// Another of the tokenizer's files is damaged, or of a kind that is not read.
    #[error("{file}: {reason}")]
    TokenizerFile { file: String, reason: String },
    /// A text the tokenizer refuses.
    #[error("the text cannot be turned into tokens: {message}")]
    Encode { message: String },
    /// Tokens that the tokenizer's decoder refuses.
    #[error("the tokens cannot be turned into text: {message}")]
    Decode { message: String },
    /// The tokenizer is larger than the model and the text uses one of the tokens which the model does not have.
    #[error(
        "the tokenizer does not fit the model: token {token_text:?} has the id {token}, but the model's vocabulary has \
         {model_vocab_size} entries (the tokenizer's {tokenizer_vocab_size})"
    )]
    TokenBeyondModel { token: u32, token_text: String, model_vocab_size: usize, tokenizer_vocab_size: usize },
}
