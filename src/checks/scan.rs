//! The three rungs of the scan against the sequential twin in f64.
//!
//! mamba-ssm's own tests allow f32 scans rtol 6e-4 and atol 2e-3; here it is far less (docs/precision.md).

use super::data::{activations, close, f64s, poisoned_activations, read_activations, rounding, run, tensor};
use super::data::{CheckError, Random};
use crate::gpu::shader::NumberFormat;
use crate::gpu::Gpu;
use crate::kernels::{self, BlellochWorkspace, FusedWorkspace, ScanBuffers, ScanShape};
use crate::reference;
use crate::settings::Scan;

/// Absolute, for a largest state of one or less, and relative.
const ATOL: f64 = 1e-4;
const RTOL: f64 = 2e-5;

/// A scan's inputs, and its initial state.
#[derive(Debug, Clone)]
pub struct ScanCase {
    pub shape: ScanShape,
    pub u: Vec<f32>,
    pub delta: Vec<f32>,
    pub a: Vec<f32>,
    pub x_dbl: Vec<f32>,
    pub d: Vec<f32>,
    pub xz: Vec<f32>,
    pub ssm_state: Vec<f32>,
    /// Of u, delta, xz and y; their values above are what is left in it. Only the fused scan takes another than f32.
    pub act: NumberFormat,
}

impl ScanCase {
    /// Inputs like a trained model's: delta from `range`, evenly in its logarithm; A about -(1..=d_state).
    pub fn random((l, d_inner, d_state): (usize, usize, usize), range: (f64, f64), random: &mut Random) -> Self {
        let dt_rank = 3;
        let shape = ScanShape::of_layer(l, d_inner, d_state, dt_rank);
        let a = |i: usize, r: &mut Random| -(1.0 + (i % d_state) as f32) * (0.5 + r.unit() as f32);
        Self {
            u: random.vec(l * d_inner, -1.0, 1.0),
            delta: random.log_vec(l * d_inner, range.0, range.1),
            a: (0..d_inner * d_state).map(|i| a(i, random)).collect(),
            x_dbl: random.vec(l * shape.x_dbl_stride, -1.0, 1.0),
            d: random.vec(d_inner, -1.0, 1.0),
            xz: random.vec(l * shape.xz_stride, -2.0, 2.0),
            ssm_state: random.vec(d_inner * d_state, -1.0, 1.0),
            act: NumberFormat::F32,
            shape,
        }
    }

    /// The same with u, delta and xz rounded to f16, and y given in it.
    pub fn halved(mut self) -> Self {
        let round = |v: &mut Vec<f32>| v.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        [&mut self.u, &mut self.delta, &mut self.xz].into_iter().for_each(round);
        self.act = NumberFormat::F16;
        self
    }

    /// Tokens t0..t1 of it, from another initial state.
    pub fn part(&self, t0: usize, t1: usize, ssm_state: Vec<f32>) -> Self {
        let s = self.shape;
        let rows = |v: &[f32], width: usize| v[t0 * width..t1 * width].to_vec();
        Self {
            shape: ScanShape { l: t1 - t0, ..s },
            u: rows(&self.u, s.d_inner),
            delta: rows(&self.delta, s.d_inner),
            x_dbl: rows(&self.x_dbl, s.x_dbl_stride),
            xz: rows(&self.xz, s.xz_stride),
            a: self.a.clone(),
            d: self.d.clone(),
            act: self.act,
            ssm_state,
        }
    }

    /// (y, final state) by the sequential twin in f64.
    pub fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let s = &self.shape;
        let (mut y, mut state) = (vec![0.0; s.l * s.d_inner], f64s(&self.ssm_state));
        let (u, delta, a) = (f64s(&self.u), f64s(&self.delta), f64s(&self.a));
        let (x_dbl, d, xz) = (f64s(&self.x_dbl), f64s(&self.d), f64s(&self.xz));
        let input = reference::ScanInput { u: &u, delta: &delta, a: &a, x_dbl: &x_dbl, d: &d, xz: &xz };
        reference::scan_sequential(&mut y, &mut state, &input, s);
        (y, state)
    }

    /// (y, final state) by a rung.
    pub async fn run(&self, gpu: &Gpu, rung: Scan) -> Result<(Vec<f32>, Vec<f32>), CheckError> {
        let s = self.shape;
        let t = |v: &[f32]| tensor(gpu, v);
        let act = |v: &[f32]| activations(gpu, v, self.act).map(|(tensor, _)| tensor);
        let (u, delta, a, x_dbl) = (act(&self.u)?, act(&self.delta)?, t(&self.a)?, t(&self.x_dbl)?);
        let (d, xz, ssm_state) = (t(&self.d)?, act(&self.xz)?, t(&self.ssm_state)?);
        let y = poisoned_activations(gpu, s.l * s.d_inner, self.act)?;
        let b =
            ScanBuffers { u: &u, delta: &delta, a: &a, x_dbl: &x_dbl, d: &d, xz: &xz, ssm_state: &ssm_state, y: &y };
        run(gpu, |plan| match rung {
            Scan::Sequential => kernels::scan_sequential(plan, &b, s),
            Scan::Blelloch => {
                let workspace = BlellochWorkspace::new(gpu, s.l, s.d_inner, s.d_state)?;
                kernels::scan_blelloch(plan, &workspace, &b, s)
            }
            Scan::Fused => {
                let workspace = FusedWorkspace::new(gpu, s.l, s.d_inner, s.d_state)?;
                kernels::scan_fused(plan, &workspace, &b, s)
            }
        })
        .await?;
        Ok((read_activations(gpu, &y).await?, ssm_state.read(gpu).await?))
    }
}

/// A rung against what was expected of a case.
pub async fn scan(gpu: &Gpu, rung: Scan, case: &ScanCase, (y, state): &(Vec<f64>, Vec<f64>)) -> Result<(), CheckError> {
    let (got_y, got_state) = case.run(gpu, rung).await?;
    let scale = state.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    let s = case.shape;
    let by = format!("{rung} scan");
    let what = format!("{by}, l {} d_inner {} d_state {} {:?}", s.l, s.d_inner, s.d_state, case.act);
    close(&format!("{what}: y"), &got_y, y, ATOL * scale, RTOL + rounding(case.act))?;
    close(&format!("{what}: state"), &got_state, state, ATOL * scale, RTOL)
}
