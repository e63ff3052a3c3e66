//! Which stored tensor is which weight: finds every tensor, takes the dimensions from shapes, and checks all the others.

use super::{
    config::{Arch, Dims, FirstLayer, Found, Plan, RawConfig},
    names::{self, Names},
    quantised,
    shard::{Shard, Stored},
    weights::ModelWeights,
    Dtype, LoadError, TensorView,
};
use crate::model::blocks::{Param, Role, Shape, Weights};
use std::collections::HashMap;

/// All tensors of all shards.
pub(super) struct Table {
    pub shards: Vec<Shard>,
    /// A tensor and the shard it is in.
    pub tensors: Vec<(Stored, usize)>,
    /// By canonical names ([`names::canonical`]).
    by_name: HashMap<String, usize>,
    /// What stands before the canonical names as they are published.
    pub prefix: &'static str,
}

/// Names that a message lists.
const SUMMARY: usize = 6;

/// Positions in [`Table::tensors`].
pub(super) struct Layout {
    embedding: usize,
    layers: Vec<Weights<usize>>,
    norm_f: usize,
    lm_head: Option<usize>,
}

impl Table {
    pub fn new(shards: Vec<(Shard, Vec<Stored>)>) -> Result<Self, LoadError> {
        let mut table = Table { shards: Vec::new(), tensors: Vec::new(), by_name: HashMap::new(), prefix: "" };
        quantised::same_in_all(shards.iter().map(|(shard, _)| shard))?;
        for (i, (shard, tensors)) in shards.into_iter().enumerate() {
            let tensors = quantised::gather(&shard, tensors)?;
            table.shards.push(shard);
            for tensor in tensors {
                let canonical = names::canonical(&tensor.name).into_owned();
                if let Some(other) = table.by_name.insert(canonical, table.tensors.len()) {
                    let (file, first) = (table.shards[i].file.clone(), table.tensors[other].0.name.clone());
                    return Err(match first == tensor.name {
                        true => {
                            LoadError::DuplicateTensor { file, other: table.file(other).into(), tensor: tensor.name }
                        }
                        false => LoadError::AmbiguousNames { file, first, second: tensor.name },
                    });
                }
                table.tensors.push((tensor, i));
            }
        }
        Ok(table)
    }

