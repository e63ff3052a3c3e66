//! The CPU backend: the twins of [`crate::reference`] in f32 over all threads, where no GPU is.
//!
//! A layer (Mamba, arXiv:2312.00752, figure 3):
//!
//! ```text
//! residual --rms_norm--> hidden --in_proj--> xz --conv1d--> u --x_proj--> x_dbl --dt_proj, softplus--> delta
//!    ^                                        |z             |u             |B, C                        |
//!    +------------------ out_proj <-- y <-----+--- scan -----+--------------+----------------------------+
//! ```

mod explain;

use std::sync::Arc;

use super::{
    types::{check_length, check_tokens, ModelOptions, Scan, Scores, StateData},
    Arch, LayerWeights, ModelConfig, ModelWeights, TensorView,
};
use crate::{
    error::InputError,
    generate::SamplingParams,
    reference::{
        argmax, conv1d, conv1d_state, conv1d_update, decay_rate, embedding, matmul, matvec, par, rms_norm, sample,
        scan_blelloch, scan_fused, scan_sequential, selective_state_update, token_nll, x_dbl_norm, ConvShape, Epilogue,
        Linear, Quant, Quantised, ScanInput, ScanShape, Weights as Rows,
    },
    Result,
};

/// Positions that the Blelloch scan takes as one block; fewer for a shorter chunk, which would be mostly identities.
const BLELLOCH_BLOCK: usize = 256;
/// Positions of a chunk of the fused scan.
const FUSED_CHUNK: usize = 256;
/// Rows of logits that scoring holds at once.
const SCORE_ROWS: usize = 64;

/// A model's weights, shared by its sessions: in f32, or quantised as the checkpoint has them. Cheap to clone.
#[derive(Clone)]
pub struct CpuModel {
    weights: Arc<Weights>,
    options: ModelOptions,
}

struct Weights {
    config: ModelConfig,
    embedding: Matrix, // (vocab_size, d_model)
    layers: Vec<Layer>,
    norm_f: Vec<f32>,        // (d_model)
    lm_head: Option<Matrix>, // (vocab_size, d_model); None: the embedding
}

/// A matrix that a checkpoint may hold quantised. It stays so: its rows are made as they are used. That takes a quarter or
/// a seventh of the memory that f32 would, and a decode step, which reads every weight once, is no slower for it.
enum Matrix {
    Plain(Vec<f32>),
    Quantised(Quantised),
}

impl<'a> From<&'a Matrix> for Rows<'a, f32> {
    fn from(matrix: &'a Matrix) -> Self {
        match matrix {
            Matrix::Plain(w) => w.into(),
            Matrix::Quantised(w) => w.into(),
        }
    }
}

struct Layer {
    norm: Vec<f32>,                  // (d_model)
    in_proj: Matrix,                 // (2 d_inner, d_model)
    in_proj_bias: Option<Vec<f32>>,  // (2 d_inner)
    conv1d: Vec<f32>,                // (d_inner, d_conv)
    conv1d_bias: Option<Vec<f32>>,   // (d_inner)
    x_proj: Matrix,                  // (dt_rank + 2 d_state, d_inner)
    dt_proj: Vec<f32>,               // (d_inner, dt_rank)
    dt_proj_bias: Vec<f32>,          // (d_inner)
    a: Vec<f32>,                     // (d_inner, d_state), decay_rate of A_log
    d: Vec<f32>,                     // (d_inner)
    out_proj: Matrix,                // (d_model, d_inner)
    out_proj_bias: Option<Vec<f32>>, // (d_model)
}

