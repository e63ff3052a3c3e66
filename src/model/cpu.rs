//! The CPU backend: the twins of [`crate::reference`] in f32 over all threads, where no GPU is.

mod batch;
mod explain;

pub use batch::CpuBatch;
use std::sync::Arc;

use super::blocks::cpu::{Layer, Workspaces};
use super::blocks::host::{HostTensor, LayerState, Mode, Stream};
use super::blocks::{Role, Shape, Weights as LayerWeights};
use super::span::{Input, Span, Wanted};
use super::types::{check_targets, check_tokens, Scores, StateData};
use super::{ModelConfig, ModelWeights, Stacked, TensorView};
use crate::error::InputError;
use crate::reference::{
    argmax, decay_rate, embedding, matmul, matvec, par, rms_norm, sample, token_nll, Epilogue, Linear, Quant, Quantised,
};
use crate::settings::{ModelOptions, SamplingParams};
use crate::Result;

/// Rows of logits that scoring holds at once.
const SCORE_ROWS: usize = 64;

/// A model's weights, or those of a part of its layers, shared by its sessions: in f32, or quantised as the checkpoint has them.
/// Cheap to clone.
#[derive(Clone)]
pub struct CpuModel {
    weights: Arc<Weights>,
    options: ModelOptions,
}

struct Weights {
    /// With the layers that are here.
    config: ModelConfig,
    /// (vocab_size, d_model); `None`: another part begins.
    embedding: Option<Arc<HostTensor>>,
    layers: Vec<Layer>,
    /// `None`: another part ends.
    end: Option<End>,
    /// Of all of them, in memory.
    bytes: u64,
}

/// What comes after the layers.
struct End {
    norm_f: HostTensor,    // (d_model)
    head: Arc<HostTensor>, // (vocab_size, d_model); the embedding, where they are tied
}

impl CpuModel {
    /// Converts the weights of a span of the model to f32; `progress` hears of the bytes of the checkpoint read so far and of all.
    ///
    /// # Errors
    /// A weight that is not finite; a chunk of 0.
    pub fn load(
        config: &ModelConfig,
        weights: &ModelWeights<'_>,
        span: &Span,
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        if options.chunk == 0 {
            return Err(InputError::ZeroChunk.into());
        }
        let (config, total) = (span.config(config), span.bytes(weights));
        let (mut done, mut bytes) = (0, 0);
        let mut read = |role: Role, factor: f32, tensors: &[&TensorView<'_>]| -> Result<HostTensor> {
            let stacked = Stacked::new(tensors);
            let mut matrix = match (role, stacked.dtype.quant()) {
                (Role::Matrix, Some(quant)) => HostTensor::Quantised(quantised(&stacked, quant)?),
                (Role::ALog, _) => HostTensor::Plain(stacked.to_f32()?.into_iter().map(decay_rate).collect()),
                _ => HostTensor::Plain(stacked.to_f32()?),
            };
            if let (HostTensor::Plain(values), true) = (&mut matrix, factor != 1.0) {
                values.iter_mut().for_each(|x| *x *= factor);
            }
            bytes += matrix.bytes();
            for tensor in tensors {
                done += tensor.bytes();
                progress(done, total);
            }
            Ok(matrix)
        };
        let embedding = span.embedding(weights).map(|embedding| read(Role::Matrix, 1.0, &[embedding])).transpose()?;
        let embedding = embedding.map(Arc::new);
        let layers = config.layers.iter().zip(&weights.layers[span.blocks.clone()]);
        let layers = layers.map(|(shape, w)| layer(shape, w, &mut read)).collect::<Result<Vec<_>>>()?;
        let end = match span.end(weights) {
            Some((norm_f, lm_head)) => {
                let norm_f = read(Role::Other, config.head_scale, &[norm_f])?;
                let own = lm_head.map(|head| read(Role::Matrix, 1.0, &[head])).transpose()?.map(Arc::new);
                own.or_else(|| embedding.clone()).map(|head| End { norm_f, head })
            }
            None => None,
        };
        let embedding = embedding.filter(|_| span.begins);
        let weights = Weights { config, embedding, layers, end, bytes };
        Ok(Self { weights: Arc::new(weights), options })
    }

    /// The model's dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    /// Bytes of the weights, as they are in memory.
    pub fn bytes(&self) -> u64 {
        self.weights.bytes
    }

    /// The prefill's chunk.
    pub fn chunk(&self) -> usize {
        self.options.chunk
    }

    /// Logits of a token: none where another part ends.
    fn logits(&self) -> usize {
        self.weights.end.as_ref().map_or(0, |_| self.weights.config.vocab_size)
    }

