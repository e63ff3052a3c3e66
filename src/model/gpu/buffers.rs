//! The buffers of a session: a chunk's activations, what the layers remember, what scoring writes.

use super::pool::{table_of, Held, MOST};
use super::GpuModel;
use crate::error::InputError;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, Plan, Tensor};
use crate::kernels::TEXT;
use crate::model::blocks::device::{Kept, LayerState, Numbers, Stream};
use crate::model::blocks::gpu::Workspaces;
use crate::model::blocks::{Shape, STATES};
use crate::model::span::Input;
use crate::model::{ModelConfig, Pages, Scan, StateData};
use crate::Result;

/// Rows of logits that are worked out at once; also what aligns the views of scores (64 x 4 bytes).
pub(super) const SCORE_ROWS: usize = 64;

/// The activations of a chunk of up to `capacity` tokens, in f32, or those marked act in another format.
pub(super) struct Workspace {
    pub(super) capacity: usize,
    pub(super) tokens: Tensor,   // (L), u32
    pub(super) texts: Tensor,    // (L, TEXT), u32: of a step, which texts; the only slot's at first
    pub(super) residual: Tensor, // (L, d_model)
    pub(super) normed: Tensor,   // (L, d_model), act
    pub(super) last: Tensor,     // (up to SCORE_ROWS, d_model), what the head reads
    pub(super) hidden: Tensor,   // (L, d_model), L up to whole COOP_TILEs where cooperative matrices write it
    pub(super) inside: Workspaces,
    /// Where it is noticed that a value is beyond f16: 1, then. None: nothing here is multiplied in f16.
    pub(super) beyond: Option<Tensor>,
}

impl Workspace {
    /// `watch`: whether f16 may be used (activations in it, products by halves), and values that it cannot hold are to
    /// be noticed. Otherwise all is f32.
    pub(super) fn new(
        model: &GpuModel,
        l: usize,
        scan: Option<Scan>,
        (act, watch): (NumberFormat, bool),
    ) -> Result<Self, GpuError> {
        let (gpu, c) = (&model.gpu, &model.config);
        let mut numbers = Numbers::new(act, watch);
        let inside = Workspaces::new(gpu, model.layers.iter(), l, scan, &mut numbers)?;
        let rows = |label: &str, width: usize| Tensor::zeros(gpu, label, l * width);
        let normed = Tensor::activations(gpu, "normed", l * c.d_model, act)?;
        Ok(Self {
            capacity: l,
            tokens: rows("tokens", 1)?,
            texts: rows("texts", TEXT)?,
            residual: rows("residual", c.d_model)?,
            normed: numbers.factor(normed),
            last: numbers.factor(Tensor::zeros(gpu, "last", l.min(SCORE_ROWS) * c.d_model)?),
            hidden: Tensor::zeros(gpu, "hidden", numbers.tall(gpu, l) * c.d_model)?,
            inside,
            beyond: numbers.beyond,
        })
    }

    /// What a chunk or a step begins with.
    pub(super) fn write(&self, gpu: &Gpu, input: Input<'_>) {
        match input {
            Input::Tokens(tokens) => self.tokens.write(gpu, 0, tokens),
            Input::Residual(values, _) => self.residual.write(gpu, 0, values),
        }
    }

    /// What runs through the layers.
    pub(super) fn stream(&self, c: &ModelConfig) -> Stream<'_> {
        let Self { residual, normed, hidden, texts, .. } = self;
        Stream { residual, normed, hidden, texts, norm_eps: c.norm_eps }
    }
}

/// Elements from which a layer's part of a state may begin, so that it can be bound.
const ALIGN: usize = 64;

/// What the layers remember of texts, each in its slot.
pub(super) struct Memory {
    states: Vec<State>, // in the order of STATES
    /// Which layers have attention, counted among those that do.
    attention: Vec<Option<usize>>,
    /// What attention keeps of each text, and which pages are whose; none without attention.
    pub(super) held: Vec<Held>,
    table: Option<Tensor>, // (slots, pages of a text), u32
}

