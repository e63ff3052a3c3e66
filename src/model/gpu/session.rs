//! One text on the device.

use super::buffers::{Memory, Plans, ScoreBuffers, Workspace, SCORE_ROWS};
use super::pool::Held;
use super::GpuModel;
use crate::error::{InputError, Result};
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Plan, PlanBuilder, Readback, Tensor};
use crate::kernels::{self, SampleBuffers};
use crate::model::blocks::device::Way;
use crate::model::span::Input;
use crate::model::types::{check_tokens, StateData};
use crate::model::ModelConfig;
use crate::settings::SamplingParams;
use std::sync::Arc;

/// Plans that are kept: of the last lengths of chunks.
const PLANS: usize = 6;

/// What a plan ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing: a chunk in the middle of a prompt.
    None,
    /// The last token's logits.
    Last,
    /// Every token's most likely successor, and with targets their -log p.
    Score { nll: bool },
}

/// A bit a token of the vocabulary: those of a text.
pub(super) fn seen(text: &[u32], vocab_size: usize) -> Vec<u32> {
    let mut seen = vec![0u32; vocab_size.div_ceil(32)];
    for &token in text.iter().filter(|&&t| (t as usize) < vocab_size) {
        seen[token as usize / 32] |= 1 << (token % 32);
    }
    seen
}

/// The text's state and logits before a step ahead, should the caller go another way.
struct Before {
    memory: Memory,
    logits: Tensor,
    /// Tokens whose keys and values there were.
    tokens: usize,
}

/// One text's state on the device, with the buffers and plans to go on from it.
pub struct GpuSession {
    pub(super) model: Arc<GpuModel>,
    pub(super) memory: Memory,
    pub(super) logits: Tensor, // (vocab_size), the last token's
    pub(super) has_logits: bool,
    sampling: SampleBuffers,
    sample_plan: Option<Plan>,
    sampled: Readback,
    logits_back: Readback,
    /// Made when first needed, where another part of the model goes on.
    pub(super) residual_back: Option<Readback>,
    decode: Option<(Workspace, Plan)>,
    /// The token whose step [`GpuSession::sample`] has submitted already, before the host had even read which one it is:
    /// so the device computes while the token travels and the host makes text of it.
    ahead: Option<u32>,
    before: Option<Before>,
    pub(super) prefill: Option<Workspace>,
    /// The text has had activations beyond f16: it does without.
    wide: bool,
    beyond: Readback,
    pub(super) score: Option<ScoreBuffers>,
    /// States of texts that are scored together, and of how many.
    pub(super) together: Option<(usize, Memory)>,
    pub(super) plans: Plans<Key>,
}

/// Which plan is a chunk's: tokens, the texts that they are of, and what comes at the end.
pub(super) type Key = (usize, usize, Head);

impl GpuSession {
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// A text at its begin.
    pub fn new(model: &Arc<GpuModel>) -> Result<Self> {
        let (gpu, vocab_size) = (&model.gpu, model.logits());
        let session = Self {
            memory: Memory::of_texts(model, 1)?,
            logits: Tensor::zeros(gpu, "logits", vocab_size)?,
            has_logits: false,
            sampling: SampleBuffers::new(gpu, vocab_size)?,
            sample_plan: None,
            sampled: Readback::new(gpu, "sampled token", 2),
            logits_back: Readback::new(gpu, "logits", vocab_size),
            residual_back: None,
            decode: None,
            ahead: None,
            before: None,
            prefill: None,
            wide: false,
            beyond: Readback::new(gpu, "beyond f16", 1),
            score: None,
            together: None,
            plans: Plans::new(PLANS),
            model: model.clone(),
        };
        gpu.check()?;
        Ok(session)
    }

