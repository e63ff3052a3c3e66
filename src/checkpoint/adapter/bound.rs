//! Adapters on a model: which of its tensors each of theirs is for, with every shape checked.

use super::{Adapter, AdapterInfo, Role};
use crate::checkpoint::{
    layout::{Layout, Table},
    names::{self, Names, HEAD},
    patch::Patch,
    weights::{ModelWeights, TensorView},
    LoadError,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A weight of the model. The head of a tied model is the embedding until an adapter changes one of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    /// By its place in the model's table.
    Tensor(usize),
    TiedHead,
}

/// A tensor of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the adapter's own table.
    Own(usize),
    /// Inside the model's file.
    Model(usize),
}

/// All adapters of a checkpoint, and what they make of its weights.
#[derive(Default)]
pub(in crate::checkpoint) struct Adapters {
    list: Vec<(Adapter, AdapterInfo)>,
    patches: HashMap<Slot, Patch>,
    /// The adapter's number and the tensor that takes the slot.
    whole: HashMap<Slot, (usize, At)>,
}

impl Adapters {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn changes(&self, slot: Slot) -> bool {
        self.patches.contains_key(&slot) || self.whole.contains_key(&slot)
    }

    pub fn list(&self) -> impl Iterator<Item = &AdapterInfo> {
        self.list.iter().map(|(_, info)| info)
    }

    /// Adds an adapter for a model with these tensors.
    pub fn add(
        &mut self,
        adapter: Adapter,
        scale: f32,
        (names, layout, model): (&Names, &Layout, &Table),
    ) -> Result<&AdapterInfo, LoadError> {
        let number = self.list.len();
        let mut binding =
            Binding { adapter: &adapter, names, layout, model, pairs: BTreeMap::new(), whole: Vec::new() };
        binding.sort_out()?;
        let whole = binding.whole_slots()?;
        let products = binding.products(scale)?;
        let info = AdapterInfo {
            source: adapter.source.clone(),
            ranks: products.iter().map(|p| p.rank).collect::<BTreeSet<_>>().into_iter().collect(),
            alpha: adapter.config.alpha,
            targets: binding.targets(),
            matrices: products.len(),
            replaced: whole.len(),
            scale,
        };
        for (slot, at, tensor) in whole {
            if let Some((other, _)) = self.whole.insert(slot, (number, at)) {
                // Of one adapter, two names for one weight.
                let other = self.list.get(other).map_or(&adapter, |(adapter, _)| adapter).source.clone();
                return Err(LoadError::DuplicateTensor { file: adapter.source, other, tensor });
            }
        }
        for Product { slot, rank, scale, a, b } in products {
            self.patches.entry(slot).or_default().push(rank, scale, a, b);
        }
        self.list.push((adapter, info));
        Ok(&self.list[number].1)
    }

    /// Whether a tied model's head is no longer its embedding.
    pub fn unties(&self, layout: &Layout) -> bool {
        layout.head().is_none() && (self.changes(Slot::TiedHead) || self.changes(Slot::Tensor(layout.embedding())))
    }

    /// The model's weights with the adapters in them.
    pub fn weights<'a>(&'a self, layout: &Layout, table: &'a Table) -> ModelWeights<'a> {
        let view = |slot: Slot, tensor: usize| {
            let base = table.view(tensor);
            let whole = self.whole.get(&slot).map(|&(adapter, at)| match at {
                At::Own(i) => self.list[adapter].0.table.view(i),
                At::Model(i) => table.view(i),
            });
            // Under the base's name: quantising writes it so.
            TensorView { name: base.name, patch: self.patches.get(&slot), ..whole.unwrap_or(base) }
        };
        let mut weights = layout.weights(|tensor| view(Slot::Tensor(tensor), tensor));
        if self.unties(layout) {
            weights.lm_head = Some(TensorView { name: HEAD, ..view(Slot::TiedHead, layout.embedding()) });
            if names::canonical(weights.embedding.name) == HEAD {
                weights.embedding.name = "backbone.embeddings.weight";
            }
        }
        weights
    }
}

/// The A and B of a module.
#[derive(Default)]
struct Pair {
    a: Option<At>,
    b: Option<At>,
    embedding: bool,
}

/// What is added to a weight.
struct Product {
    slot: Slot,
    rank: usize,
    scale: f32,
    a: Vec<f32>,
    b: Vec<f32>,
}

struct Binding<'a> {
    adapter: &'a Adapter,
    names: &'a Names,
    layout: &'a Layout,
    model: &'a Table,
    /// By module.
    pairs: BTreeMap<String, Pair>,
    /// Canonical names.
    whole: Vec<(String, At)>,
}

impl<'a> Binding<'a> {
    fn table(&self, at: At) -> (&'a Table, usize) {
        match at {
            At::Own(i) => (&self.adapter.table, i),
            At::Model(i) => (self.model, i),
        }
    }

    fn stored(&self, at: At) -> (&'a str, &'a str) {
        let (table, i) = self.table(at);
        (&table.tensors[i].0.name, table.file(i))
    }

