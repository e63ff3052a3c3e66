//! One error for callers of the crate, made of one typed error a layer. All are defined here, below what fails by them.

mod generate;
mod gpu;
mod load;
mod quantise;
mod state;
mod train;

pub use generate::GenerateError;
pub use gpu::GpuError;
pub use load::LoadError;
pub use quantise::QuantiseError;
pub use state::StateError;
pub use train::{TextError, TrainError};

/// Anything the library can refuse or fail at. Each layer's error names the file, tensor, shapes or limit concerned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint, its configuration or its tokenizer could not be read or contradicts itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A state file is damaged, of another model or of a later version, or could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A checkpoint could not be quantised.
    #[error(transparent)]
    Quantise(#[from] QuantiseError),
    /// The adapter, the device or a kernel failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Sampling or text generation was asked for something that makes no sense.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A model could not be trained.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The caller passed tokens or states that do not fit the model.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// The caller's tokens, state or options do not fit the model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A token id at or above the vocabulary's size.
    #[error("token {token} at position {position} is out of range: the model's vocabulary has {vocab_size} entries")]
    TokenOutOfRange { token: u32, position: usize, vocab_size: usize },
    /// Nothing to run the model on.
    #[error("no tokens given: the model needs at least one")]
    NoTokens,
    /// Logits with NaN in them, or all at minus infinity.
    #[error("no token can be drawn: the model's logits hold NaN, or nothing but minus infinity (`mamba-wgpu doctor` says whether the device computes rightly)")]
    NoTokenToChoose,
    /// A chunk of zero tokens would never end.
    #[error("the chunk is 0 tokens: it must be at least 1")]
    ZeroChunk,
    /// Two lists that must have one entry a token.
    #[error("{what}: {got} entries for {expected} tokens")]
    LengthMismatch { what: &'static str, got: usize, expected: usize },
    /// A text longer than what was allowed.
    #[error("{tokens} tokens are too many: at most {limit} are explained at once")]
    TooManyTokens { tokens: usize, limit: usize },
    /// A layer, channel or head that the model does not have.
    #[error("{what} {value} is out of range: the model has {count}, counted from 0")]
    OutOfRange { what: &'static str, value: usize, count: usize },
    /// Layers of which `explain` shows nothing.
    #[error("{layers} of attention and MLPs alone, which have no matrix of this kind to show yet")]
    NothingToExplain { layers: String },
    /// A slot that the batch does not have.
    #[error("slot {slot} is out of range: the batch has {slots}, counted from 0")]
    NoSlot { slot: usize, slots: usize },
    /// Two tokens of one text in a step.
    #[error("slot {slot} is named twice: a step takes one token of a text")]
    SlotTwice { slot: usize },
    /// More texts at once than fit, or none.
    #[error(
        "{slots} texts at once: this model takes 1 to {most} on this device, whose limits a binding allow no more"
    )]
    Slots { slots: usize, most: usize },
    /// Layers that are left over, or of which there are not as many.
    #[error("parts of {counts} layers: each must have one at least, and all together the model's {n_layer}")]
    Parts { counts: String, n_layer: usize },
    /// A state of another model or of another shape.
    #[error("the {what} has {got} values, this model's has {expected}: it is another model's")]
    StateShape { what: &'static str, got: usize, expected: usize },
}

/// `Result` with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A number for a message: with an exponent where it would be all zeros.
pub(crate) fn number<T: Copy + Into<f64> + std::fmt::Display + std::fmt::LowerExp>(value: T) -> String {
    let size: f64 = value.into().abs();
    match size == 0.0 || (1e-5..1e16).contains(&size) {
        true => value.to_string(),
        false => format!("{value:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [number(1e-45f32), number(-2.5e30f32), number(0.1f32), number(7.0f64)],
            ["1e-45", "-2.5e30", "0.1", "7"]
        );
        assert_eq!([number(0.0f64), number(1e-300f64), number(f32::NAN)], ["0", "1e-300", "NaN"]);
    }
}