/// One of the [`STATES`].
struct State {
    /// All layers' parts one after the other, in as few buffers as the adapter lets them be.
    buffers: Vec<Tensor>,
    /// Each layer's part of them, (slots, elements).
    layers: Vec<Tensor>,
    /// Elements of a slot of each layer's part.
    elements: Vec<usize>,
}

impl State {
    fn new(gpu: &Gpu, layers: &[Shape], slots: usize, name: &'static str) -> Result<Self, GpuError> {
        let elements: Vec<_> = layers.iter().map(|layer| layer.state_elements(name)).collect();
        let most = (gpu.limits().max_buffer_size / 4) as usize;
        // Which buffer a layer's part lies in, and where.
        let (mut at, mut sizes) = (Vec::new(), vec![0]);
        for part in elements.iter().map(|elements| slots * elements) {
            let room = most.saturating_sub(sizes[sizes.len() - 1]);
            if part > room && sizes[sizes.len() - 1] > 0 {
                sizes.push(0);
            }
            let buffer = sizes.len() - 1;
            at.push((buffer, sizes[buffer], part));
            sizes[buffer] += part.next_multiple_of(ALIGN);
        }
        let buffers = sizes.into_iter().map(|size| Tensor::zeros(gpu, name, size)).collect::<Result<Vec<_>, _>>()?;
        let layers = at.into_iter().map(|(buffer, at, part)| buffers[buffer].slice(at, part)).collect();
        Ok(Self { buffers, layers, elements })
    }

    /// What a slot has of every layer.
    fn slot(&self, slot: usize) -> impl Iterator<Item = Tensor> + '_ {
        let layers = self.layers.iter().zip(&self.elements).filter(|(_, &elements)| elements > 0);
        layers.map(move |(layer, &elements)| layer.slice(slot * elements, elements))
    }
}

impl Memory {
    pub(super) fn new(gpu: &Gpu, layers: &[Shape], slots: usize) -> Result<Self, GpuError> {
        let states = STATES.iter().map(|name| State::new(gpu, layers, slots, name));
        let mut n = 0..;
        let attention = layers.iter().map(|layer| layer.keys_values().and_then(|_| n.next())).collect();
        Ok(Self { states: states.collect::<Result<_, GpuError>>()?, attention, held: Vec::new(), table: None })
    }

    /// With what attention keeps of the texts.
    pub(super) fn of_texts(model: &GpuModel, slots: usize) -> Result<Self, GpuError> {
        let gpu = &model.gpu;
        let mut memory = Self::new(gpu, &model.config.layers, slots)?;
        if let Some(pool) = &model.pool {
            let table = table_of(gpu, slots)?;
            let row = |slot| Held::new(gpu, pool, table.slice(slot * MOST, MOST));
            memory.held = (0..slots).map(row).collect::<Result<_, _>>()?;
            memory.table = Some(table);
        }
        Ok(memory)
    }

    /// What attention keeps of the only text.
    pub(super) fn text(&mut self) -> Option<&mut Held> {
        self.held.first_mut()
    }

    /// What attention keeps of a text here is what it keeps of one there.
    pub(super) fn share(&mut self, gpu: &Gpu, slot: usize, with: &Memory, of: usize) {
        if let (Some(to), Some(held)) = (self.held.get_mut(slot), with.held.get(of)) {
            held.share(gpu, to, held.tokens());
        }
    }

    fn kept(&self, layer: usize) -> Option<Kept> {
        let (keys, values) = self.held.first()?.layer((*self.attention.get(layer)?)?)?;
        Some(Kept { keys, values, table: self.table.clone()? })
    }

    /// A layer's states.
    pub(super) fn layer(&self, layer: usize) -> LayerState {
        let part = |i: usize| self.states[i].layers[layer].clone();
        LayerState { conv: part(0), ssm: part(1), kept: self.kept(layer) }
    }

    /// Whether every slot begins where it can be bound by itself.
    pub(super) fn slots_can_be_bound(&self) -> bool {
        self.states.iter().flat_map(|state| &state.elements).all(|elements| elements.is_multiple_of(ALIGN))
    }