impl CpuModel {
    /// Converts the weights to f32; `progress` hears of the bytes of the checkpoint read so far and of all.
    ///
    /// # Errors
    /// A weight that is not finite; a chunk of 0.
    pub fn load(
        config: &ModelConfig,
        weights: &ModelWeights<'_>,
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        if options.chunk == 0 {
            return Err(InputError::ZeroChunk.into());
        }
        let total = weights.total_bytes();
        let mut done = 0;
        let mut read = |tensor: &TensorView<'_>| -> Result<Matrix> {
            let matrix = match tensor.dtype.quant() {
                Some(quant) => Matrix::Quantised(quantised(tensor, quant)?),
                None => Matrix::Plain(tensor.to_f32()?),
            };
            done += tensor.bytes();
            progress(done, total);
            Ok(matrix)
        };
        let embedding = read(&weights.embedding)?;
        let layers = weights.layers.iter().map(|layer| Layer::load(layer, &mut read));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let norm_f = values(&weights.norm_f, &mut read)?;
        let lm_head = weights.lm_head.as_ref().map(read).transpose()?;
        let config = config.clone();
        let weights = Weights { config, embedding, layers, norm_f, lm_head };
        Ok(Self { weights: Arc::new(weights), options })
    }

    /// The model's dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.weights.config
    }
}

/// A copy of a quantised matrix.
fn quantised(tensor: &TensorView<'_>, quant: Quant) -> Result<Quantised> {
    let (packed, scales) = tensor.quantised_rows(0..tensor.shape[0])?;
    Ok(Quantised { quant, k: tensor.shape[1], packed: packed.into_owned(), scales: scales.into_owned() })
}

/// A tensor that is never quantised, in f32.
fn values(tensor: &TensorView<'_>, read: &mut impl FnMut(&TensorView<'_>) -> Result<Matrix>) -> Result<Vec<f32>> {
    Ok(match read(tensor)? {
        Matrix::Plain(values) => values,
        Matrix::Quantised(w) => w.values(),
    })
}

impl Layer {
    fn load(weights: &LayerWeights<'_>, read: &mut impl FnMut(&TensorView<'_>) -> Result<Matrix>) -> Result<Self> {
        let mut a = values(&weights.a_log, read)?;
        a.iter_mut().for_each(|a| *a = decay_rate(*a));
        let bias = |tensor: &Option<TensorView<'_>>, read: &mut _| tensor.as_ref().map(|t| values(t, read)).transpose();
        Ok(Self {
            norm: values(&weights.norm, read)?,
            in_proj: read(&weights.in_proj)?,
            in_proj_bias: bias(&weights.in_proj_bias, read)?,
            conv1d: values(&weights.conv1d, read)?,
            conv1d_bias: bias(&weights.conv1d_bias, read)?,
            x_proj: read(&weights.x_proj)?,
            dt_proj: values(&weights.dt_proj, read)?,
            dt_proj_bias: values(&weights.dt_proj_bias, read)?,
            a,
            d: values(&weights.d, read)?,
            out_proj: read(&weights.out_proj)?,
            out_proj_bias: bias(&weights.out_proj_bias, read)?,
        })
    }
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
    xz: Vec<f32>,       // (rows, 2 d_inner)
    u: Vec<f32>,        // (rows, d_inner)
    x_dbl: Vec<f32>,    // (rows, dt_rank + 2 d_state)
    delta: Vec<f32>,    // (rows, d_inner)
    y: Vec<f32>,        // (rows, d_inner)
}

impl Workspace {
    fn grow(&mut self, rows: usize, config: &ModelConfig) {
        if rows <= self.rows {
            return;
        }
        self.rows = rows;
        self.residual.resize(rows * config.d_model, 0.0);
        self.hidden.resize(rows * config.d_model, 0.0);
        self.xz.resize(rows * 2 * config.d_inner, 0.0);
        self.u.resize(rows * config.d_inner, 0.0);
        self.x_dbl.resize(rows * (config.dt_rank + 2 * config.d_state), 0.0);
        self.delta.resize(rows * config.d_inner, 0.0);
        self.y.resize(rows * config.d_inner, 0.0);
    }
}

/// The two ways through a layer.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Any number of positions, by convolution and scan.
    Prefill,
    /// One position, by the recurrent step.
    Decode,
}

