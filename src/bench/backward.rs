//! One row each of the kernels that only training needs, and that are not one kind of layer's.

use super::kernels::REPEATS;
use super::measure::{Kind, Meter};
use super::report::Row;
use super::shapes::Shapes;
use super::suite::Suite;
use crate::error::Result;
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::backward::{
    cross_entropy, matmul_grad_w, matmul_grad_x, rms_norm_backward, CrossEntropy, LinearGrad, RmsNormGrads, Scratch,
    ScratchShape,
};
use crate::kernels::{self, adamw, fill_matrix, AdamBuffers, AdamW, RmsNorm, Step, StepTensors, WeightMatrix};

/// A kernel and its sizes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kernel {
    /// Of x, or of w.
    MatmulGrad {
        x: bool,
        l: usize,
        n: usize,
        k: usize,
    },
    RmsNorm {
        rows: usize,
        d: usize,
    },
    CrossEntropy {
        rows: usize,
        vocab_size: usize,
    },
    AdamW {
        elements: usize,
    },
}

/// The rows that there are.
pub(super) fn kernels(shapes: &Shapes) -> Vec<Kernel> {
    let mut all = Vec::new();
    for &[l, n, k] in &shapes.matmul_grad {
        all.extend([true, false].map(|x| Kernel::MatmulGrad { x, l, n, k }));
    }
    all.extend(shapes.rms_norm_backward.iter().map(|&(d, rows)| Kernel::RmsNorm { rows, d }));
    all.extend(shapes.cross_entropy.iter().map(|&(vocab_size, rows)| Kernel::CrossEntropy { rows, vocab_size }));
    all.extend(shapes.adamw.iter().map(|&elements| Kernel::AdamW { elements }));
    all
}

impl Kernel {
    fn name(&self) -> &'static str {
        match self {
            Kernel::MatmulGrad { x: true, .. } => "matmul_grad_x",
            Kernel::MatmulGrad { x: false, .. } => "matmul_grad_w",
            Kernel::RmsNorm { .. } => "rms_norm_backward",
            Kernel::CrossEntropy { .. } => "cross_entropy",
            Kernel::AdamW { .. } => "adamw",
        }
    }

    pub fn row(&self) -> Row {
        let name = self.name();
        let row = |sizes: String| Row::new(Suite::Backward, format!("{name} {sizes}"), "f32");
        match *self {
            Kernel::MatmulGrad { l, n, k, .. } => {
                Row { l: Some(l), n: Some(n), k: Some(k), ..row(format!("{l}x{n}x{k}")) }
            }
            Kernel::RmsNorm { rows, d } => Row { l: Some(rows), n: Some(d), ..row(format!("{d}x{rows}")) },
            Kernel::CrossEntropy { rows, vocab_size } => {
                Row { l: Some(rows), n: Some(vocab_size), ..row(format!("{vocab_size}x{rows}")) }
            }
            Kernel::AdamW { elements } => Row { n: Some(elements), ..row(elements.to_string()) },
        }
    }

    /// Bytes that must move at the least, each array once, or operations.
    pub fn work(&self) -> (Option<f64>, Option<f64>) {
        let elements = match *self {
            Kernel::MatmulGrad { l, n, k, .. } => return (None, Some(2.0 * l as f64 * (n * k) as f64)),
            // x, grad_y and grad_x in, grad_x out.
            Kernel::RmsNorm { rows, d } => 4 * rows * d,
            Kernel::CrossEntropy { rows, vocab_size } => 2 * rows * vocab_size,
            // Value, gradient and moments in, all but the gradient out.
            Kernel::AdamW { elements } => 7 * elements,
        };
        (Some(4.0 * elements as f64), None)
    }

    /// Whose speed tells this one's, the best teller first; the first is its own.
    pub fn kinds(&self) -> Vec<Kind> {
        let own = (Suite::Backward, self.name().to_owned());
        let near = match self {
            Kernel::MatmulGrad { .. } => (Suite::Matmul, "matmul f32".to_owned()),
            _ => (Suite::Ceilings, "copy".to_owned()),
        };
        let ceiling = if self.work().0.is_some() { "copy" } else { "fma" };
        vec![own, near, (Suite::Ceilings, ceiling.to_owned())]
    }

    pub async fn measure(&self, gpu: &Gpu, meter: &mut Meter<'_>, row: &mut Row) -> Result<()> {
        match *self {
            Kernel::MatmulGrad { x, l, n, k } => matmul_grad(gpu, meter, x, [l, n, k], row).await,
            Kernel::RmsNorm { rows, d } => rms_norm(gpu, meter, (rows, d), row).await,
            Kernel::CrossEntropy { rows, vocab_size } => loss(gpu, meter, (rows, vocab_size), row).await,
            Kernel::AdamW { elements } => optimiser(gpu, meter, elements, row).await,
        }
    }
}

/// Scratch as a model of this width has it.
fn scratch(gpu: &Gpu, rows: usize, width: usize) -> Result<Scratch, GpuError> {
    Scratch::new(gpu, ScratchShape::of_width(rows, width))
}

