//! The kernels that only Mamba's layers have, each by itself on harmless numbers: what bench measures of them. Natively also those
//! of the way back, which a page does not measure.

#[cfg(not(target_arch = "wasm32"))]
use super::trained;
use super::Shape;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, Plan, PlanBuilder, Tensor};
#[cfg(not(target_arch = "wasm32"))]
use crate::kernels::backward::{
    conv1d_backward, scan_backward, scan_train, Conv1dGrads, ScanGrads, ScanTape, Scratch, TrainScan,
};
use crate::kernels::{self, filled, BlellochWorkspace, FusedWorkspace, ScanBuffers};
use crate::settings::Scan;

/// What is run alone, as in a layer of [`Alone::shape`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kernel {
    /// A rung; another number format of activations than f32 for the fused one alone.
    Scan(Scan, NumberFormat),
    /// scan_backward; `whole`: scan_train before it.
    #[cfg(not(target_arch = "wasm32"))]
    ScanBackward { whole: bool },
    #[cfg(not(target_arch = "wasm32"))]
    Conv1dBackward,
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kernel::Scan(rung, _) => write!(f, "{rung}"),
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::ScanBackward { whole: false } => f.write_str("scan_backward"),
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::ScanBackward { whole: true } => f.write_str("scan_train, scan_backward"),
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::Conv1dBackward => f.write_str("conv1d_backward"),
        }
    }
}

/// A kernel over l tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Alone {
    pub kernel: Kernel,
    pub shape: Shape,
    pub l: usize,
}

/// A plan, and what to copy where before each of its runs.
pub(crate) type Prepared = (Plan, Vec<(Tensor, Tensor)>);

impl Shape {
    /// Of the usual proportions, given the channels and their states.
    pub(crate) fn of_channels(d_inner: usize, d_state: usize) -> Self {
        Self { d_inner, d_state, dt_rank: d_inner.div_ceil(32), ..Self::of(d_inner / 2) }
    }
}

impl Alone {
    pub fn channels(&self) -> usize {
        self.shape.d_inner
    }

    /// Of a channel, where the kernel knows states.
    pub fn states(&self) -> Option<usize> {
        match self.kernel {
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::Conv1dBackward => None,
            _ => Some(self.shape.d_state),
        }
    }

    /// What the adapter must hold activations in.
    pub fn format(&self) -> NumberFormat {
        match self.kernel {
            Kernel::Scan(_, act) => act,
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::ScanBackward { .. } | Kernel::Conv1dBackward => NumberFormat::F32,
        }
    }

    /// Bytes of the largest tensor that it has to see at once.
    pub fn largest_binding(&self) -> u64 {
        (self.l * 2 * self.shape.d_inner * self.format().bytes()) as u64
    }

    /// Bytes that must move at the least, each array once.
    pub fn bytes(&self) -> f64 {
        // Rows of so many channels in the activations' format, and of so many states in f32.
        let (wide, narrow) = match self.kernel {
            // u, delta, z in, y out; B and C.
            Kernel::Scan(..) => (4, 2),
            // u, delta, z and grad_y in, three gradients out; before that u, delta and z in, y out.
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::ScanBackward { whole: false } => (7, 4),
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::ScanBackward { whole: true } => (11, 6),
            // x and grad_u in, grad_x out.
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::Conv1dBackward => (3, 0),
        };
        let Shape { d_inner, d_state, .. } = self.shape;
        (self.l * (self.format().bytes() * wide * d_inner + 4 * narrow * d_state)) as f64
    }

    /// Inputs and outputs on a device, and the dispatches.
    pub async fn prepare(&self, gpu: &Gpu) -> crate::Result<Prepared> {
        Ok(match self.kernel {
            Kernel::Scan(rung, act) => (self.scan(gpu, rung, act)?, Vec::new()),
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::ScanBackward { whole } => self.scan_backward(gpu, whole).await?,
            #[cfg(not(target_arch = "wasm32"))]
            Kernel::Conv1dBackward => (self.conv1d_backward(gpu)?, Vec::new()),
        })
    }