impl CpuSession {
    /// A new sequence, with a state of zeros.
    pub fn new(model: &CpuModel) -> Self {
        let config = model.config();
        Self {
            model: model.clone(),
            state: StateData {
                conv: vec![0.0; config.n_layer * config.d_conv * config.d_inner],
                ssm: vec![0.0; config.n_layer * config.d_inner * config.d_state],
            },
            work: Workspace::default(),
            logits: vec![0.0; config.vocab_size],
            ready: false,
            params: SamplingParams::default(),
            seen: vec![0; config.vocab_size.div_ceil(32)],
            sampled: 0,
        }
    }

    /// Runs the model over `tokens`, chunk by chunk; `progress` hears of the positions done and of all.
    ///
    /// # Errors
    /// No tokens, or one that is out of range; the state is then unchanged.
    pub fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        check_tokens(tokens, self.model.config().vocab_size)?;
        let mut done = 0;
        for chunk in tokens.chunks(self.model.options.chunk) {
            self.forward(chunk, Mode::Prefill);
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
        self.forward(&[token], Mode::Decode);
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
        let vocab_size = self.model.config().vocab_size;
        check_tokens(tokens, vocab_size)?;
        if let Some(targets) = targets {
            check_length("targets", targets.len(), tokens.len())?;
            check_tokens(targets, vocab_size)?;
        }
        let mut logits = vec![0.0; SCORE_ROWS.min(tokens.len()) * vocab_size];
        let mut rows = vec![(None, 0.0); SCORE_ROWS];
        let mut scores = Scores::default();
        for chunk in tokens.chunks(self.model.options.chunk) {
            self.forward(chunk, Mode::Prefill);
            for start in (0..chunk.len()).step_by(SCORE_ROWS) {
                let l = SCORE_ROWS.min(chunk.len() - start);
                let logits = &mut logits[..l * vocab_size];
                self.head(logits, start, l);
                let done = scores.argmax.len();
                par::chunks_mut(&mut rows[..l], 1, |i, row| {
                    let logits = &logits[i * vocab_size..(i + 1) * vocab_size];
                    let nll = targets.map_or(0.0, |targets| token_nll(logits, targets[done + i]));
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
            progress(scores.argmax.len(), tokens.len());
        }
        self.ready = true;
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
        self.ready = false;
        Ok(())
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

    /// Advances the state over `tokens`; leaves norm_f's output in `work.hidden`.
    fn forward(&mut self, tokens: &[u32], mode: Mode) {
        self.ready = false;
        let weights = &*self.model.weights;
        let config = &weights.config;
        let l = tokens.len();
        let d_model = config.d_model;
        self.work.grow(l, config);
        let residual = &mut self.work.residual[..l * d_model];
        embedding(residual, &weights.embedding, tokens, d_model);
        let conv_states = self.state.conv.chunks_exact_mut(config.d_conv * config.d_inner);
        let ssm_states = self.state.ssm.chunks_exact_mut(config.d_inner * config.d_state);
        for ((layer, conv_state), ssm_state) in weights.layers.iter().zip(conv_states).zip(ssm_states) {
            let scan = self.model.options.scan;
            layer.forward(&mut self.work, conv_state, ssm_state, config, l, mode, scan);
        }
        let Workspace { residual, hidden, .. } = &mut self.work;
        let (residual, hidden) = (&mut residual[..l * d_model], &mut hidden[..l * d_model]);
        rms_norm(hidden, residual, None, Some(&weights.norm_f), config.norm_eps, d_model);
    }

    /// logits (l, vocab_size) of the positions from `start` on of the last chunk.
    fn head(&self, logits: &mut [f32], start: usize, l: usize) {
        let weights = &*self.model.weights;
        let head = weights.lm_head.as_ref().unwrap_or(&weights.embedding);
        let d_model = weights.config.d_model;
        let hidden = &self.work.hidden[start * d_model..(start + l) * d_model];
        let shape = Linear::dense(l, d_model, weights.config.vocab_size);
        if l == 1 {
            matvec(logits, hidden, head, None, &shape, Epilogue::None);
        } else {
            matmul(logits, hidden, head, None, &shape, Epilogue::None);
        }
    }

    /// The logits of the last of the `l` positions of the last chunk.
    fn last_logits(&mut self, l: usize) {
        let mut logits = std::mem::take(&mut self.logits);
        self.head(&mut logits, l - 1, 1);
        self.logits = logits;
        self.ready = true;
    }
}

impl Layer {
    /// residual += mixer(rms_norm(residual)) for `l` positions; both states advance.
    #[allow(clippy::too_many_arguments)] // the layer's whole world, in one call
    fn forward(
        &self,
        work: &mut Workspace,
        conv_state: &mut [f32], // (d_conv, d_inner)
        ssm_state: &mut [f32],  // (d_inner, d_state)
        config: &ModelConfig,
        l: usize,
        mode: Mode,
        scan: Scan,
    ) {
        let &ModelConfig { d_model, d_inner, d_state, d_conv, dt_rank, .. } = config;
        let x_dbl_width = dt_rank + 2 * d_state;
        let residual = &mut work.residual[..l * d_model];
        let hidden = &mut work.hidden[..l * d_model];
        let xz = &mut work.xz[..l * 2 * d_inner];
        let u = &mut work.u[..l * d_inner];
        let x_dbl = &mut work.x_dbl[..l * x_dbl_width];
        let delta = &mut work.delta[..l * d_inner];
        let y = &mut work.y[..l * d_inner];
        let linear =
            |y: &mut [f32], x: &[f32], w: Rows<'_, f32>, bias: Option<&[f32]>, shape: &Linear, epilogue| match mode {
                Mode::Prefill => matmul(y, x, w, bias, shape, epilogue),
                Mode::Decode => matvec(y, x, w, bias, shape, epilogue),
            };

        rms_norm(hidden, residual, None, Some(&self.norm), config.norm_eps, d_model);
        let shape = Linear::dense(l, d_model, 2 * d_inner);
        linear(xz, hidden, (&self.in_proj).into(), self.in_proj_bias.as_deref(), &shape, Epilogue::None);

        let shape = ConvShape { l, d_inner, d_conv, x_stride: 2 * d_inner };
        let bias = self.conv1d_bias.as_deref();
        match mode {
            Mode::Prefill => {
                conv1d(u, xz, conv_state, &self.conv1d, bias, &shape);
                conv1d_state(conv_state, xz, &shape);
            }
            Mode::Decode => conv1d_update(u, conv_state, xz, &self.conv1d, bias, &shape),
        }

        linear(x_dbl, u, (&self.x_proj).into(), None, &Linear::dense(l, d_inner, x_dbl_width), Epilogue::None);
        if config.arch == Arch::FalconMamba {
            x_dbl_norm(x_dbl, dt_rank, d_state, config.mixer_rms_eps);
        }
        let shape = Linear { l, k: dt_rank, n: d_inner, x_stride: x_dbl_width, y_stride: d_inner };
        linear(delta, x_dbl, (&self.dt_proj).into(), Some(&self.dt_proj_bias), &shape, Epilogue::Softplus);

        let input = ScanInput { u, delta, a: &self.a, x_dbl, d: &self.d, xz };
        let shape = ScanShape::of_layer(l, d_inner, d_state, dt_rank);
        match (mode, scan) {
            (Mode::Decode, _) => selective_state_update(y, ssm_state, &input, &shape),
            (Mode::Prefill, Scan::Sequential) => scan_sequential(y, ssm_state, &input, &shape),
            (Mode::Prefill, Scan::Blelloch) => {
                let block = l.next_power_of_two().clamp(2, BLELLOCH_BLOCK);
                scan_blelloch(y, ssm_state, &input, &shape, block);
            }
            (Mode::Prefill, Scan::Fused) => scan_fused(y, ssm_state, &input, &shape, FUSED_CHUNK),
        }

        let shape = Linear::dense(l, d_inner, d_model);
        linear(residual, y, (&self.out_proj).into(), self.out_proj_bias.as_deref(), &shape, Epilogue::Add);
    }
}