fn filled(gpu: &Gpu, label: &str, elements: usize, range: (f32, f32)) -> Result<Tensor, GpuError> {
    kernels::filled(gpu, label, elements, range, NumberFormat::F32)
}

async fn matmul_grad(gpu: &Gpu, meter: &mut Meter<'_>, x: bool, [l, n, k]: [usize; 3], row: &mut Row) -> Result<()> {
    // The largest that a layer like this one stands in.
    let scratch = scratch(gpu, l, n.min(k))?;
    let grad_y = filled(gpu, "grad_y", l * n, (-1e-3, 1e-3))?;
    let shape = LinearGrad { l, x_stride: k, y_stride: n };
    let mut plan = PlanBuilder::new(gpu);
    if x {
        let w = matrix(gpu, (n, k), 0.1)?;
        let grad_x = Tensor::zeros(gpu, "grad_x", l * k)?;
        matmul_grad_x(&mut plan, &scratch, &grad_y, &w, &grad_x, shape, false)?;
        meter.repeat(&plan.finish()?, &[], REPEATS, row).await
    } else {
        let (x, grad_w) = (filled(gpu, "x", l * k, (-1.0, 1.0))?, matrix(gpu, (n, k), 0.0)?);
        matmul_grad_w(&mut plan, &scratch, &x, &grad_y, &grad_w, shape)?;
        meter.repeat(&plan.finish()?, &[], REPEATS, row).await
    }
}

/// Values in [-bound, bound], made on the device.
fn matrix(gpu: &Gpu, (n, k): (usize, usize), bound: f32) -> Result<WeightMatrix> {
    let mut plan = PlanBuilder::new(gpu);
    let matrix = fill_matrix(&mut plan, "w", (n, k), WeightFormat::F32, bound, 1)?;
    plan.finish()?.submit(gpu)?;
    Ok(matrix)
}

async fn rms_norm(gpu: &Gpu, meter: &mut Meter<'_>, (rows, d): (usize, usize), row: &mut Row) -> Result<()> {
    let grads = RmsNormGrads {
        x: &filled(gpu, "x", rows * d, (-2.0, 2.0))?,
        weight: &filled(gpu, "weight", d, (0.5, 1.5))?,
        grad_y: &filled(gpu, "grad_y", rows * d, (-1.0, 1.0))?,
        grad_x: &Tensor::zeros(gpu, "grad_x", rows * d)?,
        grad_weight: &Tensor::zeros(gpu, "grad_weight", d)?,
    };
    let scratch = scratch(gpu, rows, d)?;
    let mut plan = PlanBuilder::new(gpu);
    rms_norm_backward(&mut plan, &scratch, &grads, RmsNorm { rows, row0: 0, d, eps: 1e-5 })?;
    meter.repeat(&plan.finish()?, &[], REPEATS, row).await
}

async fn loss(gpu: &Gpu, meter: &mut Meter<'_>, (rows, vocab_size): (usize, usize), row: &mut Row) -> Result<()> {
    let logits = filled(gpu, "logits", rows * vocab_size, (-10.0, 10.0))?;
    let now = Tensor::zeros(gpu, "logits", rows * vocab_size)?;
    let targets: Vec<u32> = (0..rows).map(|i| (i * 7919 % vocab_size.max(1)) as u32).collect();
    let (targets, nll) = (Tensor::new(gpu, "targets", &targets)?, Tensor::zeros(gpu, "nll", rows)?);
    let scale = Tensor::new(gpu, "scale", &[1.0 / rows.max(1) as f32])?;
    let mut plan = PlanBuilder::new(gpu);
    let shape = CrossEntropy { rows, vocab_size, label_smoothing: 0.0 };
    cross_entropy(&mut plan, &now, &targets, &scale, &nll, shape)?;
    meter.repeat(&plan.finish()?, &[(&logits, &now)], REPEATS, row).await
}

/// AdamW on one buffer of parameters.
async fn optimiser(gpu: &Gpu, meter: &mut Meter<'_>, elements: usize, row: &mut Row) -> Result<()> {
    let zeros = |label, elements| Tensor::zeros(gpu, label, elements);
    let step = Step { loss_scale: 1.0, learning_rate: 1e-4, correction1: 0.1, correction2: 0.2, slot: 0 };
    let tensors = StepTensors {
        step: &Tensor::new(gpu, "step", &[step])?,
        clip: &Tensor::new(gpu, "clip", &[1.0f32, 0.0])?,
        loss_sum: &zeros("loss", 1)?,
        record: &zeros("record", 2)?,
        partials: &zeros("partials", 1)?,
    };
    let buffers = AdamBuffers {
        value: &filled(gpu, "value", elements, (-0.1, 0.1))?,
        gradient: &filled(gpu, "gradient", elements, (-1e-3, 1e-3))?,
        m: &zeros("m", elements)?,
        v: &zeros("v", elements)?,
        decayed: elements / 8 * 4,
    };
    let adam = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm: 1.0 };
    let mut plan = PlanBuilder::new(gpu);
    adamw(&mut plan, &buffers, &tensors, &adam)?;
    meter.repeat(&plan.finish()?, &[], REPEATS, row).await
}
