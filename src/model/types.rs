//! What both backends share: results, and the checks of a caller's tokens and states.

use super::blocks::STATES;
use super::pages::Pages;
use super::ModelConfig;
use crate::error::InputError;

/// What the model says of a given text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// The most likely successor after each token.
    pub argmax: Vec<u32>,
    /// -log p (natural) of each target; empty without targets.
    pub nll: Vec<f32>,
}

/// A text's state on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StateData {
    /// All layers' `conv_state`, one after the other: the convolution's last inputs, (taps, channels), oldest first.
    pub conv: Vec<f32>,
    /// All layers' `ssm_state`, one after the other: (channels, d_state), of Mamba-2 (heads, head_dim, d_state).
    pub ssm: Vec<f32>,
    /// Keys and values of all tokens so far, in models with attention.
    pub pages: Pages,
}

impl StateData {
    /// Each with its name, in the order in which they are saved.
    pub(crate) fn named(&self) -> [(&'static str, &Vec<f32>); STATES.len()] {
        let [conv, ssm] = STATES;
        [(conv, &self.conv), (ssm, &self.ssm)]
    }

    pub(crate) fn named_mut(&mut self) -> [(&'static str, &mut Vec<f32>); STATES.len()] {
        let [conv, ssm] = STATES;
        [(conv, &mut self.conv), (ssm, &mut self.ssm)]
    }

    /// Of a text at its begin.
    pub(crate) fn zeros(c: &ModelConfig) -> Self {
        let zeros = |name| vec![0.0; c.state_elements(name)];
        Self { conv: zeros("conv_state"), ssm: zeros("ssm_state"), pages: c.pages() }
    }

    /// From those of parts of a model's layers, in their order.
    pub(crate) fn join(parts: Vec<StateData>) -> Self {
        let mut all = Self::default();
        for part in &parts {
            all.conv.extend(&part.conv);
            all.ssm.extend(&part.ssm);
        }
        Self { pages: Pages::join(parts.into_iter().map(|part| part.pages)), ..all }
    }

    /// What parts of a model's layers, which have these configs, have of it; [`StateData::check`] has passed.
    pub(crate) fn split<'a>(&self, parts: impl Iterator<Item = &'a ModelConfig>) -> Vec<Self> {
        let (mut conv, mut ssm, mut layers) = (&self.conv[..], &self.ssm[..], 0);
        let take = |rest: &mut &[f32], elements| {
            let (part, later) = rest.split_at(elements);
            *rest = later;
            part.to_vec()
        };
        let part = |c: &ModelConfig| {
            let of_pages = c.pages().shape()[0];
            let pages = self.pages.part(layers, of_pages);
            layers += of_pages;
            let [of_conv, of_ssm] = STATES.map(|name| c.state_elements(name));
            Self { conv: take(&mut conv, of_conv), ssm: take(&mut ssm, of_ssm), pages }
        };
        parts.map(part).collect()
    }

    /// Whether it is a state of such a model.
    pub(crate) fn check(&self, c: &ModelConfig) -> Result<(), InputError> {
        let check = |what, got: usize, expected: usize| {
            if got == expected {
                return Ok(());
            }
            Err(InputError::StateShape { what, got, expected })
        };
        check("conv_state", self.conv.len(), c.state_elements("conv_state"))?;
        check("ssm_state", self.ssm.len(), c.state_elements("ssm_state"))?;
        let ([layers, _, kv_heads, head_dim], [expected, _, heads, dim]) = (self.pages.shape(), c.pages().shape());
        check("layers with keys and values", layers, expected)?;
        check("heads of keys and values", kv_heads, heads)?;
        check("channels of a head", head_dim, dim)
    }
}

/// At least one token, and all of them in the vocabulary.
pub(crate) fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<(), InputError> {
    if tokens.is_empty() {
        return Err(InputError::NoTokens);
    }
    match tokens.iter().position(|&t| t as usize >= vocab_size) {
        None => Ok(()),
        Some(position) => Err(InputError::TokenOutOfRange { token: tokens[position], position, vocab_size }),
    }
}

/// Tokens to be scored, and where there are targets one for each of them.
pub(crate) fn check_targets(tokens: &[u32], targets: Option<&[u32]>, vocab_size: usize) -> Result<(), InputError> {
    check_tokens(tokens, vocab_size)?;
    let Some(targets) = targets else { return Ok(()) };
    check_length("targets", targets.len(), tokens.len())?;
    check_tokens(targets, vocab_size)
}

/// Two lists of one length.
pub(crate) fn check_length(what: &'static str, got: usize, expected: usize) -> Result<(), InputError> {
    if got == expected {
        Ok(())
    } else {
        Err(InputError::LengthMismatch { what, got, expected })
    }
}

/// Slots that there are, each at most once.
pub(crate) fn check_slots(named: impl Iterator<Item = usize>, slots: usize) -> Result<(), InputError> {
    let mut taken = vec![false; slots];
    for slot in named {
        match taken.get_mut(slot) {
            None => return Err(InputError::NoSlot { slot, slots }),
            Some(true) => return Err(InputError::SlotTwice { slot }),
            Some(free) => *free = true,
        }
    }
    Ok(())
}