    /// The residual stream of l rows, (l, d_model), that another part goes on with; nothing where there is none.
    fn left(&self, work: &Workspace, l: usize) -> Vec<f32> {
        match self.weights.end {
            Some(_) => Vec::new(),
            None => work.residual[..l * self.weights.config.d_model].to_vec(),
        }
    }
}

/// A copy of a quantised matrix.
fn quantised(matrix: &Stacked<'_, '_>, quant: Quant) -> Result<Quantised> {
    let (packed, scales) = matrix.quantised_rows(0..matrix.n())?;
    Ok(Quantised { quant, k: matrix.k(), packed: packed.into_owned(), scales: scales.into_owned() })
}

/// Reads a parameter, of a role and times a factor, from the tensors that it lies in.
type Read<'r> = dyn FnMut(Role, f32, &[&TensorView<'_>]) -> Result<HostTensor> + 'r;

fn layer(shape: &Shape, w: &LayerWeights<TensorView<'_>>, read: &mut Read<'_>) -> Result<Layer> {
    let params = shape.params();
    let w = w.join(&mut |name, views| read(Role::of(&params, name), shape.factor(name), views))?;
    Ok(Layer::new(*shape, w))
}

/// A sequence in progress: its state, the logits of its last position and the sampler's memory.
pub struct CpuSession {
    model: CpuModel,
    state: StateData,
    work: Workspace,
    logits: Vec<f32>, // (vocab_size)
    /// Whether `logits` are those of the state.
    ready: bool,
    params: SamplingParams,
    /// A bit a token that the repetition penalty applies to.
    seen: Vec<u32>,
    /// The next random number's count: the text's length at `begin_sampling`, and the tokens drawn since.
    sampled: u32,
}

/// Activations of up to `rows` positions; grown to the largest chunk and kept, so that decoding allocates nothing.
#[derive(Default)]
struct Workspace {
    rows: usize,
    residual: Vec<f32>, // (rows, d_model)
    hidden: Vec<f32>,   // (rows, d_model)
    inside: Workspaces,
}

impl Workspace {
    fn grow(&mut self, rows: usize, d_model: usize) {
        if rows > self.rows {
            self.rows = rows;
            self.residual.resize(rows * d_model, 0.0);
            self.hidden.resize(rows * d_model, 0.0);
        }
    }
}

/// Each layer's part of the state.
fn parts<'a>(state: &'a mut StateData, layers: &'a [Layer]) -> impl Iterator<Item = LayerState<'a>> {
    let (mut conv, mut ssm) = (&mut state.conv[..], &mut state.ssm[..]);
    let position = state.pages.tokens();
    let mut pages = state.pages.layers_mut().iter_mut();
    layers.iter().map(move |layer| {
        let take = |rest: &mut &'a mut [f32], elements| {
            let (part, later) = std::mem::take(rest).split_at_mut(elements);
            *rest = later;
            part
        };
        let [of_conv, of_ssm] = layer.states;
        let pages = layer.shape.keys_values().and_then(|_| pages.next());
        LayerState { conv: take(&mut conv, of_conv), ssm: take(&mut ssm, of_ssm), pages, position }
    })
}

