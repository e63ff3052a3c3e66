//! One text, on its way through all parts.

use super::{OnPart, PartsModel};
use crate::error::Result;
use crate::model::blocks::host::Mode;
use crate::model::cpu::CpuSession;
use crate::model::explanation::{ExplainOptions, LayerExplanation};
use crate::model::gpu::GpuSession;
use crate::model::span::{Input, Wanted};
use crate::model::types::{check_targets, check_tokens, Scores, StateData};
use crate::model::ModelConfig;
use crate::settings::SamplingParams;
use std::sync::Arc;

/// A text in one part.
enum InPart {
    Cpu(Box<CpuSession>),
    Gpu(Box<GpuSession>),
}

impl InPart {
    fn new(part: &OnPart) -> Result<Self> {
        Ok(match part {
            OnPart::Cpu(m) => InPart::Cpu(Box::new(CpuSession::new(m))),
            OnPart::Gpu(m) => InPart::Gpu(Box::new(GpuSession::new(m)?)),
        })
    }

    fn reader(&mut self) -> Reader<'_> {
        match self {
            InPart::Cpu(s) => Reader::Cpu(s),
            InPart::Gpu(s) => Reader::Gpu(s),
        }
    }
}

/// Who reads in a part: a session's text, or a slot's of a batch.
pub(super) enum Reader<'a> {
    Cpu(&'a mut CpuSession),
    Gpu(&'a mut GpuSession),
}

impl Reader<'_> {
    fn room_for(&mut self, l: usize) -> Result<()> {
        match self {
            Reader::Cpu(_) => Ok(()),
            Reader::Gpu(s) => s.room_for(l),
        }
    }

    async fn chunk(&mut self, input: Input<'_>, wanted: Wanted<'_>) -> Result<Vec<f32>> {
        match self {
            Reader::Cpu(s) => s.pass(input, Mode::Prefill, wanted),
            Reader::Gpu(s) => s.pass_chunk(input, wanted).await,
        }
    }

    async fn step(&mut self, input: Input<'_>, wanted: Wanted<'_>) -> Result<Vec<f32>> {
        match self {
            Reader::Cpu(s) => s.pass(input, Mode::Decode, wanted),
            Reader::Gpu(s) => s.pass_step(input).await,
        }
    }
}

