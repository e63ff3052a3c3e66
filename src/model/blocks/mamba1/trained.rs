//! A Mamba layer in training: forwards with all kept that the way back reads, and back (docs/backward.md).

use super::{Shape, Weights};
use crate::gpu::shader::WeightFormat;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::backward::{
    self as grads, Conv1dGrads, LinearGrad, MatmulGrads, RmsNormGrads, ScanGrads, ScanTape, Scratch, ScratchShape,
    TrainScan,
};
use crate::kernels::{self, Conv1d, ConvShape, Linear, RmsNorm, ScanBuffers, ScanShape, WeightMatrix};
use crate::model::blocks;
use serde::{Deserialize, Serialize};

/// What a layer without selectivity has instead of [`SELECTIVE`]: (d_inner, d_state).
pub(crate) const C: &str = "mixer.C";
/// Parameters that make delta, B and C of the input.
pub(crate) const SELECTIVE: [&str; 2] = ["mixer.x_proj.weight", "mixer.dt_proj.weight"];

/// A layer as runs train it: all that they say of it besides d_model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trained {
    pub d_state: usize,
    pub d_conv: usize,
    pub expand: usize,
    /// Rank of the projection that gives delta; `None`: d_model / 16, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dt_rank: Option<usize>,
    /// Selectivity off: delta, B and C do not depend on the input (S4D-real), and there is neither x_proj nor dt_proj.weight.
    pub lti: bool,
}

impl Default for Trained {
    fn default() -> Self {
        Self { d_state: 16, d_conv: 4, expand: 2, dt_rank: None, lti: false }
    }
}

impl Trained {
    /// That of a model's layers.
    ///
    /// # Errors
    /// What the trainer does not know of the layers.
    pub fn of(layer: &Shape) -> Result<Self, String> {
        let &Shape { d_model, d_inner, d_state, d_conv, dt_rank, .. } = layer;
        let trained = Self { d_state, d_conv, expand: d_inner / d_model.max(1), ..Self::default() };
        if trained.shape(d_model).d_inner != d_inner {
            return Err(format!("its d_inner is {d_inner}, no multiple of its d_model, {d_model}"));
        }
        let dt_rank = Some(dt_rank).filter(|&rank| rank != Shape::usual_rank(d_model));
        Ok(Self { dt_rank, ..trained })
    }

    /// Whether the trainer knows all parameters of a layer, and they all that it needs.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn knows<T>(weights: &blocks::Weights<T>) -> Result<(), &'static str> {
        if weights.get("mixer.conv1d.bias").is_none() {
            return Err("its convolution has no bias");
        }
        if ["mixer.in_proj.bias", "mixer.out_proj.bias"].iter().any(|name| weights.get(name).is_some()) {
            return Err("in_proj and out_proj must have no bias");
        }
        Ok(())
    }

    pub fn shape(&self, d_model: usize) -> Shape {
        let &Self { d_state, d_conv, expand, dt_rank, .. } = self;
        let usual = Shape::of(d_model);
        Shape { d_inner: expand * d_model, d_state, d_conv, dt_rank: dt_rank.unwrap_or(usual.dt_rank), ..usual }
    }

    /// Sizes that may be chosen, and the most that each may be: beyond what is trained, so that nothing computed of them overflows.
    pub(crate) fn sizes(&self, d_model: usize) -> [(&'static str, u64, u64); 4] {
        [
            ("d-state", self.d_state as u64, ScanShape::MAX_STATES as u64),
            ("d-conv", self.d_conv as u64, 1 << 10),
            ("expand", self.expand as u64, 1 << 4),
            ("dt-rank", self.dt_rank.unwrap_or(Shape::usual_rank(d_model)) as u64, 1 << 16),
        ]
    }

    /// How many parameters a layer has, with selectivity.
    pub(crate) fn parameters(&self, d_model: usize) -> u128 {
        let params = self.shape(d_model).params();
        let known = params.iter().filter(|param| !param.optional || param.name == "mixer.conv1d.bias");
        known.map(|param| param.shape.iter().map(|&n| n as u128).product::<u128>()).sum()
    }
}

/// A layer's parameters, or their gradients.
pub(crate) struct Layer {
    /// Without selectivity x_proj and dt_proj have no rows.
    w: Weights<WeightMatrix>,
    /// (d_inner, d_state), without selectivity.
    c: Option<WeightMatrix>,
}