impl CpuSession {
    /// A new sequence, with a state of zeros.
    pub fn new(model: &CpuModel) -> Self {
        let config = model.config();
        Self {
            model: model.clone(),
            state: StateData::zeros(config),
            work: Workspace::default(),
            logits: vec![0.0; model.logits()],
            ready: false,
            params: SamplingParams::default(),
            seen: vec![0; config.vocab_size.div_ceil(32)],
            sampled: 0,
        }
    }

    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// Runs the model over `tokens`, chunk by chunk; `progress` hears of the positions done and of all.
    ///
    /// # Errors
    /// No tokens, or one that is out of range; the state is then unchanged.
    pub fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        check_tokens(tokens, self.model.config().vocab_size)?;
        let mut done = 0;
        for chunk in tokens.chunks(self.model.options.chunk) {
            self.forward(Input::Tokens(chunk), Mode::Prefill);
            done += chunk.len();
            if done == tokens.len() {
                self.last_logits(chunk.len());
            }
            progress(done, tokens.len());
        }
        Ok(())
    }

    /// Runs the model over one token by the recurrent step.
    ///
    /// # Errors
    /// The token is out of range; the state is then unchanged.
    pub fn step(&mut self, token: u32) -> Result<()> {
        check_tokens(&[token], self.model.config().vocab_size)?;
        self.forward(Input::Tokens(&[token]), Mode::Decode);
        self.last_logits(1);
        Ok(())
    }

    /// The logits (vocab_size) of the last position.
    ///
    /// # Errors
    /// No token has been run since the session began, was reset or was given a state.
    pub fn logits(&self) -> Result<Vec<f32>> {
        self.check_ready()?;
        Ok(self.logits.clone())
    }

    /// Runs the model over `tokens` as [`Self::prefill`] does and says of each position what it predicts and, where there
    /// are targets (the token that should follow each), how well.
    ///
    /// # Errors
    /// No tokens, tokens or targets out of range, more or fewer targets than tokens; the state is then unchanged. Logits
    /// that are NaN.
    pub fn score(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        check_targets(tokens, targets, self.model.config().vocab_size)?;
        let mut scores = Scores::default();
        for chunk in tokens.chunks(self.model.options.chunk) {
            let done = scores.argmax.len();
            self.forward(Input::Tokens(chunk), Mode::Prefill);
            self.score_rows(targets.map(|targets| &targets[done..done + chunk.len()]), chunk.len(), &mut scores)?;
            progress(scores.argmax.len(), tokens.len());
        }
        Ok(scores)
    }

    /// What the last chunk, of l positions, predicts.
    fn score_rows(&mut self, targets: Option<&[u32]>, l: usize, scores: &mut Scores) -> Result<()> {
        let vocab_size = self.model.config().vocab_size;
        let mut logits = vec![0.0; SCORE_ROWS.min(l) * vocab_size];
        let mut rows = vec![(None, 0.0); SCORE_ROWS];
        for start in (0..l).step_by(SCORE_ROWS) {
            let l = SCORE_ROWS.min(l - start);
            let logits = &mut logits[..l * vocab_size];
            self.head(logits, start, l);
            par::chunks_mut(&mut rows[..l], 1, |i, row| {
                let logits = &logits[i * vocab_size..(i + 1) * vocab_size];
                let nll = targets.map_or(0.0, |targets| token_nll(logits, targets[start + i]));
                row[0] = (argmax(logits), nll);
            });
            for &(argmax, nll) in &rows[..l] {
                let argmax = argmax.ok_or(InputError::NoTokenToChoose)?;
                scores.argmax.push(argmax as u32);
                if targets.is_some() {
                    scores.nll.push(nll);
                }
            }
            self.logits.copy_from_slice(&logits[(l - 1) * vocab_size..]);
        }
        self.ready = true;
        Ok(())
    }

    /// A chunk, or a step of one position, through the layers that are here. What they leave in the residual stream, (l, d_model),
    /// where another part goes on.
    ///
    /// # Errors
    /// Logits that are NaN, where they are scored.
    pub fn pass(&mut self, input: Input<'_>, mode: Mode, wanted: Wanted<'_>) -> Result<Vec<f32>> {
        self.forward(input, mode);
        match wanted {
            Wanted::Nothing => {}
            Wanted::Last => self.last_logits(input.len()),
            Wanted::Scores { targets, into } => self.score_rows(targets, input.len(), into)?,
        }
        Ok(self.model.left(&self.work, input.len()))
    }

    /// [`Self::score`] of windows of so many tokens, each a text by itself. The session is at the begin of a text afterwards.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn score_windows(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        window: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        check_targets(tokens, targets, self.model.config().vocab_size)?;
        let mut scores = Scores::default();
        for part in tokens.chunks(window.max(1)) {
            let at = scores.argmax.len();
            self.reset();
            let targets = targets.map(|targets| &targets[at..at + part.len()]);
            let of_window = self.score(part, targets, &mut |done, _| progress(at + done, tokens.len()))?;
            scores.argmax.extend(of_window.argmax);
            scores.nll.extend(of_window.nll);
        }
        self.reset();
        Ok(scores)
    }

    /// Begins to draw tokens by `params`; the repetition penalty counts the tokens of `context` as seen (those that the
    /// vocabulary does not have are passed over).
    ///
    /// # Errors
    /// A parameter that is out of range.
    pub fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        params.validate()?;
        self.params = *params;
        self.sampled = context.len() as u32;
        self.seen.fill(0);
        for &token in context {
            self.mark_seen(token);
        }
        Ok(())
    }

    /// Draws a token from the last logits and remembers it as seen; the state does not advance. Greedy before
    /// [`Self::begin_sampling`].
    ///
    /// # Errors
    /// As [`Self::logits`]; logits that are NaN or have no distribution.
    pub fn sample(&mut self) -> Result<u32> {
        self.check_ready()?;
        let token = sample(&self.logits, &self.seen, &self.params, self.sampled);
        let token = token.ok_or(InputError::NoTokenToChoose)?;
        self.sampled = self.sampled.wrapping_add(1);
        self.mark_seen(token);
        Ok(token)
    }

    /// Another session at the same point of the text; both go on alone. Sampling begins anew in the clone.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn try_clone(&self) -> Result<Self> {
        let mut clone = Self::new(&self.model);
        clone.state.clone_from(&self.state);
        clone.logits.copy_from_slice(&self.logits);
        clone.ready = self.ready;
        Ok(clone)
    }

    /// Back to the state of zeros, without logits and without sampling parameters.
    pub fn reset(&mut self) {
        self.state.conv.fill(0.0);
        self.state.ssm.fill(0.0);
        self.state.pages.clear();
        self.ready = false;
        self.params = SamplingParams::default();
        self.sampled = 0;
        self.seen.fill(0);
    }

    /// The state.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn state(&self) -> Result<StateData> {
        Ok(self.state.clone())
    }

    /// Continues from `state`; there are no logits until the next token.
    ///
    /// # Errors
    /// The state is another model's.
    pub fn set_state(&mut self, state: &StateData) -> Result<()> {
        state.check(self.model.config())?;
        self.state.conv.copy_from_slice(&state.conv);
        self.state.ssm.copy_from_slice(&state.ssm);
        self.state.pages = state.pages.clone();
        self.ready = false;
        Ok(())
    }

    pub fn has_logits(&self) -> bool {
        self.ready
    }

    fn check_ready(&self) -> Result<()> {
        if self.ready {
            Ok(())
        } else {
            Err(InputError::NoTokens.into())
        }
    }

    fn mark_seen(&mut self, token: u32) {
        if let Some(word) = self.seen.get_mut(token as usize / 32) {
            *word |= 1 << (token % 32);
        }
    }

    /// Advances the state over a chunk; leaves norm_f's output in `work.hidden`.
    fn forward(&mut self, input: Input<'_>, mode: Mode) {
        self.ready = false;
        forward(&self.model, &mut self.work, std::iter::once(&mut self.state), input, mode);
    }

    /// logits (l, vocab_size) of the positions from `start` on of the last chunk.
    fn head(&self, logits: &mut [f32], start: usize, l: usize) {
        head(&self.model, &self.work, logits, start, l);
    }

    /// The logits of the last of the `l` positions of the last chunk.
    fn last_logits(&mut self, l: usize) {
        let mut logits = std::mem::take(&mut self.logits);
        self.head(&mut logits, l - 1, 1);
        self.logits = logits;
        self.ready = true;
    }
}

