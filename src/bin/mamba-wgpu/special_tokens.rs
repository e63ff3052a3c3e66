//! `--add-special-tokens`: what stands around a text when it becomes tokens.

use mamba_wgpu::generate::{GenerateError, Tokenizer};

#[derive(Debug, clap::Args)]
pub struct SpecialTokens {
    /// Put those special tokens around the text that the tokenizer's files ask for (often one before it, at times one after it), as
    /// transformers does
    #[arg(long, value_name = "true|false", default_value = "true", action = clap::ArgAction::Set)]
    add_special_tokens: bool,
}

impl SpecialTokens {
    pub fn wanted(&self) -> bool {
        self.add_special_tokens
    }

    /// A text's tokens.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, GenerateError> {
        match self.add_special_tokens {
            true => tokenizer.encode_with_special_tokens(text),
            false => tokenizer.encode(text),
        }
    }
}