    /// Makes the chunk's workspace large enough for `l` tokens, at most a chunk.
    pub(super) fn make_room(&mut self, l: usize) -> Result<()> {
        if self.prefill.as_ref().is_none_or(|w| w.capacity < l) {
            // Whoever runs one full chunk will run more; a short prompt takes no more than it needs.
            let capacity = l.next_power_of_two().min(self.model.chunk());
            self.plans.clear();
            self.prefill = None;
            self.score = None;
            let numbers = match self.wide {
                true => (NumberFormat::F32, false),
                false => (self.model.activations(), self.model.uses_f16()),
            };
            self.prefill = Some(Workspace::new(&self.model, capacity.max(l), Some(self.model.scan()), numbers)?);
            self.model.gpu.check()?;
        }
        Ok(())
    }

    /// Tokens that attention keeps something of.
    fn tokens(&self) -> usize {
        self.memory.held.first().map_or(0, Held::tokens)
    }

    /// Makes room for keys and values of `l` more tokens. Plans are made anew where those that there are bind other tensors.
    pub(super) fn reserve(&mut self, l: usize) -> Result<()> {
        if let Some(held) = self.memory.text() {
            if held.reserve(&self.model.gpu, l)? {
                self.plans.clear();
                self.decode = None;
            }
        }
        Ok(())
    }

    /// So many more tokens are on their way.
    fn advance(&mut self, l: usize) {
        if let Some(held) = self.memory.text() {
            held.set_tokens(held.tokens() + l);
        }
    }

    /// Tells a step's or a chunk's kernels where its tokens stand.
    fn place(&self, w: &Workspace) {
        if let Some(held) = self.memory.held.first() {
            w.texts.write(&self.model.gpu, 0, &[0, 0, held.tokens() as u32]);
        }
    }

    /// The plan for a chunk.
    fn plan_for(&mut self, key: Key) -> Result<&Plan> {
        let (l, texts, head) = key;
        let Self { plans, model, prefill, together, memory, logits, score, .. } = self;
        plans.get(key, || {
            let mut builder = PlanBuilder::new(&model.gpu);
            let w = prefill.as_ref().ok_or(InputError::NoTokens)?;
            let memory = match together {
                Some((_, memory)) if texts > 1 => memory,
                _ => memory,
            };
            model.layers(&mut builder, (w, memory), l, Way::Texts(texts))?;
            match (head, score) {
                (Head::Last, _) => model.head(&mut builder, w, (l - 1, 1), logits)?,
                (Head::Score { nll }, Some(s)) => {
                    let vocab_size = model.config.vocab_size;
                    for row0 in (0..l).step_by(SCORE_ROWS) {
                        let rows = SCORE_ROWS.min(l - row0);
                        model.head(&mut builder, w, (row0, rows), &s.logits)?;
                        let view = |t: &Tensor| t.slice(row0, rows);
                        kernels::argmax(&mut builder, &s.logits, &view(&s.argmax), rows, vocab_size)?;
                        if nll {
                            let (targets, nll) = (view(&s.targets), view(&s.nll));
                            kernels::token_nll(&mut builder, &s.logits, &targets, &nll, rows, vocab_size)?;
                        }
                    }
                }
                _ => {}
            }
            Ok(builder.finish()?)
        })
    }

