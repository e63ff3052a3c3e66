//! Models whose layers lie on several backends, in memory or on devices: a chain of parts, of which each is a model of its own layers.
//!
//! What travels between two parts is the residual stream of a chunk or of a step, (l, d_model) in f32, by way of the host. The first
//! part has the embedding, the last one the final norm and the head: logits are there, and tokens are drawn there.

mod batch;
mod place;
mod session;

use super::cpu::CpuModel;
use super::gpu::{GpuBatch, GpuModel};
use super::lm::Backend;
use super::span::Span;
use super::{Checkpoint, ModelConfig};
use crate::error::{InputError, Result};
use crate::settings::ModelOptions;
pub(super) use batch::PartsBatch;
pub(super) use session::PartsSession;
use std::ops::Range;
use std::sync::Arc;

/// What every value in parts has with it. In a browser, where there is one device and the wasm has a budget, there is none: so nothing of
/// them is built there.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Copy)]
pub(super) struct Natively;
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Copy)]
pub(super) enum Natively {}

/// A backend, and how many of a model's layers, as config.json counts them, it is to hold: one of the parts that
/// [`LanguageModel::load_parts`](super::LanguageModel::load_parts) is given.
#[derive(Debug, Clone)]
pub struct Part {
    pub backend: Backend,
    pub layers: usize,
}

/// Where some of a model's layers are.
#[derive(Debug, Clone)]
pub struct Placed {
    pub backend: Backend,
    /// The layers, as config.json counts them, from 0.
    pub layers: Range<usize>,
    /// Of the weights, as the backend holds them.
    pub bytes: u64,
}

/// A model's weights, of a part of its layers each.
pub(super) struct PartsModel {
    config: ModelConfig,
    parts: Vec<OnPart>,
    layers: Vec<Range<usize>>,
}

enum OnPart {
    Cpu(CpuModel),
    Gpu(Arc<GpuModel>),
}

impl OnPart {
    fn config(&self) -> &ModelConfig {
        match self {
            OnPart::Cpu(m) => m.config(),
            OnPart::Gpu(m) => m.config(),
        }
    }

    fn chunk(&self) -> usize {
        match self {
            OnPart::Cpu(m) => m.chunk(),
            OnPart::Gpu(m) => m.chunk(),
        }
    }
}

/// The blocks of each part, and its layers.
fn spans(config: &ModelConfig, parts: &[Part]) -> Result<Vec<(Span, Range<usize>)>, InputError> {
    let (n_layer, per_layer) = (config.n_layer(), config.arch.blocks_per_layer());
    let fits = parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.layers)) == Some(n_layer);
    if !fits || parts.iter().any(|part| part.layers == 0) {
        let counts: Vec<_> = parts.iter().map(|part| part.layers.to_string()).collect();
        return Err(InputError::Parts { counts: counts.join(" + "), n_layer });
    }
    let mut first = 0;
    let span = |part: &Part| {
        let layers = first..first + part.layers;
        first = layers.end;
        let blocks = layers.start * per_layer..(layers.end * per_layer).min(config.layers.len());
        (Span { blocks, begins: layers.start == 0, ends: layers.end == n_layer }, layers)
    };
    Ok(parts.iter().map(span).collect())
}

impl PartsModel {
    pub async fn load(
        checkpoint: &Checkpoint,
        parts: &[Part],
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let (config, weights) = (checkpoint.config(), checkpoint.weights());
        let spans = spans(config, parts)?;
        let total = spans.iter().map(|(span, _)| span.bytes(&weights)).sum();
        let (mut done, mut loaded) = (0, Vec::new());
        for (part, (span, _)) in parts.iter().zip(&spans) {
            let progress = &mut |of_part, _| progress(done + of_part, total);
            loaded.push(match &part.backend {
                Backend::Cpu => OnPart::Cpu(CpuModel::load(config, &weights, span, options, progress)?),
                Backend::Gpu(gpu) => {
                    OnPart::Gpu(Arc::new(GpuModel::load(gpu, config, &weights, span, options, progress).await?))
                }
            });
            done += span.bytes(&weights);
        }
        let layers = spans.into_iter().map(|(_, layers)| layers).collect();
        Ok(Self { config: config.clone(), parts: loaded, layers })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What is said of a model without parts, which is never loaded.
    fn none(&self) -> InputError {
        InputError::Parts { counts: "0".into(), n_layer: self.config.n_layer() }
    }

    /// How many tokens go through all parts together.
    fn chunk(&self) -> usize {
        self.parts.iter().map(OnPart::chunk).min().unwrap_or(1)
    }

    pub fn placed(&self) -> Vec<Placed> {
        let placed = |(part, layers): (&OnPart, &Range<usize>)| match part {
            OnPart::Cpu(m) => Placed { backend: Backend::Cpu, layers: layers.clone(), bytes: m.bytes() },
            OnPart::Gpu(m) => {
                Placed { backend: Backend::Gpu(m.gpu().clone()), layers: layers.clone(), bytes: m.bytes() }
            }
        };
        self.parts.iter().zip(&self.layers).map(placed).collect()
    }

    pub fn beyond_f16(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, OnPart::Gpu(m) if m.beyond_f16()))
    }

    /// The most slots that all parts allow, `None` for any number; `Err` where a device's kernels for several texts are not to be used.
    pub fn most_slots(&self) -> Result<Option<usize>, Unbatched> {
        let mut most = None;
        for part in &self.parts {
            if let OnPart::Gpu(m) = part {
                let slots = GpuBatch::most_slots(m).ok_or(Unbatched)?;
                most = Some(most.map_or(slots, |most: usize| most.min(slots)));
            }
        }
        Ok(most)
    }
}

/// Texts go one after the other.
pub(super) struct Unbatched;
