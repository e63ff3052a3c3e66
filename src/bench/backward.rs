//! One row each of the kernels that only training needs.

use super::kernels::{filled, scan_shape, submit, REPEATS};
use super::measure::{Kind, Meter};
use super::report::Row;
use super::{Shapes, Suite};
use crate::error::Result;
use crate::gpu::shader::WeightFormat;
use crate::gpu::{Gpu, PlanBuilder, Tensor};
use crate::kernels::backward::{
    conv1d_backward, cross_entropy, matmul_grad_w, matmul_grad_x, rms_norm_backward, scan_backward, scan_train,
    Conv1dGrads, CrossEntropy, LinearGrad, RmsNormGrads, ScanGrads, ScanTape, Scratch, ScratchShape, TrainScan,
};
use crate::kernels::{
    adamw, fill_matrix, AdamBuffers, AdamW, ConvShape, RmsNorm, ScanBuffers, ScanShape, Step, StepTensors, WeightMatrix,
};

/// A kernel and its sizes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kernel {
    /// scan_backward; `whole`: scan_train before it.
    Scan {
        shape: ScanShape,
        whole: bool,
    },
    /// Of x, or of w.
    MatmulGrad {
        x: bool,
        l: usize,
        n: usize,
        k: usize,
    },
    Conv1d(ConvShape),
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

/// Taps of the convolution, as published models have it.
const D_CONV: usize = 4;

/// The rows that there are.
pub(super) fn kernels(shapes: &Shapes) -> Vec<Kernel> {
    let mut all = Vec::new();
    for &(d_inner, l) in &shapes.scan_backward {
        let shape = scan_shape(l, d_inner, shapes.d_state);
        all.extend([false, true].map(|whole| Kernel::Scan { shape, whole }));
    }
    for &[l, n, k] in &shapes.matmul_grad {
        all.extend([true, false].map(|x| Kernel::MatmulGrad { x, l, n, k }));
    }
    all.extend(
        shapes
            .conv1d_backward
            .iter()
            .map(|&(d_inner, l)| Kernel::Conv1d(ConvShape { l, d_inner, d_conv: D_CONV, x_stride: 2 * d_inner })),
    );
    all.extend(shapes.rms_norm_backward.iter().map(|&(d, rows)| Kernel::RmsNorm { rows, d }));
    all.extend(shapes.cross_entropy.iter().map(|&(vocab_size, rows)| Kernel::CrossEntropy { rows, vocab_size }));
    all.extend(shapes.adamw.iter().map(|&elements| Kernel::AdamW { elements }));
    all
}

impl Kernel {
    fn name(&self) -> &'static str {
        match self {
            Kernel::Scan { whole: false, .. } => "scan_backward",
            Kernel::Scan { whole: true, .. } => "scan_train, scan_backward",
            Kernel::MatmulGrad { x: true, .. } => "matmul_grad_x",
            Kernel::MatmulGrad { x: false, .. } => "matmul_grad_w",
            Kernel::Conv1d { .. } => "conv1d_backward",
            Kernel::RmsNorm { .. } => "rms_norm_backward",
            Kernel::CrossEntropy { .. } => "cross_entropy",
            Kernel::AdamW { .. } => "adamw",
        }
    }

    pub fn row(&self) -> Row {
        let name = self.name();
        let row = |sizes: String| Row::new(Suite::Backward, format!("{name} {sizes}"), "f32");
        match *self {
            Kernel::Scan { shape: s, .. } => {
                let (l, d_inner, d_state) = (Some(s.l), Some(s.d_inner), Some(s.d_state));
                Row { l, d_inner, d_state, ..row(format!("{}x{}", s.d_inner, s.l)) }
            }
            Kernel::MatmulGrad { l, n, k, .. } => {
                Row { l: Some(l), n: Some(n), k: Some(k), ..row(format!("{l}x{n}x{k}")) }
            }
            Kernel::Conv1d(s) => {
                Row { l: Some(s.l), d_inner: Some(s.d_inner), ..row(format!("{}x{}", s.d_inner, s.l)) }
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
            // u, delta, z and grad_y in, three gradients out; before that u, delta and z in, y out.
            Kernel::Scan { shape: s, whole } => {
                let (wide, narrow) = if whole { (11, 6) } else { (7, 4) };
                s.l * (wide * s.d_inner + narrow * s.d_state)
            }
            Kernel::MatmulGrad { l, n, k, .. } => return (None, Some(2.0 * l as f64 * (n * k) as f64)),
            // x and grad_u in, grad_x out.
            Kernel::Conv1d(s) => 3 * s.l * s.d_inner,
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
            Kernel::Scan { .. } => (Suite::Scan, "fused".to_owned()),
            Kernel::MatmulGrad { .. } => (Suite::Matmul, "matmul f32".to_owned()),
            _ => (Suite::Ceilings, "copy".to_owned()),
        };
        let ceiling = if self.work().0.is_some() { "copy" } else { "fma" };
        vec![own, near, (Suite::Ceilings, ceiling.to_owned())]
    }

    pub async fn measure(&self, gpu: &Gpu, meter: &mut Meter<'_>, row: &mut Row) -> Result<()> {
        match *self {
            Kernel::Scan { shape, whole } => scan(gpu, meter, (shape, whole), row).await,
            Kernel::MatmulGrad { x, l, n, k } => matmul_grad(gpu, meter, x, [l, n, k], row).await,
            Kernel::Conv1d(shape) => conv1d(gpu, meter, shape, row).await,
            Kernel::RmsNorm { rows, d } => rms_norm(gpu, meter, (rows, d), row).await,
            Kernel::CrossEntropy { rows, vocab_size } => loss(gpu, meter, (rows, vocab_size), row).await,
            Kernel::AdamW { elements } => optimiser(gpu, meter, elements, row).await,
        }
    }
}

