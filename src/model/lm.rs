//! A language model on either backend, and sessions that read and write text with it.

use super::batch::{Batch, Inner as Together};
use super::cpu::{CpuBatch, CpuModel, CpuSession};
use super::explanation::{ExplainOptions, LayerExplanation};
use super::gpu::{GpuBatch, GpuModel, GpuSession};
#[cfg(not(target_arch = "wasm32"))]
use super::parts::Part;
use super::parts::{Natively, PartsBatch, PartsModel, PartsSession, Placed};
use super::span::{Input, Span};
use super::types::{Scores, StateData};
use super::{Checkpoint, ModelConfig};
use crate::checkpoint::synthetic::Outline;
use crate::error::{InputError, Result};
use crate::gpu::{Gpu, GpuOptions, Plan};
use crate::settings::{ModelOptions, SamplingParams};
use std::sync::Arc;

/// Where a model runs.
#[derive(Debug, Clone)]
pub enum Backend {
    /// The CPU twins, on all cores.
    Cpu,
    /// The WGSL kernels on a device.
    Gpu(Gpu),
}

impl Backend {
    /// What is fast here: the best hardware GPU; the CPU where there is none, or where it refuses a device. A software adapter is
    /// never taken. [`Gpu::new`] with [`GpuOptions::software`] off is the same choice with its reason; whether a GPU can hold a
    /// model shows when that is loaded.
    pub async fn auto() -> Self {
        let options = GpuOptions { software: false, ..GpuOptions::default() };
        Gpu::new(&options).await.map_or(Self::Cpu, Self::Gpu)
    }
}

#[derive(Clone)]
enum Model {
    Cpu(Arc<CpuModel>),
    Gpu(Arc<GpuModel>),
    Parts(Natively, Arc<PartsModel>),
}

/// A model with its weights on a backend, or on several. Cheap to clone: clones share the weights.
#[derive(Clone)]
pub struct LanguageModel(Model);

impl LanguageModel {
    /// Brings a checkpoint's weights to a backend, telling `progress` bytes done and in all.
    ///
    /// # Errors
    /// Non-finite weights, a chunk of 0, the adapter's limits, a full memory.
    pub async fn load(
        checkpoint: &Checkpoint,
        backend: &Backend,
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let (config, weights) = (checkpoint.config(), checkpoint.weights());
        let whole = Span::whole(config);
        Ok(Self(match backend {
            Backend::Cpu => Model::Cpu(Arc::new(CpuModel::load(config, &weights, &whole, options, progress)?)),
            Backend::Gpu(gpu) => {
                Model::Gpu(Arc::new(GpuModel::load(gpu, config, &weights, &whole, options, progress).await?))
            }
        }))
    }

