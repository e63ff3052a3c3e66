//! The parameters, their gradients and AdamW's moments on the device.
//!
//! All of them lie in a few buffers, one after the other (an `Arena` is as long as one binding may be): a step over all of
//! them is one dispatch an arena. Matrices that decay come first. A matrix larger than an arena is split by rows.

use super::named::{named_tensors, NamedTensor};
use super::random::{Purpose, Stream};
use super::{Settings, Shape, TrainError};
use crate::error::Result;
use crate::gpu::shader::WeightFormat;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, AdamBuffers, AdamW, StepTensors, WeightMatrix, WeightPart};
use crate::model::blocks::mamba1::trained::{C, SELECTIVE};
use std::collections::BTreeMap;

/// Bound slices begin at multiples of so many elements.
const ALIGN: usize = 64;

/// A run of a parameter's rows in an arena.
#[derive(Debug, Clone, Copy)]
struct Piece {
    arena: usize,
    at: usize,
    row_start: usize,
    rows: usize,
}

#[derive(Debug, Clone)]
struct Parameter {
    name: String,
    shape: Vec<usize>,
    rows: usize,
    columns: usize,
    /// Elements of a row on the device: columns, or of a matrix whole quads.
    stride: usize,
    pieces: Vec<Piece>,
}

struct Arena {
    value: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    decayed: usize,
}

/// What a tensor of an arena is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Value,
    Gradient,
    M,
    V,
}

/// Whether a parameter decays: matrices do.
fn decays(name: &str, shape: &[usize]) -> bool {
    shape.len() > 1 && !name.ends_with(".A_log") && !name.ends_with(".C")
}

/// Whether kernels take it as a `WeightMatrix`.
fn is_matrix(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && !name.ends_with(".A_log") && !name.ends_with(".C")
}

/// All parameters of a model.
pub struct Parameters {
    shape: Shape,
    vocab_size: usize,
    list: Vec<Parameter>,
    by_name: BTreeMap<String, usize>,
    arenas: Vec<Arena>,
}

/// A model's parameters before the first step: Mamba's initialisation ([`crate::checkpoint::synthetic`]). With selectivity off, C is
/// normal, and what makes delta, B and C of the input is not there.
///
/// # Errors
/// A dimension of 0.
pub(super) fn initial(settings: &Settings) -> Result<Vec<NamedTensor>> {
    let shape = &settings.shape;
    let checkpoint = shape.spec(settings.task.vocab_size(), settings.seed).checkpoint()?;
    let mut tensors = named_tensors(&checkpoint.weights())?;
    if shape.layer.lti {
        tensors.retain(|t| !SELECTIVE.iter().any(|end| t.name.ends_with(end)));
        // (channels, states), as A_log.
        let rates = tensors.iter().filter_map(|t| Some((t.name.strip_suffix("mixer.A_log")?, &t.shape)));
        let mut cs: Vec<_> = rates.map(|(layer, shape)| (format!("{layer}{C}"), shape.clone())).collect();
        for (layer, (name, shape)) in cs.drain(..).enumerate() {
            let mut random = Stream::new(settings.seed, Purpose::Initialisation, layer as u64);
            let values = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
            tensors.push(NamedTensor { name, shape, values });
        }
    }
    Ok(tensors)
}

impl Parameters {
    /// Brings parameters to a device, moments and gradients zero.
    ///
    /// # Errors
    /// A row larger than a binding may be; a full memory.
    pub fn new(gpu: &Gpu, shape: &Shape, vocab_size: usize, tensors: &[NamedTensor]) -> Result<Self> {
        let limit = (gpu.max_binding() / 4) as usize / ALIGN * ALIGN;
        let mut order: Vec<&NamedTensor> = tensors.iter().collect();
        // By name, in whatever order they come: the gradient's norm is a sum in this order.
        order.sort_by_key(|t| (!decays(&t.name, &t.shape), t.name.as_str()));
        let (mut list, mut lengths, mut decayed) = (Vec::new(), vec![0usize], vec![0usize]);
        for tensor in order {
            let (rows, columns) = match is_matrix(&tensor.name, &tensor.shape) {
                true => (tensor.shape[0], tensor.shape[1]),
                false => (1, tensor.values.len()),
            };
            let stride =
                if rows > 1 || is_matrix(&tensor.name, &tensor.shape) { columns.next_multiple_of(4) } else { columns };
            if stride > limit {
                let (kernel, label) = ("adamw".to_owned(), tensor.name.clone());
                let (bytes, limit) = (4 * stride as u64, gpu.max_binding());
                return Err(GpuError::BindingTooLarge { kernel, label, bytes, limit }.into());
            }
            let mut pieces = Vec::new();
            let mut row_start = 0;
            while row_start < rows {
                let last = lengths.len() - 1;
                let fit = (limit - lengths[last]) / stride.max(1);
                // A tensor that fits into an arena of its own is not split.
                if fit == 0 || (fit < rows - row_start && (rows - row_start) * stride <= limit) {
                    lengths.push(0);
                    decayed.push(0);
                    continue;
                }
                let count = fit.min(rows - row_start);
                pieces.push(Piece { arena: last, at: lengths[last], row_start, rows: count });
                lengths[last] += (count * stride).next_multiple_of(ALIGN);
                if decays(&tensor.name, &tensor.shape) {
                    decayed[last] = lengths[last];
                }
                row_start += count;
            }
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            list.push(Parameter { name, shape, rows, columns, stride, pieces });
        }
        let arena = |(&length, &decayed): (&usize, &usize)| {
            let zeros = |label| Tensor::zeros(gpu, label, length);
            let (value, gradient) = (zeros("parameters")?, zeros("gradients")?);
            Ok(Arena { value, gradient, m: zeros("adamw m")?, v: zeros("adamw v")?, decayed })
        };
        let arenas = lengths.iter().zip(&decayed).map(arena).collect::<Result<Vec<_>, GpuError>>()?;
        let by_name = list.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        let parameters = Self { shape: shape.clone(), vocab_size, list, by_name, arenas };
        parameters.write(gpu, Side::Value, tensors)?;
        gpu.check()?;
        Ok(parameters)
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
    /// Numbers that are trained.
    pub fn count(&self) -> usize {
        self.list.iter().map(|p| p.rows * p.columns).sum()
    }
    /// Whether there is a parameter of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn tensor_of(&self, arena: usize, side: Side) -> &Tensor {
        let arena = &self.arenas[arena];
        match side {
            Side::Value => &arena.value,
            Side::Gradient => &arena.gradient,
            Side::M => &arena.m,
            Side::V => &arena.v,
        }
    }

