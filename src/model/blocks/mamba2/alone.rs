//! Mamba-2's recurrence by itself on harmless numbers: what bench measures of it.

use super::Shape;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, Plan, PlanBuilder, Tensor};
use crate::kernels::{self, filled, Ssd, SsdBuffers, SsdWorkspace, SSD_CHUNK};

/// What is run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// A rung, all of its kernels.
    Rung(Ssd),
    /// One kernel of the chunked rung.
    Part(Part),
}

/// The kernels of the chunked rung, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Cumsum,
    Bmm,
    State,
    Passing,
    Scan,
}

impl Kernel {
    pub const ALL: [Kernel; 7] = [
        Kernel::Rung(Ssd::Sequential),
        Kernel::Rung(Ssd::Chunked),
        Kernel::Part(Part::Cumsum),
        Kernel::Part(Part::Bmm),
        Kernel::Part(Part::State),
        Kernel::Part(Part::Passing),
        Kernel::Part(Part::Scan),
    ];
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kernel::Rung(Ssd::Sequential) => "ssd sequential",
            Kernel::Rung(Ssd::Chunked) => "ssd chunked",
            Kernel::Part(Part::Cumsum) => "ssd_chunk_cumsum",
            Kernel::Part(Part::Bmm) => "ssd_bmm_chunk",
            Kernel::Part(Part::State) => "ssd_chunk_state",
            Kernel::Part(Part::Passing) => "ssd_state_passing",
            Kernel::Part(Part::Scan) => "ssd_chunk_scan",
        })
    }
}

/// A kernel over l tokens, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Alone {
    pub kernel: Kernel,
    pub shape: Shape,
    pub l: usize,
}

impl Alone {
    /// `24x64x128`: heads, their channels and states.
    pub fn size(&self) -> String {
        let Shape { n_heads, head_dim, d_state, .. } = self.shape;
        format!("{n_heads}x{head_dim}x{d_state} of {}", self.l)
    }

    /// Bytes of the largest tensor that it has to see at once.
    pub fn largest_binding(&self) -> u64 {
        (4 * self.l * self.shape.row()) as u64
    }

    /// Bytes that must move at the least, each array once; and operations of the products by matrices, those of a chunk's upper
    /// triangle left out.
    pub fn work(&self) -> (f64, f64) {
        let (Shape { n_heads, head_dim, d_state, n_groups, .. }, l) = (self.shape, self.l);
        let chunks = l.div_ceil(SSD_CHUNK);
        let (x, bc, dt) = (l * n_heads * head_dim, l * n_groups * d_state, l * n_heads);
        let (states, cb) = (chunks * n_heads * head_dim * d_state, l * n_groups * SSD_CHUNK);
        let of_states = 2 * l * n_heads * head_dim * d_state;
        let (of_cb, of_pairs) = (l * n_groups * SSD_CHUNK * d_state, l * n_heads * SSD_CHUNK * head_dim);
        let (elements, flops) = match self.kernel {
            Kernel::Rung(_) => (2 * x + 2 * bc + dt, 2 * of_states + of_cb + of_pairs),
            Kernel::Part(Part::Cumsum) => (3 * dt, 0),
            Kernel::Part(Part::Bmm) => (2 * bc + cb, of_cb),
            Kernel::Part(Part::State) => (x + bc + 2 * dt + states, of_states),
            Kernel::Part(Part::Passing) => (2 * states, 0),
            Kernel::Part(Part::Scan) => (2 * x + bc + 2 * dt + states + cb, of_states + of_pairs),
        };
        ((4 * elements) as f64, flops as f64)
    }

    /// Inputs and outputs on a device, and the dispatches.
    pub fn prepare(&self, gpu: &Gpu) -> Result<Plan, GpuError> {
        let (l, s) = (self.l, self.shape.ssd(self.l));
        let filled = |label, elements, range| filled(gpu, label, elements, range, NumberFormat::F32);
        let b = SsdBuffers {
            zxbcdt: &filled("zxbcdt", l * s.zxbcdt_stride, (-1.0, 1.0))?,
            xbc: &filled("xbc", l * s.xbc_stride, (-1.0, 1.0))?,
            dt_bias: &filled("dt_bias", s.heads, (-6.0, -2.0))?,
            a: &filled("A", s.heads, (-16.0, -1.0))?,
            d: &filled("D", s.heads * if s.d_has_hdim { s.head_dim } else { 1 }, (0.5, 1.5))?,
            ssm_state: &Tensor::zeros(gpu, "ssm_state", s.state_len())?,
            y: &Tensor::zeros(gpu, "y", l * s.d_inner())?,
        };
        let mut plan = PlanBuilder::new(gpu);
        let rung = match self.kernel {
            Kernel::Rung(rung) => rung,
            Kernel::Part(_) => Ssd::Chunked,
        };
        let w = SsdWorkspace::new(gpu, rung, &s)?;
        match self.kernel {
            Kernel::Rung(rung) => kernels::ssd(&mut plan, rung, &w, &b, &s)?,
            Kernel::Part(Part::Cumsum) => kernels::ssd_chunk_cumsum(&mut plan, &w, &b, &s)?,
            Kernel::Part(Part::Bmm) => kernels::ssd_bmm_chunk(&mut plan, &w, &b, &s)?,
            Kernel::Part(Part::State) => kernels::ssd_chunk_state(&mut plan, &w, &b, &s)?,
            Kernel::Part(Part::Passing) => kernels::ssd_state_passing(&mut plan, &w, &b, &s)?,
            Kernel::Part(Part::Scan) => kernels::ssd_chunk_scan(&mut plan, &w, &b, &s)?,
        }
        plan.finish()
    }
}