impl Layer {
    /// `find`: the parameter, or the gradient, of a name.
    pub fn new<E>(pass: &Pass, find: &mut dyn FnMut(&str) -> Result<WeightMatrix, E>) -> Result<Self, E> {
        let c = if pass.trained.lti { Some(find(C)?) } else { None };
        let none = WeightMatrix::from_parts(Vec::new(), (0, 0), WeightFormat::F32);
        let w = Weights::build(&pass.shape, &mut |param| param.name == "mixer.conv1d.bias", &mut |param| match c
            .is_some()
            && SELECTIVE.contains(&&*param.name)
        {
            true => Ok(none.clone()),
            false => find(&param.name),
        })?;
        Ok(Self { w, c })
    }
}

/// What goes through layers at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    trained: Trained,
    shape: Shape,
    /// Sequences of so many tokens each; all of them together are rows.
    sequences: usize,
    length: usize,
    norm_eps: f32,
}

impl Pass {
    pub fn new(trained: Trained, d_model: usize, (sequences, length): (usize, usize), norm_eps: f32) -> Self {
        Self { trained, shape: trained.shape(d_model), sequences, length, norm_eps }
    }

    fn rows(&self) -> usize {
        self.sequences * self.length
    }

    fn scan(&self) -> TrainScan {
        TrainScan { batch: self.sequences, shape: self.shape.scan(self.length), lti: self.trained.lti }
    }

    fn conv(&self) -> ConvShape {
        self.shape.conv(self.length)
    }

    /// Of all sequences.
    pub fn state_elements(&self, name: &str) -> usize {
        self.sequences * blocks::Shape::Mamba1(self.shape).state_elements(name)
    }

    fn norm(&self) -> RmsNorm {
        RmsNorm { rows: self.rows(), row0: 0, d: self.shape.d_model, eps: self.norm_eps }
    }

    fn linear(&self, x_stride: usize, y_stride: usize) -> Linear {
        Linear { l: self.rows(), x_stride, y_stride, softplus: false }
    }

    /// Columns of x_dbl, which is not there without selectivity.
    fn x_dbl(&self) -> usize {
        if self.trained.lti {
            0
        } else {
            self.shape.x_dbl_width()
        }
    }
}

/// What runs through all layers.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub residual: &'a Tensor,      // (rows, d_model)
    pub added: Option<&'a Tensor>, // (rows, d_model): what the layer before adds to it
    pub sum: &'a Tensor,           // (rows, d_model): both
    pub hidden: &'a Tensor,        // (rows, d_model): what this layer adds
}

/// A layer's states, of each sequence one.
#[derive(Clone, Copy)]
pub(crate) struct States<'a> {
    pub conv: &'a Tensor, // (sequences, d_conv, d_inner), zeros
    pub ssm: &'a Tensor,  // (sequences, d_inner, d_state)
}

/// What a layer's forward pass leaves for its backward pass.
pub(crate) struct Kept {
    normed: Tensor, // (rows, d_model)
    xz: Tensor,     // (rows, 2 d_inner)
    u: Tensor,      // (rows, d_inner)
    x_dbl: Tensor,  // (rows, dt_rank + 2 d_state)
    delta: Tensor,  // (rows, d_inner); LTI: (d_inner)
    y: Tensor,      // (rows, d_inner)
    a: Tensor,      // (d_inner, d_state)
    scan: ScanTape,
}

impl Kept {
    /// For the layer of a number.
    pub fn new(gpu: &Gpu, pass: &Pass, layer: usize) -> Result<Self, GpuError> {
        let &Shape { d_model, d_inner, d_state, .. } = &pass.shape;
        let rows = pass.rows();
        let zeros = |what: &str, elements| Tensor::zeros(gpu, &format!("layers.{layer} {what}"), elements);
        Ok(Self {
            normed: zeros("normed", rows * d_model)?,
            xz: zeros("xz", rows * 2 * d_inner)?,
            u: zeros("u", rows * d_inner)?,
            x_dbl: zeros("x_dbl", rows * pass.x_dbl())?,
            delta: zeros("delta", if pass.trained.lti { d_inner } else { rows * d_inner })?,
            y: zeros("y", rows * d_inner)?,
            a: zeros("A", d_inner * d_state)?,
            scan: ScanTape::new(gpu, pass.scan())?,
        })
    }