/// A chunk, or a step of one token, through all parts, one after the other.
async fn pass(parts: &mut [Reader<'_>], tokens: &[u32], mode: Mode, wanted: Wanted<'_>) -> Result<()> {
    // Whoever has no room for it says so before any state has moved.
    parts.iter_mut().try_for_each(|part| part.room_for(tokens.len()))?;
    let (mut residual, mut wanted, last) = (Vec::new(), Some(wanted), parts.len().saturating_sub(1));
    for (i, part) in parts.iter_mut().enumerate() {
        let input = match i {
            0 => Input::Tokens(tokens),
            _ => Input::Residual(&residual, tokens.len()),
        };
        let of_part = wanted.take_if(|_| i == last).unwrap_or(Wanted::Nothing);
        residual = match mode {
            Mode::Prefill => part.chunk(input, of_part).await?,
            Mode::Decode => part.step(input, of_part).await?,
        };
    }
    Ok(())
}

/// A text by chunks, which has been checked; the last token's logits are ready afterwards.
pub(super) async fn prefill(
    mut parts: Vec<Reader<'_>>,
    chunk: usize,
    tokens: &[u32],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let mut done = 0;
    for part in tokens.chunks(chunk) {
        done += part.len();
        let wanted = if done == tokens.len() { Wanted::Last } else { Wanted::Nothing };
        pass(&mut parts, part, Mode::Prefill, wanted).await?;
        progress(done, tokens.len());
    }
    Ok(())
}

/// One text: what each part keeps of it.
pub struct PartsSession {
    model: Arc<PartsModel>,
    /// All but the last, and the last, which has the logits.
    before: Vec<InPart>,
    last: InPart,
}

impl PartsSession {
    /// A text at its begin.
    pub fn new(model: &Arc<PartsModel>) -> Result<Self> {
        let (last, before) = model.parts.split_last().ok_or_else(|| model.none())?;
        let before = before.iter().map(InPart::new).collect::<Result<_>>()?;
        Ok(Self { model: model.clone(), before, last: InPart::new(last)? })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut InPart> {
        self.before.iter_mut().chain([&mut self.last])
    }

    fn readers(&mut self) -> Vec<Reader<'_>> {
        self.parts_mut().map(InPart::reader).collect()
    }

    pub async fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        check_tokens(tokens, self.config().vocab_size)?;
        let chunk = self.model.chunk();
        prefill(self.readers(), chunk, tokens, progress).await
    }

    pub async fn step(&mut self, token: u32) -> Result<()> {
        check_tokens(&[token], self.config().vocab_size)?;
        pass(&mut self.readers(), &[token], Mode::Decode, Wanted::Last).await
    }

    pub async fn score(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        check_targets(tokens, targets, self.config().vocab_size)?;
        let chunk = self.model.chunk();
        let (mut parts, mut scores, mut done) = (self.readers(), Scores::default(), 0);
        for part in tokens.chunks(chunk) {
            let targets = targets.map(|targets| &targets[done..done + part.len()]);
            pass(&mut parts, part, Mode::Prefill, Wanted::Scores { targets, into: &mut scores }).await?;
            done += part.len();
            progress(done, tokens.len());
        }
        Ok(scores)
    }

    /// One window after the other.
    pub async fn score_windows(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        window: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        check_targets(tokens, targets, self.config().vocab_size)?;
        let mut scores = Scores::default();
        for part in tokens.chunks(window.max(1)) {
            let at = scores.argmax.len();
            self.reset();
            let targets = targets.map(|targets| &targets[at..at + part.len()]);
            let of_window = self.score(part, targets, &mut |done, _| progress(at + done, tokens.len())).await?;
            scores.argmax.extend(of_window.argmax);
            scores.nll.extend(of_window.nll);
        }
        self.reset();
        Ok(scores)
    }

    pub async fn explain(
        &mut self,
        tokens: &[u32],
        options: &ExplainOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<LayerExplanation>> {
        let depth = options.depth(self.config().layers.len());
        let (mut explained, mut residual, mut first) = (Vec::new(), Vec::new(), 0);
        for part in self.parts_mut() {
            if first >= depth {
                break;
            }
            let input = match first {
                0 => Input::Tokens(tokens),
                _ => Input::Residual(&residual, tokens.len()),
            };
            let here = match part {
                InPart::Cpu(s) => s.config().layers.len(),
                InPart::Gpu(s) => s.config().layers.len(),
            };
            let of_part = options.of(&(first..first + here));
            let here = here.min(depth - first);
            let progress = &mut |done, _| progress(first + done, depth);
            let (layers, left) = match part {
                InPart::Cpu(s) => s.explain(input, (&of_part, here), progress),
                InPart::Gpu(s) => s.explain(input, (&of_part, here), progress).await?,
            };
            explained.extend(layers.into_iter().map(|layer| LayerExplanation { layer: first + layer.layer, ..layer }));
            (residual, first) = (left, first + here);
        }
        Ok(explained)
    }

    pub async fn logits(&mut self) -> Result<Vec<f32>> {
        match &mut self.last {
            InPart::Cpu(s) => s.logits(),
            InPart::Gpu(s) => s.logits().await,
        }
    }

    pub fn has_logits(&self) -> bool {
        match &self.last {
            InPart::Cpu(s) => s.has_logits(),
            InPart::Gpu(s) => s.has_logits(),
        }
    }

    pub fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        match &mut self.last {
            InPart::Cpu(s) => s.begin_sampling(params, context),
            InPart::Gpu(s) => s.begin_sampling(params, context),
        }
    }

    pub async fn sample(&mut self) -> Result<u32> {
        match &mut self.last {
            InPart::Cpu(s) => s.sample(),
            InPart::Gpu(s) => s.sample().await,
        }
    }

    pub fn try_clone(&self) -> Result<Self> {
        let clone = |part: &InPart| -> Result<InPart> {
            Ok(match part {
                InPart::Cpu(s) => InPart::Cpu(Box::new(s.try_clone()?)),
                InPart::Gpu(s) => InPart::Gpu(Box::new(s.try_clone()?)),
            })
        };
        let before = self.before.iter().map(clone).collect::<Result<_>>()?;
        Ok(Self { model: self.model.clone(), before, last: clone(&self.last)? })
    }

    pub fn reset(&mut self) {
        self.parts_mut().for_each(|part| match part {
            InPart::Cpu(s) => s.reset(),
            InPart::Gpu(s) => s.reset(),
        });
    }

    /// As the whole model's: which part holds what cannot be seen in it.
    pub async fn state(&mut self) -> Result<StateData> {
        let mut states = Vec::new();
        for part in self.parts_mut() {
            states.push(match part {
                InPart::Cpu(s) => s.state()?,
                InPart::Gpu(s) => s.state().await?,
            });
        }
        Ok(StateData::join(states))
    }

    pub fn set_state(&mut self, state: &StateData) -> Result<()> {
        state.check(self.config())?;
        let states = state.split(self.model.clone().parts.iter().map(OnPart::config));
        self.parts_mut().zip(&states).try_for_each(|(part, state)| match part {
            InPart::Cpu(s) => s.set_state(state),
            InPart::Gpu(s) => s.set_state(state),
        })
    }
}
