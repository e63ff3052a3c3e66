//! Mamba-2's recurrence by itself on harmless numbers: what bench measures of it.

use super::Shape;
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, Plan, PlanBuilder, Tensor};
use crate::kernels::{self, filled, Ssd, SsdBuffers, SsdWorkspace};

/// What is run alone: a rung, or one of its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub rung: Ssd,
    pub part: Option<Part>,
    /// Of xbc.
    pub act: NumberFormat,
}

/// The kernels of the rungs that work in chunks, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Cumsum,
    Bmm,
    State,
    Passing,
    Scan,
}

impl Kernel {
    /// Every rung and its kernels, those by cooperative matrices where there are such.
    pub fn all() -> Vec<Kernel> {
        let whole = |rung, act| Kernel { rung, part: None, act };
        let parts = [Part::Cumsum, Part::Bmm, Part::State, Part::Passing, Part::Scan];
        let in_parts = |rung: Kernel| {
            [None].into_iter().chain(parts.map(Some)).map(move |part| Kernel { part, ..rung }).collect::<Vec<_>>()
        };
        let mut all = vec![whole(Ssd::Sequential, NumberFormat::F32)];
        all.extend(in_parts(whole(Ssd::Chunked, NumberFormat::F32)));
        for act in [NumberFormat::F32, NumberFormat::F16] {
            all.extend(in_parts(whole(Ssd::Matrices, act)));
        }
        all
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let matrices = self.rung == Ssd::Matrices;
        f.write_str(match (self.part, self.rung) {
            (None, Ssd::Sequential) => "ssd sequential",
            (None, Ssd::Chunked) => "ssd chunked",
            (None, Ssd::Matrices) => "ssd matrices",
            (Some(Part::Cumsum), _) => "ssd_chunk_cumsum",
            (Some(Part::Bmm), _) if matrices => "ssd_matrix_bmm",
            (Some(Part::Bmm), _) => "ssd_bmm_chunk",
            (Some(Part::State), _) if matrices => "ssd_matrix_state",
            (Some(Part::State), _) => "ssd_chunk_state",
            (Some(Part::Passing), _) => "ssd_state_passing",
            (Some(Part::Scan), _) if matrices => "ssd_matrix_scan",
            (Some(Part::Scan), _) => "ssd_chunk_scan",
        })?;
        match (matrices, self.act) {
            (false, _) => Ok(()),
            (true, act) if self.part.is_some() => write!(f, " of ssd matrices, {}", act.tag()),
            (true, NumberFormat::F32) => Ok(()),
            (true, NumberFormat::F16) => f.write_str(", f16"),
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
        let chunk = self.kernel.rung.chunk();
        let chunks = l.div_ceil(chunk);
        let (x, bc, dt) = (l * n_heads * head_dim, l * n_groups * d_state, l * n_heads);
        let (states, cb) = (chunks * n_heads * head_dim * d_state, l * n_groups * chunk);
        let of_states = 2 * l * n_heads * head_dim * d_state;
        let (of_cb, of_pairs) = (l * n_groups * chunk * d_state, l * n_heads * chunk * head_dim);
        // What is in f32 throughout, and what is as xbc is.
        let ((elements, activations), flops) = match self.kernel.part {
            None => ((x + dt, x + 2 * bc), 2 * of_states + of_cb + of_pairs),
            Some(Part::Cumsum) => ((3 * dt, 0), 0),
            Some(Part::Bmm) => ((0, 2 * bc + cb), of_cb),
            Some(Part::State) => ((2 * dt + states, x + bc), of_states),
            Some(Part::Passing) => ((states, states), 0),
            Some(Part::Scan) => ((x + 2 * dt, x + bc + states + cb), of_states + of_pairs),
        };
        ((4 * elements + self.kernel.act.bytes() * activations) as f64, flops as f64)
    }

    /// Whether a device and the shape have it.
    pub fn runs(&self, gpu: &Gpu) -> bool {
        self.kernel.rung != Ssd::Matrices || Ssd::best(gpu, &self.shape.ssd(self.l), true) == Ssd::Matrices
    }

    /// Inputs and outputs on a device, and the dispatches.
    pub fn prepare(&self, gpu: &Gpu) -> Result<Plan, GpuError> {
        let (l, s) = (self.l, self.shape.ssd(self.l));
        let as_act = |label, elements, range, act| filled(gpu, label, elements, range, act);
        let filled = |label, elements, range| as_act(label, elements, range, NumberFormat::F32);
        let b = SsdBuffers {
            zxbcdt: &filled("zxbcdt", l * s.zxbcdt_stride, (-1.0, 1.0))?,
            xbc: &as_act("xbc", l * s.xbc_stride, (-1.0, 1.0), self.kernel.act)?,
            dt_bias: &filled("dt_bias", s.heads, (-6.0, -2.0))?,
            a: &filled("A", s.heads, (-16.0, -1.0))?,
            d: &filled("D", s.heads * if s.d_has_hdim { s.head_dim } else { 1 }, (0.5, 1.5))?,
            ssm_state: &Tensor::zeros(gpu, "ssm_state", s.state_len())?,
            y: &Tensor::zeros(gpu, "y", l * s.d_inner())?,
        };
        let mut plan = PlanBuilder::new(gpu);
        let Kernel { rung, part, act } = self.kernel;
        let w = SsdWorkspace::new(gpu, rung, &s, act)?;
        let matrices = rung == Ssd::Matrices;
        match part {
            None => kernels::ssd(&mut plan, rung, &w, &b, &s)?,
            Some(Part::Cumsum) => kernels::ssd_chunk_cumsum(&mut plan, &w, &b, &s)?,
            Some(Part::Bmm) if matrices => kernels::ssd_matrix_bmm(&mut plan, &w, &b, &s)?,
            Some(Part::Bmm) => kernels::ssd_bmm_chunk(&mut plan, &w, &b, &s)?,
            Some(Part::State) if matrices => kernels::ssd_matrix_state(&mut plan, &w, &b, &s)?,
            Some(Part::State) => kernels::ssd_chunk_state(&mut plan, &w, &b, &s)?,
            Some(Part::Passing) => kernels::ssd_state_passing(&mut plan, &w, &b, &s)?,
            Some(Part::Scan) if matrices => kernels::ssd_matrix_scan(&mut plan, &w, &b, &s)?,
            Some(Part::Scan) => kernels::ssd_chunk_scan(&mut plan, &w, &b, &s)?,
        }
        plan.finish()
    }
}