    /// A parameter: its values or its gradient.
    pub(super) fn find(&self, name: &str, side: Side) -> Result<WeightMatrix, TrainError> {
        let missing =
            || TrainError::Tensor { file: "the model".into(), tensor: name.into(), problem: "is not there".into() };
        let p = self.by_name.get(name).map(|&i| &self.list[i]).ok_or_else(missing)?;
        let part = |piece: &Piece| WeightPart {
            tensor: self.tensor_of(piece.arena, side).slice(piece.at, piece.rows * p.stride),
            scales: None,
            row_start: piece.row_start,
            rows: piece.rows,
        };
        let parts = p.pieces.iter().map(part).collect();
        Ok(WeightMatrix::from_parts(parts, (p.rows, p.columns), WeightFormat::F32))
    }

    /// Forgets all gradients.
    pub(super) fn clear_gradients(&self, encoder: &mut wgpu::CommandEncoder) {
        for arena in &self.arenas {
            encoder.clear_buffer(arena.gradient.buffer(), 0, None);
        }
    }

    /// Partial sums that the norm of all gradients takes.
    pub(super) fn partial_sums(&self) -> usize {
        self.arenas.iter().map(|a| kernels::partial_sums(a.gradient.elements())).sum()
    }

    /// The step from the gradients to the parameters.
    pub(super) fn optimise(
        &self,
        plan: &mut PlanBuilder<'_>,
        t: &StepTensors<'_>,
        adam: &AdamW,
    ) -> Result<(), GpuError> {
        let mut count = 0;
        for arena in &self.arenas {
            count += kernels::gradient_norm(plan, &arena.gradient, t.partials, count)?;
        }
        kernels::gradient_clip(plan, t, count, adam.max_norm)?;
        for a in &self.arenas {
            let b = AdamBuffers { value: &a.value, gradient: &a.gradient, m: &a.m, v: &a.v, decayed: a.decayed };
            kernels::adamw(plan, &b, t, adam)?;
        }
        Ok(())
    }

    /// Replaces what is on the device: every tensor must be given.
    pub(super) fn write(&self, gpu: &Gpu, side: Side, tensors: &[NamedTensor]) -> Result<(), TrainError> {
        let mut given: BTreeMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        for p in &self.list {
            let fail =
                |problem: String| TrainError::Tensor { file: "the checkpoint".into(), tensor: p.name.clone(), problem };
            let tensor = given.remove(p.name.as_str()).ok_or_else(|| fail("is missing".into()))?;
            if tensor.shape != p.shape || tensor.values.len() != p.rows * p.columns {
                return Err(fail(format!("has the shape {:?}, expected {:?}", tensor.shape, p.shape)));
            }
            for piece in &p.pieces {
                let rows = &tensor.values[piece.row_start * p.columns..(piece.row_start + piece.rows) * p.columns];
                let to = self.tensor_of(piece.arena, side);
                if p.stride == p.columns {
                    to.write(gpu, piece.at, rows);
                } else {
                    let mut padded = vec![0.0; piece.rows * p.stride];
                    for (to, from) in padded.chunks_exact_mut(p.stride).zip(rows.chunks_exact(p.columns)) {
                        to[..p.columns].copy_from_slice(from);
                    }
                    to.write(gpu, piece.at, &padded);
                }
            }
        }
        Ok(())
    }

    /// All tensors of a side, in the model's order.
    pub(super) async fn read(&self, gpu: &Gpu, side: Side) -> Result<Vec<NamedTensor>> {
        let mut arenas: Vec<Vec<f32>> = Vec::new();
        for i in 0..self.arenas.len() {
            arenas.push(self.tensor_of(i, side).read(gpu).await?);
        }
        let tensor = |p: &Parameter| {
            let mut values = Vec::with_capacity(p.rows * p.columns);
            for piece in &p.pieces {
                let stored = &arenas[piece.arena][piece.at..piece.at + piece.rows * p.stride];
                stored.chunks_exact(p.stride.max(1)).for_each(|row| values.extend(&row[..p.columns]));
            }
            NamedTensor { name: p.name.clone(), shape: p.shape.clone(), values }
        };
        Ok(self.list.iter().map(tensor).collect())
    }
}