    /// In the order of the forward pass.
    pub fn activations(&self) -> [&Tensor; 6] {
        [&self.normed, &self.xz, &self.u, &self.x_dbl, &self.delta, &self.y]
    }
}

/// Gradients on their way down, which all layers share.
pub(crate) struct Back {
    pub residual: Tensor, // (rows, d_model): of the stream
    pub normed: Tensor,   // (rows, d_model)
    xz: Tensor,           // (rows, 2 d_inner)
    x_dbl: Tensor,        // (rows, dt_rank + 2 d_state)
    y: Tensor,            // (rows, d_inner)
    pub scratch: Scratch,
}

impl Back {
    pub fn new(gpu: &Gpu, pass: &Pass) -> Result<Self, GpuError> {
        let &Shape { d_model, d_inner, .. } = &pass.shape;
        let zeros = |what: &str, width| Tensor::zeros(gpu, &format!("gradient of {what}"), pass.rows() * width);
        Ok(Self {
            residual: zeros("the residual stream", d_model)?,
            normed: zeros("normed", d_model)?,
            xz: zeros("xz", 2 * d_inner)?,
            x_dbl: zeros("x_dbl", pass.x_dbl())?,
            y: zeros("y", d_inner)?,
            scratch: Scratch::new(gpu, scratch_shape(&pass.shape, pass.rows(), pass.sequences))?,
        })
    }
}

/// What the gradients of layers need to sum in.
pub(super) fn scratch_shape(layer: &Shape, rows: usize, batch: usize) -> ScratchShape {
    let &Shape { d_model, d_inner, d_state, d_conv, dt_rank, .. } = layer;
    ScratchShape { rows, batch, d_model, d_inner, d_state, d_conv, dt_rank }
}

impl Layer {
    /// What does not depend on a batch: A, and without selectivity delta.
    pub fn prepare(&self, plan: &mut PlanBuilder<'_>, k: &Kept) -> Result<(), GpuError> {
        grads::negative_exp(plan, self.w.a_log.tensor(), &k.a, k.a.elements())?;
        if self.c.is_some() {
            grads::softplus(plan, self.w.dt_proj_bias.tensor(), &k.delta, k.delta.elements())?;
        }
        Ok(())
    }