    /// The canonical names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.by_name.keys().map(String::as_str)
    }

    /// What there is, for messages about names that are not: a handful of them.
    pub fn summary(&self) -> String {
        let mut patterns: Vec<String> = Vec::new();
        for (stored, _) in &self.tensors {
            let pattern = names::pattern(&stored.name);
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
            if patterns.len() > SUMMARY {
                break;
            }
        }
        let more = if patterns.len() > SUMMARY { ", ..." } else { "" };
        patterns.truncate(SUMMARY);
        let list = patterns.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match self.tensors.len() {
            0 => "; the file holds no tensors".into(),
            n => format!("; the {n} tensors there are called {list}{more}"),
        }
    }

    /// A canonical name for a message: as it is stored or, where it is not, as it is published.
    pub fn called(&self, name: &str) -> String {
        match self.find(name) {
            Some(tensor) => self.tensors[tensor].0.name.clone(),
            None => names::published(name, self.prefix).into_owned(),
        }
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn file(&self, tensor: usize) -> &str {
        &self.shards[self.tensors[tensor].1].file
    }

    pub fn shape(&self, tensor: usize) -> &[usize] {
        &self.tensors[tensor].0.shape
    }

    /// `name [shape]`, for messages.
    fn described(&self, tensor: usize) -> String {
        format!("{} {:?}", self.tensors[tensor].0.name, self.shape(tensor))
    }

    pub fn view(&self, tensor: usize) -> TensorView<'_> {
        let (stored, shard) = &self.tensors[tensor];
        let shard = &self.shards[*shard];
        // `usable` has refused every other type before a layout exists.
        let plain = || Dtype::from_stored(stored.dtype).unwrap_or(Dtype::F32);
        TensorView {
            name: &stored.name,
            dtype: stored.quantised.as_ref().map_or_else(plain, |(quant, _)| Dtype::Quantised(*quant)),
            shape: &stored.shape,
            data: &shard.bytes[stored.range.clone()],
            scales: stored.quantised.as_ref().map_or(&[], |(_, scales)| &shard.bytes[scales.clone()]),
            file: &shard.file,
            patch: None,
        }
    }

    /// Whether every tensor can be read, as numbers or as quantised here.
    pub fn is_plain(&self) -> bool {
        self.tensors.iter().all(|(t, _)| t.quantised.is_some() || Dtype::from_stored(t.dtype).is_some())
    }

    /// Where a missing tensor was looked for.
    pub fn place(&self) -> String {
        match &self.shards[..] {
            [one] => one.file.clone(),
            [first, .., last] => format!("{} ... {}", first.file, last.file),
            [] => "no file".into(),
        }
    }

    /// A tensor that must be there, of a type that can be read and with elements.
    pub fn required(&self, name: &str) -> Result<usize, LoadError> {
        let missing =
            || LoadError::MissingTensor { file: self.place(), tensor: self.called(name), hint: String::new() };
        self.usable(self.find(name).ok_or_else(missing)?)
    }

    pub fn usable(&self, tensor: usize) -> Result<usize, LoadError> {
        let (stored, _) = &self.tensors[tensor];
        let (file, name) = (self.file(tensor).to_string(), stored.name.clone());
        if stored.quantised.is_none() && Dtype::from_stored(stored.dtype).is_none() {
            return Err(LoadError::Dtype {
                file,
                tensor: name,
                dtype: stored.dtype.to_string(),
                allowed: "F32, F16 and BF16",
            });
        }
        if stored.shape.contains(&0) {
            return Err(LoadError::ZeroSize { file, tensor: name, found: stored.shape.clone() });
        }
        Ok(tensor)
    }

    pub fn check(&self, tensor: usize, expected: &'static str, shape: &[usize]) -> Result<usize, LoadError> {
        if self.shape(tensor) == shape {
            return Ok(tensor);
        }
        Err(LoadError::Shape {
            file: self.file(tensor).into(),
            tensor: self.tensors[tensor].0.name.clone(),
            found: self.shape(tensor).to_vec(),
            expected,
            shape: shape.to_vec(),
        })
    }

    /// The shape of a tensor that dimensions are read from.
    fn dimensions<const N: usize>(&self, tensor: usize, expected: &'static str) -> Result<[usize; N], LoadError> {
        <[usize; N]>::try_from(self.shape(tensor)).map_err(|_| LoadError::Rank {
            file: self.file(tensor).into(),
            tensor: self.tensors[tensor].0.name.clone(),
            found: self.shape(tensor).to_vec(),
            expected,
        })
    }

    /// Gives a convolution's weight in MLX's shape, (d_inner, d_conv, 1), that of Hugging Face; whether it was in MLX's.
    fn turn_mlx_convolution(&mut self, name: &str) -> bool {
        let Some(at) = self.find(name) else { return false };
        let shape = &mut self.tensors[at].0.shape;
        let mlx = matches!(shape[..], [_, taps, 1] if taps > 1);
        if mlx {
            shape.swap(1, 2);
        }
        mlx
    }

    /// Gives matrices of experts that are stored as one tensor, (experts, rows, columns), the shape of all their rows.
    fn lay_flat(&mut self, name: &str, flat: &[usize]) {
        let Some(at) = self.find(name) else { return };
        let shape = &mut self.tensors[at].0.shape;
        if let ([e, n, k], &[rows, columns]) = (&shape[..], flat) {
            if e.checked_mul(*n) == Some(rows) && *k == columns {
                *shape = flat.to_vec();
            }
        }
    }

    /// A tensor that only Mamba-2 has.
    pub fn mamba2_tensor(&self) -> Option<&str> {
        self.tensors.iter().map(|(t, _)| t.name.as_str()).find(|name| names::is_mamba2(name))
    }
}

/// The first layer, for the reader of its family.
struct First<'a> {
    table: &'a Table,
    names: &'a Names,
}

impl FirstLayer for First<'_> {
    fn dimensions<const N: usize>(&self, name: &str, symbols: &'static str) -> Result<[usize; N], LoadError> {
        self.table.dimensions(self.table.required(&self.names.layer(0, name))?, symbols)
    }
    fn has(&self, name: &str) -> bool {
        self.table.find(&self.names.layer(0, name)).is_some()
    }
    fn described(&self, name: &str) -> String {
        self.table.find(&self.names.layer(0, name)).map_or_else(|| name.into(), |tensor| self.table.described(tensor))
    }
    fn name(&self, name: &str) -> String {
        self.names.layer(0, name)
    }
    fn file(&self) -> String {
        self.table.place()
    }
}

impl Layout {
    /// Finds all weights but the head, whose place depends on the config.
    ///
    /// `embedding` is the tensor to use as such (the head's, in a tied checkpoint that stores only that). Convolutions that are stored as
    /// MLX does, (d_inner, d_conv, 1), get Hugging Face's shape: the numbers lie in the same order. `notes` hears of it.
    pub fn new(
        table: &mut Table,
        names: &Names,
        embedding: usize,
        (arch, raw, plan): (Arch, Option<&RawConfig>, Option<Plan>),
        notes: &mut Vec<String>,
    ) -> Result<(Self, Dims), LoadError> {
        let n_layer = names.n_layer(&table.place(), || table.summary())?;
        if (0..n_layer).filter(|i| table.turn_mlx_convolution(&names.layer(*i, "mixer.conv1d.weight"))).count() > 0 {
            notes.push("the convolutions are stored as MLX does, (d_inner, d_conv, 1)".into());
        }
        for (i, block) in plan.iter().flat_map(|plan| plan.blocks.iter().enumerate()) {
            for param in block.shape.params().iter().filter(|param| param.role == Role::Matrix) {
                table.lay_flat(&names.layer(i, &param.name), &param.shape);
            }
        }
        let table = &*table;
        let [vocab_size, d_model] = table.dimensions(embedding, "(vocab_size, d_model)")?;
        let (layers, checks) = match &plan {
            Some(plan) => {
                if let (Some(raw), Some(tensor)) = (raw, names.beyond(table.names())) {
                    return Err(raw.too_few_layers(&table.called(tensor)));
                }
                table.check(embedding, "(vocab_size, d_model)", &[vocab_size, plan.d_model])?;
                (plan.blocks.iter().map(|block| block.shape).collect(), Vec::new())
            }
            None => {
                let (layer, checks) = arch.layer(d_model, &First { table, names }, raw)?;
                (vec![layer; n_layer], checks)
            }
        };
        let dims = Dims {
            d_model,
            vocab_size,
            layers,
            embedding: table.described(embedding),
            last_layer: names.layer(n_layer - 1, "*"),
            checks,
            plan,
        };
        let norm_f = table.check(table.required(&names.norm_f())?, "(d_model)", &[d_model])?;
        let shapes = dims.layers.iter().enumerate();
        let layers = shapes.map(|(i, shape)| places(table, names, i, shape)).collect::<Result<Vec<_>, _>>()?;
        let layout = Layout { embedding, layers, norm_f, lm_head: None };
        layout.check_optional(table, names, &dims.layers)?;
        Ok((layout, dims))
    }