/// Scratch as a model of this width has it.
fn scratch(gpu: &Gpu, rows: usize, d_inner: usize, d_state: usize) -> Result<Scratch> {
    let (d_model, dt_rank) = (d_inner / 2, d_inner.div_ceil(32));
    let shape = ScratchShape { rows, batch: 1, d_model, d_inner, d_state, d_conv: D_CONV, dt_rank };
    Ok(Scratch::new(gpu, shape)?)
}

async fn scan(gpu: &Gpu, meter: &mut Meter<'_>, (shape, whole): (ScanShape, bool), row: &mut Row) -> Result<()> {
    let ScanShape { l, d_inner, d_state, .. } = shape;
    let (wide, states) = (l * d_inner, d_inner * d_state);
    let filled = |label, elements, range| filled(gpu, label, elements, range);
    let zeros = |label, elements| Tensor::zeros(gpu, label, elements);
    let scan = TrainScan { batch: 1, shape, lti: false };
    let (tape, scratch) = (ScanTape::new(gpu, scan)?, scratch(gpu, l, d_inner, d_state)?);
    let (delta, grad_y) = (filled("delta", wide, (1e-3, 0.1))?, filled("grad_y", wide, (-1.0, 1.0))?);
    let [delta_now, grad_now] = [zeros("delta", wide)?, zeros("grad_y", wide)?];
    let b = ScanBuffers {
        u: &filled("u", wide, (-1.0, 1.0))?,
        delta: &delta_now,
        a: &filled("A", states, (-16.0, -1.0))?,
        x_dbl: &filled("x_dbl", l * shape.x_dbl_stride, (-1.0, 1.0))?,
        d: &filled("D", d_inner, (0.5, 1.5))?,
        xz: &filled("xz", l * shape.xz_stride, (-2.0, 2.0))?,
        ssm_state: &zeros("ssm_state", states)?,
        y: &zeros("y", wide)?,
    };
    let grads = ScanGrads {
        u: b.u,
        delta: &delta_now,
        a: b.a,
        x_dbl: b.x_dbl,
        d: b.d,
        xz: b.xz,
        grad_y: &grad_now,
        grad_xz: &zeros("grad_xz", l * shape.xz_stride)?,
        grad_x_dbl: &zeros("grad_x_dbl", l * shape.x_dbl_stride)?,
        grad_a_log: &zeros("grad_A_log", states)?,
        grad_d: &zeros("grad_D", d_inner)?,
        grad_dt_bias: &zeros("grad_dt_bias", d_inner)?,
        grad_state: &zeros("grad_state", states)?,
    };
    let restore = [(&delta, &delta_now), (&grad_y, &grad_now)];
    let mut plan = PlanBuilder::new(gpu);
    scan_train(&mut plan, &tape, &b, scan)?;
    if !whole {
        // The tape has to be there once.
        let forward = std::mem::replace(&mut plan, PlanBuilder::new(gpu)).finish()?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        delta.copy_to(&mut encoder, &delta_now);
        gpu.submit_and_wait(encoder.finish()).await?;
        forward.run(gpu).await?;
    }
    scan_backward(&mut plan, &scratch, &tape, &grads, scan)?;
    meter.repeat(&plan.finish()?, &restore, REPEATS, row).await
}

async fn matmul_grad(gpu: &Gpu, meter: &mut Meter<'_>, x: bool, [l, n, k]: [usize; 3], row: &mut Row) -> Result<()> {
    // The largest that a layer like this one stands in.
    let scratch = scratch(gpu, l, 2 * n.min(k), 16)?;
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
    submit(gpu, plan)?;
    Ok(matrix)
}

async fn conv1d(gpu: &Gpu, meter: &mut Meter<'_>, shape: ConvShape, row: &mut Row) -> Result<()> {
    let ConvShape { l, d_inner, d_conv, x_stride } = shape;
    let (taps, zeros) = (d_inner * d_conv, |label, elements| Tensor::zeros(gpu, label, elements));
    let grads = Conv1dGrads {
        xz: &filled(gpu, "xz", l * x_stride, (-2.0, 2.0))?,
        weight: &filled(gpu, "weight", taps, (-0.5, 0.5))?,
        bias: Some(&filled(gpu, "bias", d_inner, (-0.5, 0.5))?),
        grad_u: &filled(gpu, "grad_u", l * d_inner, (-1.0, 1.0))?,
        grad_xz: &zeros("grad_xz", l * x_stride)?,
        grad_weight: &zeros("grad_weight", taps)?,
        grad_bias: Some(&zeros("grad_bias", d_inner)?),
    };
    let scratch = scratch(gpu, l, d_inner, 16)?;
    let mut plan = PlanBuilder::new(gpu);
    conv1d_backward(&mut plan, &scratch, &grads, 1, shape)?;
    meter.repeat(&plan.finish()?, &[], REPEATS, row).await
}

async fn rms_norm(gpu: &Gpu, meter: &mut Meter<'_>, (rows, d): (usize, usize), row: &mut Row) -> Result<()> {
    let grads = RmsNormGrads {
        x: &filled(gpu, "x", rows * d, (-2.0, 2.0))?,
        weight: &filled(gpu, "weight", d, (0.5, 1.5))?,
        grad_y: &filled(gpu, "grad_y", rows * d, (-1.0, 1.0))?,
        grad_x: &Tensor::zeros(gpu, "grad_x", rows * d)?,
        grad_weight: &Tensor::zeros(gpu, "grad_weight", d)?,
    };
    let scratch = scratch(gpu, rows, 2 * d, 16)?;
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