    /// A layer's states of one slot.
    pub(super) fn layer_of(&self, layer: usize, slot: usize) -> LayerState {
        let part = |i: usize| {
            let (state, elements) = (&self.states[i], self.states[i].elements[layer]);
            state.layers[layer].slice(slot * elements, elements)
        };
        LayerState { conv: part(0), ssm: part(1), kept: self.kept(layer) }
    }

    /// Records a copy to another memory of the same model and as many slots.
    pub(super) fn copy_to(&self, encoder: &mut wgpu::CommandEncoder, to: &Memory) {
        let states = self.states.iter().zip(&to.states);
        states.flat_map(|(from, to)| from.buffers.iter().zip(&to.buffers)).for_each(|(a, b)| a.copy_to(encoder, b));
    }

    /// Records a copy of one slot to a slot of another memory of the same model.
    pub(super) fn copy_slot(&self, encoder: &mut wgpu::CommandEncoder, slot: usize, (to, to_slot): (&Memory, usize)) {
        let states = self.states.iter().zip(&to.states);
        states.flat_map(|(from, to)| from.slot(slot).zip(to.slot(to_slot))).for_each(|(a, b)| a.copy_to(encoder, &b));
    }

    /// Records forgetting all.
    pub(super) fn clear(&self, encoder: &mut wgpu::CommandEncoder) {
        let buffers = self.states.iter().flat_map(|state| &state.buffers);
        buffers.for_each(|tensor| encoder.clear_buffer(tensor.buffer(), 0, None));
    }

    /// Records forgetting what a slot has.
    pub(super) fn clear_slot(&self, encoder: &mut wgpu::CommandEncoder, slot: usize) {
        let parts = self.states.iter().flat_map(|state| state.slot(slot));
        parts.for_each(|t| encoder.clear_buffer(t.buffer(), t.offset(), Some(t.bytes() as u64)));
    }

    /// The only slot to the host.
    pub(super) async fn read(&mut self, gpu: &Gpu) -> Result<StateData> {
        let mut read = Vec::new();
        for state in &self.states {
            let mut values = Vec::new();
            for (i, buffer) in state.buffers.iter().enumerate() {
                let all = buffer.read::<f32>(gpu).await?;
                for layer in state.slot(0).filter(|layer| layer.buffer() == state.buffers[i].buffer()) {
                    values.extend(&all[layer.offset() as usize / 4..][..layer.elements()]);
                }
            }
            read.push(values);
        }
        let mut read = read.into_iter();
        let mut next = || read.next().unwrap_or_default();
        let pages = match self.text() {
            Some(held) => held.read(gpu).await?,
            None => Pages::default(),
        };
        Ok(StateData { conv: next(), ssm: next(), pages })
    }

    /// To the only slot from the host; [`StateData::check`] has passed.
    pub(super) fn write(&self, gpu: &Gpu, data: &StateData) {
        for (state, mut values) in self.states.iter().zip([&data.conv[..], &data.ssm[..]]) {
            for layer in state.slot(0) {
                let (part, rest) = values.split_at(layer.elements());
                layer.write(gpu, 0, part);
                values = rest;
            }
        }
    }
}

/// The last few plans, by what they are of; others are built again.
pub(super) struct Plans<K> {
    most: usize,
    kept: Vec<(K, Plan)>,
}

impl<K: PartialEq> Plans<K> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// The plan of a key, which is the last to go then.
    pub(super) fn get(&mut self, key: K, build: impl FnOnce() -> Result<Plan>) -> Result<&Plan> {
        let plan = match self.kept.iter().position(|(k, _)| *k == key) {
            Some(i) => self.kept.remove(i).1,
            None => build()?,
        };
        if self.kept.len() == self.most {
            self.kept.remove(0);
        }
        self.kept.push((key, plan));
        Ok(self.kept.last().map(|(_, plan)| plan).ok_or(InputError::NoTokens)?)
    }
}

/// What [`GpuSession::score`] writes: a block of logits at a time, and its results for a whole chunk.
pub(super) struct ScoreBuffers {
    pub(super) logits: Tensor,  // (SCORE_ROWS, vocab_size)
    pub(super) argmax: Tensor,  // (L), u32
    pub(super) targets: Tensor, // (L), u32
    pub(super) nll: Tensor,     // (L)
}
