//! What layers of all kinds share on a device.

use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, Linear, RmsNorm, WeightMatrix, COOP_TILE};

/// Gives a parameter's values as they are stored, by its name; `None` of one that is not there.
pub(crate) type Host<'a, E> = dyn FnMut(&str) -> Result<Option<Vec<f32>>, E> + 'a;

/// Biases of matrices whose outputs lie one behind the other, (name, outputs, factor), as one; `None` where none has any.
pub(crate) fn stacked_bias<E: From<GpuError>>(
    gpu: &Gpu,
    of: &[(&str, usize, f32)],
    host: &mut Host<'_, E>,
) -> Result<Option<Tensor>, E> {
    let (mut all, mut any) = (Vec::new(), false);
    for &(name, n, factor) in of {
        let bias = host(name)?;
        any |= bias.is_some();
        all.extend(bias.unwrap_or_else(|| vec![0.0; n]).iter().map(|b| factor * b));
    }
    Ok(any.then(|| Tensor::new(gpu, "bias", &all)).transpose()?)
}

/// A linear layer over l tokens, from rows of its inputs to rows of `width`, of which it may fill a part; a matrix or several that are
/// stacked.
pub(crate) fn dense(
    plan: &mut PlanBuilder<'_>,
    x: &Tensor,
    matrices: &[WeightMatrix],
    bias: Option<&Tensor>,
    (y, width): (&Tensor, usize),
    l: usize,
) -> Result<(), GpuError> {
    matrices.iter().try_for_each(|w| {
        let shape = Linear { l, x_stride: w.k(), y_stride: width, softplus: false };
        kernels::linear(plan, x, w, bias, y, shape)
    })
}

/// What runs through all layers.
pub(crate) struct Stream<'a> {
    pub residual: &'a Tensor, // (L, d_model)
    pub normed: &'a Tensor,   // (L, d_model), act
    pub hidden: &'a Tensor,   // (L, d_model): what a layer adds to `residual`, once the next one begins
    pub texts: &'a Tensor,    // (L, TEXT): whose tokens they are
    /// Of the norm before each layer.
    pub norm_eps: f32,
}

impl Stream<'_> {
    /// The norm before a layer: `residual` with what the layer before adds to it, into `normed`.
    pub fn norm(&self, plan: &mut PlanBuilder<'_>, weight: &WeightMatrix, chunk: Chunk<'_>) -> Result<(), GpuError> {
        let weight = weight.tensor();
        let norm = RmsNorm { rows: chunk.l, row0: 0, d: weight.elements(), eps: self.norm_eps };
        let hidden = (!chunk.first).then_some(self.hidden);
        kernels::rms_norm(plan, self.residual, hidden, weight, self.normed, norm)
    }
}

/// A layer's states, of each slot one: what its kind does not keep has no elements.
pub(crate) struct LayerState {
    pub conv: Tensor,
    pub ssm: Tensor,
    /// Of attention.
    pub kept: Option<Kept>,
}

/// Keys and values of all texts in pages, and which of them are whose.
pub(crate) struct Kept {
    pub keys: Tensor,   // (pages, kv_heads, head_dim, PAGE)
    pub values: Tensor, // (pages, kv_heads, PAGE, head_dim)
    pub table: Tensor,  // (slots, pages of a text), u32
}

/// Which tokens go through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk<'a> {
    /// All of them.
    pub l: usize,
    /// No layer was before: nothing is to be added to the residual stream.
    pub first: bool,
    pub way: Way<'a>,
}

/// How they go, and whose they are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way<'a> {
    /// By the parallel kernels: of so many texts as many tokens each, one text after the other, with states in the first slots.
    Texts(usize),
    /// By the recurrent ones: a token of each of l texts, and which these are ([`kernels::TEXT`]).
    Step(&'a Tensor),
}

/// In which format a chunk's activations are held, and where it is noticed that one is beyond f16.
pub(crate) struct Numbers {
    pub format: NumberFormat,
    /// Whether f16 may be used: activations in it, or products by halves.
    pub watch: bool,
    /// 1, then.
    pub beyond: Option<Tensor>,
}

impl Numbers {
    pub fn new(format: NumberFormat, watch: bool) -> Self {
        Self { format, watch, beyond: None }
    }

    /// Lets a flag that a kernel has anyway be the one.
    pub fn watch_by(&mut self, flag: &Tensor) {
        if self.watch && self.beyond.is_none() {
            self.beyond = Some(flag.clone());
        }
    }

    /// Makes a flag where no kernel has one.
    pub fn end(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        if self.watch && self.beyond.is_none() {
            self.beyond = Some(Tensor::zeros(gpu, "beyond f16", 1)?);
        }
        Ok(())
    }

    /// What is multiplied by matrices is watched where it is stored.
    pub fn factor(&self, tensor: Tensor) -> Tensor {
        match &self.beyond {
            Some(flag) => tensor.watched_by(flag),
            None => tensor.of_any_size(),
        }
    }

    /// Rows of what cooperative matrices write for l tokens.
    pub fn tall(&self, gpu: &Gpu, l: usize) -> usize {
        if l > 1 && gpu.cooperative() {
            l.next_multiple_of(COOP_TILE)
        } else {
            l
        }
    }
}