    /// Uses a head of its own.
    pub fn set_head(&mut self, table: &Table, head: usize, dims: &Dims) -> Result<(), LoadError> {
        table.usable(head)?;
        self.lm_head = Some(table.check(head, "(vocab_size, d_model)", &[dims.vocab_size, dims.d_model])?);
        Ok(())
    }

    /// Drops the head: the embedding serves as one.
    pub fn tie(&mut self) {
        self.lm_head = None;
    }

    pub fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    /// What one layer has of the parameters that a model may lack must be in all of its kind: they were trained together.
    fn check_optional(&self, table: &Table, names: &Names, shapes: &[Shape]) -> Result<(), LoadError> {
        let mut seen: Vec<&str> = Vec::new();
        for shape in shapes {
            if seen.contains(&shape.kind()) {
                continue;
            }
            seen.push(shape.kind());
            let like = |i: &usize| shapes[*i].kind() == shape.kind();
            for param in shape.params().into_iter().filter(|param| param.optional) {
                let has = |i: &usize| self.layers[*i].get(&param.name).is_some();
                let of_kind = || (0..shapes.len()).filter(like);
                if let (Some(with), Some(without)) = (of_kind().find(has), of_kind().find(|i| !has(i))) {
                    return Err(LoadError::MissingTensor {
                        file: table.place(),
                        tensor: table.called(&names.layer(without, &param.name)),
                        hint: format!(
                            ": a layer of the same kind has one, `{}`",
                            table.called(&names.layer(with, &param.name))
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// What there is of a parameter that a model may lack, such as `mixer.in_proj.bias`, in the layers of a kind; `None` without such
    /// layers.
    pub fn optional(&self, table: &Table, names: &Names, shapes: &[Shape], kind: &str, name: &str) -> Option<Found> {
        let first = shapes.iter().position(|shape| shape.kind() == kind)?;
        let canonical = names.layer(first, name);
        let stored = self.has(first, name);
        Some(Found { stored, tensor: table.called(&canonical), file: table.place() })
    }

    /// Whether a layer has a parameter.
    pub fn has(&self, layer: usize, name: &str) -> bool {
        self.layers.get(layer).is_some_and(|layer| layer.get(name).is_some())
    }

    /// Positions of all tensors in use.
    pub fn used(&self) -> Vec<usize> {
        let mut used = vec![self.embedding, self.norm_f];
        used.extend(self.lm_head);
        self.layers.iter().for_each(|layer| layer.for_each(&mut |_, tensor| used.push(*tensor)));
        used
    }

    /// All weights; `view` makes the view of a tensor.
    pub fn weights<'a>(&self, view: impl Fn(usize) -> TensorView<'a>) -> ModelWeights<'a> {
        ModelWeights {
            embedding: view(self.embedding),
            layers: self.layers.iter().map(|layer| layer.each(&mut |_, tensor| view(*tensor))).collect(),
            norm_f: view(self.norm_f),
            lm_head: self.lm_head.map(&view),
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn embedding(&self) -> usize {
        self.embedding
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn head(&self) -> Option<usize> {
        self.lm_head
    }
}

/// Where a layer's parameters are, each of the shape that its list says.
fn places(table: &Table, names: &Names, layer: usize, shape: &Shape) -> Result<Weights<usize>, LoadError> {
    let there = |param: &Param| table.find(&names.layer(layer, &param.name)).is_some();
    shape.build(&mut |param| shape.needs(param).unwrap_or_else(|| there(param)), &mut |param| {
        let found = table.required(&names.layer(layer, &param.name)).map_err(|error| match error {
            LoadError::MissingTensor { file, tensor, .. } => {
                LoadError::MissingTensor { file, tensor, hint: names.why(layer).into() }
            }
            other => other,
        });
        table.check(found?, param.symbols, &param.shape)
    })
}
