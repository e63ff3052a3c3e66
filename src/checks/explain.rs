//! channel_stats, token_stats and hidden_attention against their twins in f64.

use super::data::{close, f64s, poisoned, run, tensor};
use super::data::{CheckError, Random};
use super::scan::ScanCase;
#[cfg(not(target_arch = "wasm32"))]
use super::ssd::{SsdCase, SsdSizes};
use crate::gpu::Gpu;
use crate::kernels::{self, ExplainBuffers, ExplainShape};
use crate::reference::{self, ExplainInput};
use std::ops::Range;

/// Of delta.
const RANGE: (f64, f64) = (1e-3, 1.0);

/// Inputs, and the units that the hidden attention is a mean of.
#[derive(Debug, Clone)]
pub struct ExplainCase {
    pub shape: ExplainShape,
    pub u: Vec<f32>,
    pub delta: Vec<f32>,
    pub a: Vec<f32>,
    pub bc: Vec<f32>,
    pub units: Range<usize>,
}

/// What is computed of it. `attention` is (L, L, 2) without what lies above the diagonal.
pub struct Explained<T> {
    pub forget: Vec<T>,
    pub energy: Vec<T>,
    pub stats: Vec<T>,
    pub attention: Vec<T>,
}

impl ExplainCase {
    /// Of Mamba-1's channels.
    pub fn channels(sizes: (usize, usize, usize), units: Range<usize>, random: &mut Random) -> Self {
        let ScanCase { shape, u, delta, a, x_dbl, .. } = ScanCase::random(sizes, RANGE, random);
        Self { shape: (&shape).into(), u, delta, a, bc: x_dbl, units }
    }

    /// Of Mamba-2's heads, whose kernels a page does not check; `wide`: with gaps in the rows.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn heads(l: usize, sizes: SsdSizes, wide: bool, units: Range<usize>, random: &mut Random) -> Self {
        let case = SsdCase::random(l, sizes, RANGE, random);
        let SsdCase { shape, zxbcdt, xbc, dt_bias, a, .. } = if wide { case.wide(random) } else { case };
        let mut delta = vec![0.0; l * shape.heads];
        reference::ssd_delta(&mut delta, &zxbcdt, &dt_bias, &shape);
        Self { shape: (&shape).into(), u: xbc.clone(), delta, a, bc: xbc, units }
    }

    fn below_diagonal<T: Copy>(&self, attention: &[T]) -> Vec<T> {
        let l = self.shape.l;
        (0..l).flat_map(|i| attention[2 * l * i..][..2 * (i + 1)].iter().copied()).collect()
    }

    /// By the twins in f64.
    pub fn expected(&self) -> Explained<f64> {
        let s = &self.shape;
        let (u, delta, a, bc) = (f64s(&self.u), f64s(&self.delta), f64s(&self.a), f64s(&self.bc));
        let input = ExplainInput { u: &u, delta: &delta, a: &a, bc: &bc };
        let (mut forget, mut energy) = (vec![0.0; s.l * s.units], vec![0.0; s.l * s.channels()]);
        let (mut stats, mut attention) = (vec![0.0; 3 * s.l], vec![0.0; 2 * s.l * s.l]);
        reference::channel_stats(&mut forget, &mut energy, &input, s);
        reference::token_stats(&mut stats, &delta, &forget, &energy, s);
        reference::hidden_attention(&mut attention, &input, self.units.clone(), s);
        Explained { forget, energy, stats, attention: self.below_diagonal(&attention) }
    }

    /// By the kernels.
    pub async fn run(&self, gpu: &Gpu) -> Result<Explained<f32>, CheckError> {
        let s = &self.shape;
        let (u, delta) = (tensor(gpu, &self.u)?, tensor(gpu, &self.delta)?);
        let (a, bc) = (tensor(gpu, &self.a)?, tensor(gpu, &self.bc)?);
        let b = ExplainBuffers { u: &u, delta: &delta, a: &a, bc: &bc };
        let (forget, energy) = (poisoned(gpu, s.l * s.units)?, poisoned(gpu, s.l * s.channels())?);
        let (stats, attention) = (poisoned(gpu, 3 * s.l)?, poisoned(gpu, 2 * s.l * s.l)?);
        run(gpu, |plan| {
            kernels::channel_stats(plan, &b, &forget, &energy, s)?;
            kernels::token_stats(plan, (&delta, &forget, &energy), &stats, s)?;
            kernels::hidden_attention(plan, &b, &attention, self.units.clone(), s)
        })
        .await?;
        Ok(Explained {
            forget: forget.read(gpu).await?,
            energy: energy.read(gpu).await?,
            stats: stats.read(gpu).await?,
            attention: self.below_diagonal(&attention.read::<f32>(gpu).await?),
        })
    }
}

/// The kernels against what was expected of a case. Means of factors up to one and of values about one: absolute tolerances.
pub async fn explain(gpu: &Gpu, case: &ExplainCase, want: &Explained<f64>) -> Result<(), CheckError> {
    let got = case.run(gpu).await?;
    let (s, units) = (&case.shape, &case.units);
    let what = |of| format!("{of}, {units:?} of {s:?}");
    close(&what("channel_stats: forget"), &got.forget, &want.forget, 1e-6, 1e-5)?;
    close(&what("channel_stats: energy"), &got.energy, &want.energy, 1e-5, 1e-4)?;
    close(&what("token_stats"), &got.stats, &want.stats, 1e-5, 1e-4)?;
    close(&what("hidden_attention"), &got.attention, &want.attention, 1e-5, 1e-4)
}