/// Advances the states: a text's over the whole chunk, or in a step each text's over a row. Leaves norm_f's output in `work.hidden`,
/// where the model ends here.
fn forward<'a>(
    model: &CpuModel,
    work: &mut Workspace,
    states: impl Iterator<Item = &'a mut StateData>,
    input: Input<'_>,
    mode: Mode,
) {
    let weights = &*model.weights;
    let (config, l) = (&weights.config, input.len());
    let d_model = config.d_model;
    begin(model, work, input);
    let Workspace { residual, hidden, inside, .. } = work;
    let (residual, hidden) = (&mut residual[..l * d_model], &mut hidden[..l * d_model]);
    let mut stream = Stream { residual, hidden, l, norm_eps: config.norm_eps, mode, scan: model.options.scan };
    let mut states: Vec<_> = states.collect();
    let mut texts: Vec<_> = states.iter_mut().map(|state| parts(state, &weights.layers)).collect();
    let mut of_layer = Vec::with_capacity(texts.len());
    for layer in &weights.layers {
        of_layer.clear();
        of_layer.extend(texts.iter_mut().filter_map(Iterator::next));
        layer.forward(inside, &mut stream, &mut of_layer);
    }
    drop((of_layer, texts));
    let each = l / states.len().max(1);
    states.iter_mut().for_each(|state| state.pages.advance(each));
    if let Some(end) = &weights.end {
        rms_norm(stream.hidden, stream.residual, None, Some(end.norm_f.values()), config.norm_eps, d_model);
    }
}

/// Room for a chunk, and what it begins with in the residual stream.
fn begin(model: &CpuModel, work: &mut Workspace, input: Input<'_>) {
    let d_model = model.weights.config.d_model;
    work.grow(input.len(), d_model);
    let residual = &mut work.residual[..input.len() * d_model];
    match (input, &model.weights.embedding) {
        (Input::Tokens(tokens), Some(matrix)) => embedding(residual, &**matrix, tokens, d_model),
        (Input::Residual(values, _), _) => residual.copy_from_slice(values),
        (Input::Tokens(_), None) => debug_assert!(false, "tokens go to the part that begins"),
    }
}

/// logits (l, vocab_size) of the rows from `start` on of what [`forward`] has left.
fn head(model: &CpuModel, work: &Workspace, logits: &mut [f32], start: usize, l: usize) {
    let weights = &*model.weights;
    let Some(End { head, .. }) = &weights.end else { return };
    let d_model = weights.config.d_model;
    let hidden = &work.hidden[start * d_model..(start + l) * d_model];
    let shape = Linear::dense(l, d_model, weights.config.vocab_size);
    if l == 1 {
        matvec(logits, hidden, &**head, None, &shape, Epilogue::None);
    } else {
        matmul(logits, hidden, &**head, None, &shape, Epilogue::None);
    }
}