    /// Feeds a text by chunks through the parallel kernels; the last token's logits are ready afterwards.
    ///
    /// # Errors
    /// No tokens, a token out of range, or the device's.
    pub async fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        self.check_tokens(tokens)?;
        self.go_back();
        let chunk = self.model.chunk();
        let room = chunk.min(tokens.len());
        self.make_room(room)?;
        for (i, part) in tokens.chunks(chunk).enumerate() {
            let done = i * chunk + part.len();
            let head = if done == tokens.len() { Head::Last } else { Head::None };
            self.read_chunk(Input::Tokens(part), room, head).await?;
            progress(done, tokens.len());
        }
        self.has_logits = true;
        Ok(())
    }

    /// A chunk of the text, again without f16 where it is beyond that. `room` as [`GpuSession::make_room`] has it.
    pub(super) async fn read_chunk(&mut self, part: Input<'_>, room: usize, head: Head) -> Result<()> {
        while !self.chunk(part, 1, None, head).await? {
            self.leave_f16(room)?;
        }
        Ok(())
    }

    /// A chunk of so many texts through the parallel kernels, with `targets` for [`Head::Score`]. False where values were beyond f16:
    /// what came of it is wrong then, and [`GpuSession::leave_f16`] takes it back.
    pub(super) async fn chunk(
        &mut self,
        part: Input<'_>,
        texts: usize,
        targets: Option<&[u32]>,
        head: Head,
    ) -> Result<bool> {
        let gpu = self.model.gpu.clone();
        self.reserve(part.len())?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let beyond = self.prefill.as_ref().and_then(|w| w.beyond.clone());
        if beyond.is_some() {
            self.keep(&mut encoder)?;
        }
        if let (Some((_, memory)), true) = (&self.together, texts > 1) {
            memory.clear(&mut encoder);
        }
        if let Some(w) = &self.prefill {
            w.write(&gpu, part);
            self.place(w);
        }
        if let (Some(targets), Some(s)) = (targets, &self.score) {
            s.targets.write(&gpu, 0, targets);
        }
        self.plan_for((part.len(), texts, head))?.record(&mut encoder);
        if let (Head::Score { .. }, Some(s)) = (head, &self.score) {
            let vocab_size = self.model.config.vocab_size;
            let last = s.logits.slice((part.len() - 1) % SCORE_ROWS * vocab_size, vocab_size);
            last.copy_to(&mut encoder, &self.logits);
        }
        let Some(beyond) = beyond else {
            gpu.submit_and_wait(encoder.finish()).await?;
            self.advance(part.len());
            return Ok(true);
        };
        // One wait, as without.
        self.beyond.copy_from(&mut encoder, &beyond);
        let submission = gpu.submit([encoder.finish()]);
        let flag = self.beyond.read_after::<u32>(&gpu, 1, Some(submission)).await?;
        let good = flag == [0];
        if good {
            self.advance(part.len());
        }
        Ok(good)
    }

    /// Goes back to before the last chunk; from there on the text does without f16. `room` as [`GpuSession::make_room`]
    /// has it.
    pub(super) fn leave_f16(&mut self, room: usize) -> Result<()> {
        self.model.leave_f16();
        self.ahead = Some(SampleBuffers::NOT_A_NUMBER);
        self.go_back();
        self.wide = true;
        self.prefill = None;
        self.make_room(room)
    }

    /// One token by the recurrent kernels. Returns once it is submitted.
    pub async fn step(&mut self, token: u32) -> Result<()> {
        self.check_tokens(&[token])?;
        let gpu = self.model.gpu.clone();
        if self.ahead == Some(token) {
            self.ahead = None; // done already
            return Ok(gpu.check()?);
        }
        self.go_back();
        let encoder = self.record_step(Input::Tokens(&[token]))?;
        gpu.submit([encoder.finish()]);
        self.has_logits = true;
        Ok(gpu.check()?)
    }

    /// Records a step of a token, which counts as read then.
    pub(super) fn record_step(&mut self, token: Input<'_>) -> Result<wgpu::CommandEncoder> {
        self.reserve(1)?;
        self.decode()?;
        let gpu = &self.model.gpu;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        if let Some((w, plan)) = &self.decode {
            w.write(gpu, token);
            self.place(w);
            plan.record(&mut encoder);
        }
        self.advance(1);
        Ok(encoder)
    }

    /// What a step has left in the residual stream, (d_model).
    pub(super) fn step_residual(&self) -> Option<&Tensor> {
        self.decode.as_ref().map(|(w, _)| &w.residual)
    }

    /// The decode step's workspace and plan, made when first needed.
    fn decode(&mut self) -> Result<&(Workspace, Plan)> {
        if self.decode.is_none() {
            let gpu = &self.model.gpu;
            let step = self.model.layers.iter().all(|layer| layer.steps(gpu));
            let scan = (!step).then(|| self.model.scan());
            let w = Workspace::new(&self.model, 1, scan, (NumberFormat::F32, false))?;
            let mut builder = PlanBuilder::new(gpu);
            if self.model.fuses_the_step() {
                self.model.fused_step(&mut builder, &w, &|layer| self.memory.layer(layer), &self.logits)?;
            } else {
                let way = if step { Way::Step(&w.texts) } else { Way::Texts(1) };
                self.model.layers(&mut builder, (&w, &self.memory), 1, way)?;
                self.model.head(&mut builder, &w, (0, 1), &self.logits)?;
            }
            let plan = builder.finish()?;
            self.decode = Some((w, plan));
        }
        Ok(self.decode.as_ref().ok_or(InputError::NoTokens)?)
    }

    /// Submits the step of the token in `next`, keeping what was before it.
    fn go_ahead(&mut self) -> Result<()> {
        let gpu = self.model.gpu.clone();
        self.reserve(1)?;
        self.decode()?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.keep(&mut encoder)?;
        if let Some((w, plan)) = &self.decode {
            self.place(w);
            self.sampling.next.copy_to(&mut encoder, &w.tokens);
            plan.record(&mut encoder);
            gpu.submit([encoder.finish()]);
        }
        self.advance(1);
        Ok(())
    }

    /// Records the copy of state and logits to `before`.
    fn keep(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if self.before.is_none() {
            let logits = Tensor::zeros(&self.model.gpu, "logits before", self.model.logits())?;
            let memory = Memory::new(&self.model.gpu, &self.model.config.layers, 1)?;
            self.before = Some(Before { memory, logits, tokens: 0 });
        }
        let tokens = self.tokens();
        if let Some(before) = &mut self.before {
            before.tokens = tokens;
            self.memory.copy_to(encoder, &before.memory);
            self.logits.copy_to(encoder, &before.logits);
        }
        Ok(())
    }

    /// Takes back a step ahead that the caller did not ask for.
    pub(super) fn go_back(&mut self) {
        if let (Some(_), Some(before)) = (self.ahead.take(), &self.before) {
            let gpu = &self.model.gpu;
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            before.memory.copy_to(&mut encoder, &self.memory);
            before.logits.copy_to(&mut encoder, &self.logits);
            gpu.submit([encoder.finish()]);
            // Keys and values of later tokens are written over.
            if let Some(held) = self.memory.text() {
                held.set_tokens(before.tokens);
            }
        }
    }

    /// The plan of a token, or of a prompt of more (in one chunk at most): for measuring. The state is of no use once it has run.
    pub(crate) fn plan_of(&mut self, tokens: usize) -> Result<&Plan> {
        self.go_back();
        self.reserve(tokens.min(self.model.chunk()))?;
        if tokens == 1 {
            return Ok(&self.decode()?.1);
        }
        let l = tokens.min(self.model.chunk());
        self.make_room(l)?;
        self.plan_for((l, 1, Head::Last))
    }

    /// The last token's logits (vocab_size).
    pub async fn logits(&mut self) -> Result<Vec<f32>> {
        self.need_logits()?;
        self.go_back();
        let gpu = &self.model.gpu;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.logits_back.copy_from(&mut encoder, &self.logits);
        gpu.submit([encoder.finish()]);
        Ok(self.logits_back.read(gpu, self.model.config.vocab_size).await?)
    }

    /// Sets how [`GpuSession::sample`] chooses; `context` is the text so far: seen, for the repetition penalty, and as long
    /// as the count of the first random number.
    pub fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        params.validate()?;
        self.go_back();
        let vocab_size = self.model.config.vocab_size;
        let gpu = &self.model.gpu;
        self.sampling.seen.write(gpu, 0, &seen(context, vocab_size));
        self.sampling.sampled.write(gpu, 0, &[context.len() as u32, 0]);
        let mut builder = PlanBuilder::new(gpu);
        kernels::sample(&mut builder, &self.logits, &self.sampling, vocab_size, params)?;
        self.sample_plan = Some(builder.finish()?);
        Ok(())
    }

    /// A token from the last logits. For the caller the state does not move; the device goes on as if
    /// [`GpuSession::step`] with this token followed, as it nearly always does.
    pub async fn sample(&mut self) -> Result<u32> {
        self.need_logits()?;
        self.go_back();
        if self.sample_plan.is_none() {
            self.begin_sampling(&SamplingParams::default(), &[])?;
        }
        let gpu = self.model.gpu.clone();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        if let Some(plan) = &self.sample_plan {
            plan.record(&mut encoder);
        }
        self.sampled.copy_from(&mut encoder, &self.sampling.sampled);
        let submission = gpu.submit([encoder.finish()]);
        // Where another part begins, it needs the token first.
        let goes_ahead = self.model.embedding.is_some();
        if goes_ahead {
            self.go_ahead()?;
            // Also where no token was drawn: the step ahead has to be taken back.
            self.ahead = Some(SampleBuffers::NOT_A_NUMBER);
        }
        let drawn = self.sampled.read_after::<u32>(&gpu, 2, Some(submission)).await?;
        match drawn.get(1) {
            Some(&token) if token != SampleBuffers::NOT_A_NUMBER => {
                self.ahead = Some(token).filter(|_| goes_ahead);
                Ok(token)
            }
            _ => Err(InputError::NoTokenToChoose.into()),
        }
    }

    /// Another session at the same point of the text. Sampling begins anew there.
    pub fn try_clone(&self) -> Result<Self> {
        let mut clone = Self::new(&self.model)?;
        let gpu = &self.model.gpu;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let (memory, logits) = match (&self.ahead, &self.before) {
            (Some(_), Some(before)) => (&before.memory, &before.logits),
            _ => (&self.memory, &self.logits),
        };
        memory.copy_to(&mut encoder, &clone.memory);
        if let (Some(held), Some(to)) = (self.memory.held.first(), clone.memory.text()) {
            let ahead = self.before.as_ref().filter(|_| self.ahead.is_some());
            held.share(gpu, to, ahead.map_or(held.tokens(), |before| before.tokens));
        }
        logits.copy_to(&mut encoder, &clone.logits);
        gpu.submit([encoder.finish()]);
        clone.has_logits = self.has_logits;
        clone.wide = self.wide;
        gpu.check()?;
        Ok(clone)
    }

    /// Back to the begin of a text.
    pub fn reset(&mut self) {
        let gpu = &self.model.gpu;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.memory.clear(&mut encoder);
        gpu.submit([encoder.finish()]);
        if let Some(held) = self.memory.text() {
            held.clear();
        }
        self.has_logits = false;
        self.ahead = None;
        self.sample_plan = None;
        if std::mem::take(&mut self.wide) {
            self.prefill = None; // another text may do with f16
        }
    }

    /// The state on the host.
    pub async fn state(&mut self) -> Result<StateData> {
        self.go_back();
        self.memory.read(&self.model.gpu).await
    }

    /// Goes on from a state; the logits are there after the next token.
    pub fn set_state(&mut self, state: &StateData) -> Result<()> {
        state.check(&self.model.config)?;
        self.ahead = None;
        self.memory.write(&self.model.gpu, state);
        if let Some(held) = self.memory.text() {
            if held.write(&self.model.gpu, &state.pages)? {
                self.plans.clear();
                self.decode = None;
            }
        }
        self.has_logits = false;
        Ok(())
    }

    /// Takes up another text, whose state the caller has written; `wide` if it has had activations beyond f16.
    pub(super) fn take_up(&mut self, wide: bool) {
        self.ahead = None;
        self.has_logits = false;
        if self.wide != wide {
            self.wide = wide;
            self.prefill = None;
        }
    }

    pub(in crate::model) fn has_logits(&self) -> bool {
        self.has_logits
    }

    /// Whether the text has had activations beyond f16.
    pub(super) fn is_wide(&self) -> bool {
        self.wide
    }

    fn need_logits(&self) -> Result<(), InputError> {
        if self.has_logits {
            Ok(())
        } else {
            Err(InputError::NoTokens)
        }
    }

    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<(), InputError> {
        check_tokens(tokens, self.model.config.vocab_size)
    }
}