    /// Brings a checkpoint's weights to several backends, of each as many layers as its part says, in their order: a model that is
    /// larger than one device. The embedding goes to the first part, the final norm and the head to the last one. Its sessions, batches
    /// and states are what they are on one backend; a text goes through one part after the other. A part that has all layers makes
    /// the same model as [`LanguageModel::load`].
    ///
    /// ```no_run
    /// use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelOptions, Part};
    ///
    /// # async fn load() -> Result<LanguageModel, mamba_wgpu::Error> {
    /// let checkpoint = Checkpoint::open("granite-4.0-h-small".as_ref())?;
    /// let layers = checkpoint.config().n_layer();
    /// // The last 12 on the GPU, those before them on the CPU.
    /// let parts = [
    ///     Part { backend: Backend::Cpu, layers: layers - 12 },
    ///     Part { backend: Backend::auto().await, layers: 12 },
    /// ];
    /// LanguageModel::load_parts(&checkpoint, &parts, ModelOptions::default(), &mut |_, _| {}).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Parts without layers, or that have not all of the model's together; and as [`LanguageModel::load`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn load_parts(
        checkpoint: &Checkpoint,
        parts: &[Part],
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        match parts {
            [Part { backend, layers }] if *layers == checkpoint.config().n_layer() => {
                Self::load(checkpoint, backend, options, progress).await
            }
            _ => {
                let model = PartsModel::load(checkpoint, parts, options, progress).await?;
                Ok(Self(Model::Parts(Natively, Arc::new(model))))
            }
        }
    }

    /// Where the layers are.
    pub fn placed(&self) -> Vec<Placed> {
        let whole = |backend, bytes| vec![Placed { backend, layers: 0..self.config().n_layer(), bytes }];
        match &self.0 {
            Model::Cpu(m) => whole(Backend::Cpu, m.bytes()),
            Model::Gpu(m) => whole(Backend::Gpu(m.gpu().clone()), m.bytes()),
            Model::Parts(_, m) => m.placed(),
        }
    }

    /// A model of random weights on a device, made there but for the small tensors: to measure with.
    ///
    /// # Errors
    /// As [`LanguageModel::load`].
    pub(crate) async fn synthetic(gpu: &Gpu, outline: &Outline, options: ModelOptions) -> Result<Self> {
        let model = GpuModel::synthetic(gpu, outline.config(), &outline.weights()?, options).await?;
        Ok(Self(Model::Gpu(Arc::new(model))))
    }

    pub fn config(&self) -> &ModelConfig {
        match &self.0 {
            Model::Cpu(m) => m.config(),
            Model::Gpu(m) => m.config(),
            Model::Parts(_, m) => m.config(),
        }
    }

    /// The device, for a model that is on one as a whole; [`LanguageModel::placed`] names several.
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.0 {
            Model::Cpu(_) | Model::Parts(..) => None,
            Model::Gpu(m) => Some(m.gpu()),
        }
    }

    /// Whether a prompt that was read had activations that f16 cannot hold (above 65,504), so that its text went on in
    /// f32: on a GPU that holds them in f16, or multiplies by matrices of it.
    pub fn beyond_f16(&self) -> bool {
        match &self.0 {
            Model::Cpu(_) => false,
            Model::Gpu(m) => m.beyond_f16(),
            Model::Parts(_, m) => m.beyond_f16(),
        }
    }

    /// A text at its begin: the zero state.
    ///
    /// # Errors
    /// A full GPU memory.
    pub fn session(&self) -> Result<Session> {
        Ok(Session(match &self.0 {
            Model::Cpu(m) => Inner::Cpu(Box::new(CpuSession::new(m))),
            Model::Gpu(m) => Inner::Gpu(Box::new(GpuSession::new(m)?)),
            Model::Parts(natively, m) => Inner::Parts(*natively, Box::new(PartsSession::new(m)?)),
        }))
    }

    /// How many texts a [`Batch`] may hold: as many as the device's limits a binding let their states be. Whether its memory has room
    /// for them shows when it is made.
    pub fn most_slots(&self) -> usize {
        match &self.0 {
            Model::Cpu(_) => MANY,
            Model::Gpu(m) => GpuBatch::most_slots(m).unwrap_or(MANY).min(MANY),
            Model::Parts(_, m) => m.most_slots().ok().flatten().unwrap_or(MANY).min(MANY),
        }
    }

    /// So many texts at their begin, to be advanced together.
    ///
    /// # Errors
    /// No slots, or more than [`LanguageModel::most_slots`]; a full GPU memory.
    pub fn batch(&self, slots: usize) -> Result<Batch> {
        let most = self.most_slots();
        if !(1..=most).contains(&slots) {
            return Err(InputError::Slots { slots, most }.into());
        }
        Ok(Batch(match &self.0 {
            Model::Cpu(m) => Together::Cpu(Box::new(CpuBatch::new(m, slots))),
            Model::Gpu(m) if GpuBatch::most_slots(m).is_some() => Together::Gpu(Box::new(GpuBatch::new(m, slots)?)),
            Model::Parts(natively, m) if m.most_slots().is_ok() => {
                Together::Parts(*natively, Box::new(PartsBatch::new(m, slots)?))
            }
            Model::Gpu(_) | Model::Parts(..) => {
                Together::Apart((0..slots).map(|_| self.session()).collect::<Result<_>>()?)
            }
        }))
    }
}

/// Texts at once, where nothing else limits them.
const MANY: usize = 65_536;

enum Inner {
    Cpu(Box<CpuSession>),
    Gpu(Box<GpuSession>),
    Parts(Natively, Box<PartsSession>),
}

/// One text: its recurrent state, the logits of its last token, and the sampling's memory.
pub struct Session(Inner);

impl Session {
    pub(super) fn config(&self) -> &ModelConfig {
        match &self.0 {
            Inner::Cpu(s) => s.config(),
            Inner::Gpu(s) => s.config(),
            Inner::Parts(_, s) => s.config(),
        }
    }

    /// Whether there are logits to draw from.
    pub(super) fn has_logits(&self) -> bool {
        match &self.0 {
            Inner::Cpu(s) => s.has_logits(),
            Inner::Gpu(s) => s.has_logits(),
            Inner::Parts(_, s) => s.has_logits(),
        }
    }

