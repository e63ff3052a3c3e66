//! From a model that predicts tokens to streamed text.
//!
//! ```text
//! text --Tokenizer--> tokens --Session--> logits --sample--> token --TextStream--> pieces of text
//!                              ^                                |
//!                              +--------------- step -----------+
//! ```
//!
//! * [`tokenizer`]: text to tokens and back; [`detokenize`]: back one token at a time, without a broken character.
//! * [`stop`]: stop strings, also those that fall across several tokens.
//! * [`stream`]: the loop that ties them together.
//! * [`batch`]: several texts at once.
//! * [`text`]: a text that can be saved, continued and taken back to any of its tokens.

pub mod batch;
pub mod detokenize;
mod settings;
pub mod stop;
pub mod stream;
pub mod text;
pub mod tokenizer;
mod writing;

pub use crate::error::GenerateError;
pub use crate::settings::{GenerationSettings, SamplingParams};
pub use batch::{BatchGenerator, Event};
pub use detokenize::DecodeStream;
pub use stop::StopMatcher;
pub use stream::{FinishReason, GenerateOptions, Generator, Piece, Stats, TextStream, TokenSource};
pub use text::Text;
pub use tokenizer::Tokenizer;