    fn scan(&self, gpu: &Gpu, rung: Scan, act: NumberFormat) -> Result<Plan, GpuError> {
        let (l, Shape { d_inner, d_state, .. }) = (self.l, self.shape);
        let shape = self.shape.scan(l);
        let f32s = |label, elements, range| filled(gpu, label, elements, range, NumberFormat::F32);
        let acts = |label, elements, range| filled(gpu, label, elements, range, act);
        let b = ScanBuffers {
            u: &acts("u", l * d_inner, (-1.0, 1.0))?,
            delta: &acts("delta", l * d_inner, (1e-3, 0.1))?,
            a: &f32s("A", d_inner * d_state, (-16.0, -1.0))?,
            x_dbl: &f32s("x_dbl", l * shape.x_dbl_stride, (-1.0, 1.0))?,
            d: &f32s("D", d_inner, (0.5, 1.5))?,
            xz: &acts("xz", l * shape.xz_stride, (-2.0, 2.0))?,
            ssm_state: &Tensor::zeros(gpu, "ssm_state", d_inner * d_state)?,
            y: &Tensor::activations(gpu, "y", l * d_inner, act)?,
        };
        let mut plan = PlanBuilder::new(gpu);
        match rung {
            Scan::Sequential => kernels::scan_sequential(&mut plan, &b, shape)?,
            Scan::Blelloch => {
                let workspace = BlellochWorkspace::new(gpu, l, d_inner, d_state)?;
                kernels::scan_blelloch(&mut plan, &workspace, &b, shape)?;
            }
            Scan::Fused => {
                let workspace = FusedWorkspace::new(gpu, l, d_inner, d_state)?;
                kernels::scan_fused(&mut plan, &workspace, &b, shape)?;
            }
        }
        plan.finish()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn scratch(&self, gpu: &Gpu) -> Result<Scratch, GpuError> {
        Scratch::new(gpu, trained::scratch_shape(&self.shape, self.l, 1))
    }

    #[cfg(not(target_arch = "wasm32"))]
    async fn scan_backward(&self, gpu: &Gpu, whole: bool) -> crate::Result<Prepared> {
        let (l, Shape { d_inner, d_state, .. }) = (self.l, self.shape);
        let (shape, wide, states) = (self.shape.scan(l), l * d_inner, d_inner * d_state);
        let filled = |label, elements, range| filled(gpu, label, elements, range, NumberFormat::F32);
        let zeros = |label, elements| Tensor::zeros(gpu, label, elements);
        let scan = TrainScan { batch: 1, shape, lti: false };
        let (tape, scratch) = (ScanTape::new(gpu, scan)?, self.scratch(gpu)?);
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
        Ok((plan.finish()?, vec![(delta, delta_now), (grad_y, grad_now)]))
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn conv1d_backward(&self, gpu: &Gpu) -> Result<Plan, GpuError> {
        let (shape, l) = (self.shape.conv(self.l), self.l);
        let (d_inner, taps) = (shape.d_inner, shape.d_inner * shape.d_conv);
        let filled = |label, elements, range| filled(gpu, label, elements, range, NumberFormat::F32);
        let zeros = |label, elements| Tensor::zeros(gpu, label, elements);
        let grads = Conv1dGrads {
            xz: &filled("xz", l * shape.x_stride, (-2.0, 2.0))?,
            weight: &filled("weight", taps, (-0.5, 0.5))?,
            bias: Some(&filled("bias", d_inner, (-0.5, 0.5))?),
            grad_u: &filled("grad_u", l * d_inner, (-1.0, 1.0))?,
            grad_xz: &zeros("grad_xz", l * shape.x_stride)?,
            grad_weight: &zeros("grad_weight", taps)?,
            grad_bias: Some(&zeros("grad_bias", d_inner)?),
        };
        let scratch = self.scratch(gpu)?;
        let mut plan = PlanBuilder::new(gpu);
        conv1d_backward(&mut plan, &scratch, &grads, 1, shape)?;
        plan.finish()
    }
}