    /// From the stream's `residual` and `added` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        pass: &Pass,
        k: &Kept,
        stream: Stream<'_>,
        states: States<'_>,
    ) -> Result<(), GpuError> {
        let (p, s) = (&self.w, &pass.shape);
        let (d_model, d_inner, width) = (s.d_model, s.d_inner, s.x_dbl_width());
        let Stream { residual, added, sum, hidden } = stream;
        grads::rms_norm_train(plan, residual, added, sum, p.norm.tensor(), &k.normed, pass.norm())?;
        kernels::matmul(plan, &k.normed, &p.in_proj, None, &k.xz, pass.linear(d_model, 2 * d_inner))?;
        let conv = Conv1d {
            xz: &k.xz,
            conv_state: states.conv,
            weight: p.conv1d.tensor(),
            bias: p.conv1d_bias.as_ref().map(WeightMatrix::tensor),
            u: &k.u,
        };
        grads::conv1d_batch(plan, &conv, pass.sequences, pass.conv())?;
        if self.c.is_none() {
            kernels::matmul(plan, &k.u, &p.x_proj, None, &k.x_dbl, pass.linear(d_inner, width))?;
            let delta = Linear { softplus: true, ..pass.linear(width, d_inner) };
            kernels::matmul(plan, &k.x_dbl, &p.dt_proj, Some(p.dt_proj_bias.tensor()), &k.delta, delta)?;
        }
        let buffers = ScanBuffers {
            u: &k.u,
            delta: &k.delta,
            a: &k.a,
            x_dbl: self.c.as_ref().map_or(&k.x_dbl, WeightMatrix::tensor),
            d: p.d.tensor(),
            xz: &k.xz,
            ssm_state: states.ssm,
            y: &k.y,
        };
        grads::scan_train(plan, &k.scan, &buffers, pass.scan())?;
        kernels::matmul(plan, &k.y, &p.out_proj, None, hidden, pass.linear(d_inner, d_model))
    }

    /// `b.residual`, the gradient of the stream above the layer, becomes that of the stream below; `sum`: the stream into the layer.
    pub fn backward(
        &self,
        plan: &mut PlanBuilder<'_>,
        grad: &Layer,
        (pass, k, b): (&Pass, &Kept, &Back),
        sum: &Tensor,
        states: States<'_>,
    ) -> Result<(), GpuError> {
        let (p, g, s) = (&self.w, &grad.w, &pass.shape);
        let (d_model, d_inner, width) = (s.d_model, s.d_inner, s.x_dbl_width());
        let linear = |x_stride, y_stride| LinearGrad { l: pass.rows(), x_stride, y_stride };

        // hidden = y out_proj^T: the stream's gradient is hidden's too.
        let out_proj = MatmulGrads { x: &k.y, w: &p.out_proj, grad_y: &b.residual, grad_x: &b.y, grad_w: &g.out_proj };
        grads::matmul_grad(plan, &b.scratch, &out_proj, linear(d_inner, d_model), false)?;

        let scan = ScanGrads {
            u: &k.u,
            a: &k.a,
            x_dbl: self.c.as_ref().map_or(&k.x_dbl, WeightMatrix::tensor),
            d: p.d.tensor(),
            xz: &k.xz,
            delta: &k.delta,
            grad_y: &b.y,
            grad_xz: &b.xz,
            grad_x_dbl: grad.c.as_ref().map_or(&b.x_dbl, WeightMatrix::tensor),
            grad_a_log: g.a_log.tensor(),
            grad_d: g.d.tensor(),
            grad_dt_bias: g.dt_proj_bias.tensor(),
            grad_state: states.ssm,
        };
        grads::scan_backward(plan, &b.scratch, &k.scan, &scan, pass.scan())?;

        // b.y is the gradient of u now, and k.delta that of what dt_proj gives.
        if self.c.is_none() {
            let dt = MatmulGrads { x: &k.x_dbl, w: &p.dt_proj, grad_y: &k.delta, grad_x: &b.x_dbl, grad_w: &g.dt_proj };
            grads::matmul_grad(plan, &b.scratch, &dt, linear(width, d_inner), false)?;
            let x = MatmulGrads { x: &k.u, w: &p.x_proj, grad_y: &b.x_dbl, grad_x: &b.y, grad_w: &g.x_proj };
            grads::matmul_grad(plan, &b.scratch, &x, linear(d_inner, width), true)?;
        }
        let conv = Conv1dGrads {
            xz: &k.xz,
            weight: p.conv1d.tensor(),
            bias: p.conv1d_bias.as_ref().map(WeightMatrix::tensor),
            grad_u: &b.y,
            grad_xz: &b.xz,
            grad_weight: g.conv1d.tensor(),
            grad_bias: g.conv1d_bias.as_ref().map(WeightMatrix::tensor),
        };
        grads::conv1d_backward(plan, &b.scratch, &conv, pass.sequences, pass.conv())?;

        let in_proj = MatmulGrads { x: &k.normed, w: &p.in_proj, grad_y: &b.xz, grad_x: &b.normed, grad_w: &g.in_proj };
        grads::matmul_grad(plan, &b.scratch, &in_proj, linear(d_model, 2 * d_inner), false)?;
        let norm = RmsNormGrads {
            x: sum,
            weight: p.norm.tensor(),
            grad_y: &b.normed,
            grad_x: &b.residual,
            grad_weight: g.norm.tensor(),
        };
        grads::rms_norm_backward(plan, &b.scratch, &norm, pass.norm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_can_be_trained_is_told_from_its_shape() {
        let usual = Shape::of(96);
        assert_eq!(Trained::of(&usual), Ok(Trained::default()));
        let odd = Shape { d_inner: 3 * 96, d_state: 5, d_conv: 2, dt_rank: 7, ..usual };
        let trained = Trained::of(&odd).unwrap();
        assert_eq!(trained, Trained { d_state: 5, d_conv: 2, expand: 3, dt_rank: Some(7), lti: false });
        assert_eq!((trained.shape(96), trained.sizes(96)[3].1), (odd, 7));
        assert!(Trained::of(&Shape { d_inner: 100, ..usual })
            .unwrap_err()
            .contains("100, no multiple of its d_model, 96"));
    }
}