    fn view(&self, at: At) -> Result<TensorView<'a>, LoadError> {
        let (table, i) = self.table(at);
        Ok(table.view(table.usable(i)?))
    }

    /// Says of each tensor what it is.
    fn sort_out(&mut self) -> Result<(), LoadError> {
        let own = (0..self.adapter.table.tensors.len()).map(At::Own);
        let all: Vec<At> = own.chain(self.adapter.inside.iter().copied().map(At::Model)).collect();
        for at in all {
            let (name, file) = self.stored(at);
            let (module, embedding, is_a) = match Role::of(name) {
                Some(Role::A { module, embedding }) => (module, embedding, true),
                Some(Role::B { module, embedding }) => (module, embedding, false),
                Some(Role::Whole(whole)) => {
                    self.whole.push((whole, at));
                    continue;
                }
                None => {
                    let reason = names::why_it_matters(name).filter(|why| *why != names::LORA);
                    let reason = reason.unwrap_or("no part of a plain LoRA adapter");
                    return Err(LoadError::UnsupportedTensor { file: file.into(), tensor: name.into(), reason });
                }
            };
            let pair = self.pairs.entry(module).or_default();
            pair.embedding = embedding;
            let other = (if is_a { &mut pair.a } else { &mut pair.b }).replace(at);
            if let Some(other) = other {
                let (first, _) = self.stored(other);
                return Err(LoadError::AmbiguousNames { file: file.into(), first: first.into(), second: name.into() });
            }
        }
        self.adapter.config.not_saved(self.whole.iter().map(|(name, _)| name.as_str()))
    }

    /// The weight of the model that a name means, and its tensor.
    fn slot(&self, name: &str) -> Option<(Slot, usize)> {
        let rest = name.strip_prefix("backbone.").unwrap_or(name);
        let embedding = self.layout.embedding();
        if names::is_embedding(rest) {
            return Some((Slot::Tensor(embedding), embedding));
        }
        if rest == HEAD {
            return Some(self.layout.head().map_or((Slot::TiedHead, embedding), |head| (Slot::Tensor(head), head)));
        }
        let tensor = self.model.find(&format!("{}{rest}", self.names.prefix))?;
        self.layout.used().contains(&tensor).then_some((Slot::Tensor(tensor), tensor))
    }

    fn no_target(&self, at: At, target: &str) -> LoadError {
        let (tensor, file) = self.stored(at);
        LoadError::AdapterTarget { file: file.into(), tensor: tensor.into(), target: target.into() }
    }

    /// The whole tensors' places.
    fn whole_slots(&self) -> Result<Vec<(Slot, At, String)>, LoadError> {
        let place = |(name, at): &(String, At)| {
            let (slot, base) = self.slot(name).ok_or_else(|| self.no_target(*at, name))?;
            let (table, i) = self.table(*at);
            table.check(table.usable(i)?, "the base model's", self.model.shape(base))?;
            Ok((slot, *at, name.clone()))
        };
        self.whole.iter().map(place).collect()
    }

    /// The products' factors, as a (rank, k) and b (n, rank).
    fn products(&self, scale: f32) -> Result<Vec<Product>, LoadError> {
        let mut products = Vec::new();
        for (module, pair) in &self.pairs {
            let (Some(a), Some(b)) = (pair.a, pair.b) else {
                let there = pair.a.or(pair.b).map_or(("", ""), |at| self.stored(at));
                let (from, to) = if pair.a.is_some() { ("_A", "_B") } else { ("_B", "_A") };
                let (tensor, hint) = (there.0.replace(from, to), format!(": `{}` is there", there.0));
                return Err(LoadError::MissingTensor { file: there.1.into(), tensor, hint });
            };
            let weight = format!("{module}.weight");
            let (slot, base) = self.slot(&weight).ok_or_else(|| self.no_target(a, &weight))?;
            let &[n, k] = self.model.shape(base) else {
                let (tensor, file) = self.stored(a);
                let reason = "LoRA on what is no matrix";
                return Err(LoadError::UnsupportedTensor { file: file.into(), tensor: tensor.into(), reason });
            };
            let (view_a, view_b) = (self.view(a)?, self.view(b)?);
            let rank = view_a.shape.first().copied().unwrap_or(0);
            let check = |at: At, expected, shape: &[usize]| {
                let (table, i) = self.table(at);
                table.check(i, expected, shape)
            };
            let scale = scale * self.adapter.config.scaling(module, rank)?;
            let (a, b) = if pair.embedding {
                // Of an embedding (vocab_size, d_model), PEFT stores both the other way around.
                check(a, "(rank, vocab_size)", &[rank, n])?;
                check(b, "(d_model, rank)", &[k, rank])?;
                (transposed(&view_b.to_f32()?, rank), transposed(&view_a.to_f32()?, n))
            } else {
                check(a, "(rank, columns of the base)", &[rank, k])?;
                check(b, "(rows of the base, rank)", &[n, rank])?;
                (view_a.to_f32()?, view_b.to_f32()?)
            };
            products.push(Product { slot, rank, scale, a, b });
        }
        Ok(products)
    }

    /// The modules' names' ends.
    fn targets(&self) -> Vec<String> {
        let ends: BTreeSet<&str> = self.pairs.keys().filter_map(|module| module.rsplit('.').next()).collect();
        ends.into_iter().map(str::to_owned).collect()
    }
}

/// The transpose of a matrix with so many columns.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}
