//! What the backends share: options, states and scores.

use std::{fmt, str::FromStr};

use super::ModelConfig;
use crate::error::InputError;

/// How the selective scan is computed during prefill. All give the same numbers up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scan {
    /// One position after the other.
    Sequential,
    /// The textbook work-efficient parallel scan over materialised pairs.
    Blelloch,
    /// Pairs formed in registers, Blelloch over the aggregates of chunks.
    #[default]
    Fused,
}

impl Scan {
    /// Every variant, in the order in which they build on each other.
    pub const ALL: [Self; 3] = [Self::Sequential, Self::Blelloch, Self::Fused];
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sequential => "sequential",
            Self::Blelloch => "blelloch",
            Self::Fused => "fused",
        })
    }
}

/// A name that no [`Scan`] has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scan '{0}': expected sequential, blelloch or fused")]
pub struct UnknownScan(pub String);

impl FromStr for Scan {
    type Err = UnknownScan;

    fn from_str(name: &str) -> Result<Self, UnknownScan> {
        let scan = Self::ALL.into_iter().find(|scan| scan.to_string() == name);
        scan.ok_or_else(|| UnknownScan(name.into()))
    }
}

/// How the GPU holds the weights of the linear layers and of the embedding; the CPU backend holds f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightDtype {
    /// As the checkpoint has them where the adapter can: f16 if they are stored as f16, f32 otherwise.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats, for checkpoints stored as f16.
    F16,
}

/// How a model runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelOptions {
    /// The scan of prefill.
    pub scan: Scan,
    /// Positions that prefill handles at once: memory grows with it, not with the prompt.
    pub chunk: usize,
    /// The weights on the GPU.
    pub weights: WeightDtype,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            scan: Scan::default(),
            chunk: 512,
            weights: WeightDtype::default(),
        }
    }
}

/// How well a model predicts given tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// The most likely next token after each position.
    pub argmax: Vec<u32>,
    /// -ln p(target) at each position that has a target.
    pub nll: Vec<f32>,
}

/// A model's recurrent state: all it knows of the tokens so far.
#[derive(Debug, Clone, PartialEq)]
pub struct StateData {
    /// (n_layer, d_conv, d_inner), the last inputs of each layer's convolution, oldest first.
    pub conv: Vec<f32>,
    /// (n_layer, d_inner, d_state), h of each layer.
    pub ssm: Vec<f32>,
}

impl StateData {
    /// The state at the start of a sequence.
    pub fn zeros(config: &ModelConfig) -> Self {
        let [conv, ssm] = Self::lengths(config);
        Self { conv: vec![0.0; conv], ssm: vec![0.0; ssm] }
    }

    /// Whether this can be a state of a model with `config`.
    ///
    /// # Errors
    /// [`InputError::StateShape`] when either part has another length.
    pub fn check(&self, config: &ModelConfig) -> Result<(), InputError> {
        let [conv, ssm] = Self::lengths(config);
        for (what, got, expected) in
            [("conv state", self.conv.len(), conv), ("ssm state", self.ssm.len(), ssm)]
        {
            if got != expected {
                return Err(InputError::StateShape { what, got, expected });
            }
        }
        Ok(())
    }

    fn lengths(config: &ModelConfig) -> [usize; 2] {
        let channels = config.n_layer * config.d_inner;
        [channels * config.d_conv, channels * config.d_state]
    }
}

/// That there are tokens and that the vocabulary has each.
pub(crate) fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<(), InputError> {
    if tokens.is_empty() {
        return Err(InputError::NoTokens);
    }
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        Some(position) => {
            Err(InputError::TokenOutOfRange { token: tokens[position], position, vocab_size })
        }
        None => Ok(()),
    }
}

/// That a list that must have one entry a token has.
pub(crate) fn check_length(what: &'static str, got: usize, expected: usize) -> Result<(), InputError> {
    if got == expected {
        Ok(())
    } else {
        Err(InputError::LengthMismatch { what, got, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_names_read_back() {
        for scan in Scan::ALL {
            assert_eq!(scan.to_string().parse(), Ok(scan));
        }
        let error = "Fused".parse::<Scan>().unwrap_err();
        assert!(error.to_string().contains("'Fused'"));
    }
}