    /// Feeds a text by chunks through the parallel scan; the last token's logits are ready afterwards. `progress` gets
    /// tokens done and in all. Memory grows with the text only where there is attention.
    ///
    /// # Errors
    /// No tokens, a token out of range, or the device's.
    pub async fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(s) => s.prefill(tokens, progress),
            Inner::Gpu(s) => s.prefill(tokens, progress).await,
            Inner::Parts(_, s) => s.prefill(tokens, progress).await,
        }
    }

    /// Feeds one token through the recurrent step; its logits are ready afterwards.
    pub async fn step(&mut self, token: u32) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(s) => s.step(token),
            Inner::Gpu(s) => s.step(token).await,
            Inner::Parts(_, s) => s.step(token).await,
        }
    }

    /// What of `tokens` the layers see: [`crate::explain::explain`], which has checked the arguments and names blocks in
    /// `options.layers`. The session must be at the
    /// begin of a text; it is of no use afterwards.
    pub(crate) async fn explain(
        &mut self,
        tokens: &[u32],
        options: &ExplainOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<LayerExplanation>> {
        let depth = options.depth(self.config().layers.len());
        match &mut self.0 {
            Inner::Cpu(s) => Ok(s.explain(Input::Tokens(tokens), (options, depth), progress).0),
            Inner::Gpu(s) => Ok(s.explain(Input::Tokens(tokens), (options, depth), progress).await?.0),
            Inner::Parts(_, s) => s.explain(tokens, options, progress).await,
        }
    }

    /// The plan by which a GPU computes a token, or the first chunk of a prompt of more; `None` on a CPU and on several backends. The state is of no use once
    /// it has run.
    pub(crate) fn plan_of(&mut self, tokens: usize) -> Result<Option<&Plan>> {
        match &mut self.0 {
            Inner::Cpu(_) | Inner::Parts(..) => Ok(None),
            Inner::Gpu(s) => s.plan_of(tokens).map(Some),
        }
    }

    /// The last token's logits (vocab_size).
    ///
    /// # Errors
    /// `NoTokens` before any token was fed.
    pub async fn logits(&mut self) -> Result<Vec<f32>> {
        match &mut self.0 {
            Inner::Cpu(s) => s.logits(),
            Inner::Gpu(s) => s.logits().await,
            Inner::Parts(_, s) => s.logits().await,
        }
    }

    /// As [`Session::prefill`], with every position's most likely successor and, where targets are given (one a
    /// token), the -log p (natural) of each.
    pub async fn score(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        match &mut self.0 {
            Inner::Cpu(s) => s.score(tokens, targets, progress),
            Inner::Gpu(s) => s.score(tokens, targets, progress).await,
            Inner::Parts(_, s) => s.score(tokens, targets, progress).await,
        }
    }

    /// [`Session::score`] of windows of `window` tokens, each a text by itself from the zero state; a GPU takes several of them
    /// through at once. The session is at the begin of a text afterwards, without logits.
    ///
    /// # Errors
    /// As [`Session::score`]; a window of 0 tokens is one of 1.
    pub async fn score_windows(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        window: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        match &mut self.0 {
            Inner::Cpu(s) => s.score_windows(tokens, targets, window, progress),
            Inner::Gpu(s) => s.score_windows(tokens, targets, window, progress).await,
            Inner::Parts(_, s) => s.score_windows(tokens, targets, window, progress).await,
        }
    }

    /// Sets how [`Session::sample`] chooses. `context` is the text so far: its tokens count as seen for the repetition
    /// penalty, and its length is the count of the first random number, so that a text that was interrupted goes on with
    /// the numbers that it would have had.
    pub fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(s) => s.begin_sampling(params, context),
            Inner::Gpu(s) => s.begin_sampling(params, context),
            Inner::Parts(_, s) => s.begin_sampling(params, context),
        }
    }

    /// A token chosen from the last logits, which then counts as seen. The state does not move: feed it by
    /// [`Session::step`].
    ///
    /// # Errors
    /// Logits with NaN.
    pub async fn sample(&mut self) -> Result<u32> {
        match &mut self.0 {
            Inner::Cpu(s) => s.sample(),
            Inner::Gpu(s) => s.sample().await,
            Inner::Parts(_, s) => s.sample().await,
        }
    }

    /// Another session at the same point of the text; both go on alone. Sampling begins anew in the clone.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self(match &self.0 {
            Inner::Cpu(s) => Inner::Cpu(Box::new(s.try_clone()?)),
            Inner::Gpu(s) => Inner::Gpu(Box::new(s.try_clone()?)),
            Inner::Parts(natively, s) => Inner::Parts(*natively, Box::new(s.try_clone()?)),
        }))
    }

    /// Back to the begin of a text, with no logits and no sampling.
    pub fn reset(&mut self) {
        match &mut self.0 {
            Inner::Cpu(s) => s.reset(),
            Inner::Gpu(s) => s.reset(),
            Inner::Parts(_, s) => s.reset(),
        }
    }

    /// The recurrent state on the host.
    pub async fn state(&mut self) -> Result<StateData> {
        match &mut self.0 {
            Inner::Cpu(s) => s.state(),
            Inner::Gpu(s) => s.state().await,
            Inner::Parts(_, s) => s.state().await,
        }
    }

    /// Goes on from a state; the logits are there after the next token.
    ///
    /// # Errors
    /// A state of another shape.
    pub fn set_state(&mut self, state: &StateData) -> Result<()> {
        match &mut self.0 {
            Inner::Cpu(s) => s.set_state(state),
            Inner::Gpu(s) => s.set_state(state),
            Inner::Parts(_, s) => s.set_state(state),
        }
    }
}
