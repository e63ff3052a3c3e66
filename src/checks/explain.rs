//! channel_stats, token_stats and hidden_attention against their twins in f64.

use super::data::{close, f64s, poisoned, run, tensor};
use super::data::{CheckError, Random};
use super::scan::ScanCase;
use crate::gpu::Gpu;
use crate::kernels::{self, ExplainBuffers};
use crate::reference::{self, ExplainInput};
use std::ops::Range;

/// Inputs, and the channels that the hidden attention is a mean of.
#[derive(Debug, Clone)]
pub struct ExplainCase {
    pub scan: ScanCase,
    pub channels: Range<usize>,
}

/// What is computed of it. `attention` is (L, L, 2) without what lies above the diagonal.
pub struct Explained<T> {
    pub forget: Vec<T>,
    pub energy: Vec<T>,
    pub stats: Vec<T>,
    pub attention: Vec<T>,
}

impl ExplainCase {
    pub fn random(sizes: (usize, usize, usize), channels: Range<usize>, random: &mut Random) -> Self {
        Self { scan: ScanCase::random(sizes, (1e-3, 1.0), random), channels }
    }

    fn below_diagonal<T: Copy>(&self, attention: &[T]) -> Vec<T> {
        let l = self.scan.shape.l;
        (0..l).flat_map(|i| attention[2 * l * i..][..2 * (i + 1)].iter().copied()).collect()
    }

    /// By the twins in f64.
    pub fn expected(&self) -> Explained<f64> {
        let (c, s) = (&self.scan, &self.scan.shape);
        let (u, delta, a, x_dbl) = (f64s(&c.u), f64s(&c.delta), f64s(&c.a), f64s(&c.x_dbl));
        let input = ExplainInput { u: &u, delta: &delta, a: &a, x_dbl: &x_dbl };
        let (mut forget, mut energy) = (vec![0.0; s.l * s.d_inner], vec![0.0; s.l * s.d_inner]);
        let (mut stats, mut attention) = (vec![0.0; 3 * s.l], vec![0.0; 2 * s.l * s.l]);
        reference::channel_stats(&mut forget, &mut energy, &input, s);
        reference::token_stats(&mut stats, &delta, &forget, &energy, s.d_inner);
        reference::hidden_attention(&mut attention, &input, self.channels.clone(), s);
        Explained { forget, energy, stats, attention: self.below_diagonal(&attention) }
    }

    /// By the kernels.
    pub async fn run(&self, gpu: &Gpu) -> Result<Explained<f32>, CheckError> {
        let (c, s) = (&self.scan, self.scan.shape);
        let (u, delta) = (tensor(gpu, &c.u)?, tensor(gpu, &c.delta)?);
        let (a, x_dbl) = (tensor(gpu, &c.a)?, tensor(gpu, &c.x_dbl)?);
        let b = ExplainBuffers { u: &u, delta: &delta, a: &a, x_dbl: &x_dbl };
        let (forget, energy) = (poisoned(gpu, s.l * s.d_inner)?, poisoned(gpu, s.l * s.d_inner)?);
        let (stats, attention) = (poisoned(gpu, 3 * s.l)?, poisoned(gpu, 2 * s.l * s.l)?);
        run(gpu, |plan| {
            kernels::channel_stats(plan, &b, &forget, &energy, s)?;
            kernels::token_stats(plan, (&delta, &forget, &energy), &stats, (s.l, s.d_inner))?;
            kernels::hidden_attention(plan, &b, &attention, self.channels.clone(), s)
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
    let s = case.scan.shape;
    let what = |of| format!("{of}, l {} d_inner {} d_state {} channels {:?}", s.l, s.d_inner, s.d_state, case.channels);
    close(&what("channel_stats: forget"), &got.forget, &want.forget, 1e-6, 1e-5)?;
    close(&what("channel_stats: energy"), &got.energy, &want.energy, 1e-5, 1e-4)?;
    close(&what("token_stats"), &got.stats, &want.stats, 1e-5, 1e-4)?;
    close(&what("hidden_attention"), &got.attention, &want.attention, 1e-5, 1e-4)
}
