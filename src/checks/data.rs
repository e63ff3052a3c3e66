//! Random data and the comparison that every check uses.

use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::reference::Quantised;

/// Why a check did not pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckError {
    /// The kernel ran and gave something else than its twin.
    #[error("{what}: {difference}")]
    Differs { what: String, difference: String },
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// Deterministic numbers (SplitMix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Values spread evenly over (low, high).
    pub fn vec(&mut self, n: usize, low: f64, high: f64) -> Vec<f32> {
        (0..n).map(|_| (low + (high - low) * self.unit()) as f32).collect()
    }
    /// Values spread evenly in their logarithm over (low, high).
    pub fn log_vec(&mut self, n: usize, low: f64, high: f64) -> Vec<f32> {
        (0..n).map(|_| (low.ln() + (high.ln() - low.ln()) * self.unit()).exp() as f32).collect()
    }
    /// As [`Random::vec`], rounded to what f16 holds.
    pub fn f16_vec(&mut self, n: usize, low: f64, high: f64) -> Vec<f32> {
        self.vec(n, low, high).into_iter().map(|x| half::f16::from_f32(x).to_f32()).collect()
    }
    /// A matrix of rows of k, and what it is once it is held in a format.
    pub fn weights(&mut self, format: WeightFormat, (n, k): (usize, usize), low: f64, high: f64) -> Vec<f32> {
        match (format, format.quant()) {
            (WeightFormat::F16, _) => self.f16_vec(n * k, low, high),
            (_, None) => self.vec(n * k, low, high),
            (_, Some(quant)) => Quantised::new(quant, k, &self.vec(n * k, low, high)).values(),
        }
    }
    pub fn tokens(&mut self, n: usize, vocab_size: usize) -> Vec<u32> {
        (0..n).map(|_| (self.bits() % vocab_size as u64) as u32).collect()
    }
}

pub fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Where `got` is furthest beyond atol + rtol |want| from `want`; `None` if it nowhere is. NaN and infinities are
/// beyond any tolerance, and so is another length.
pub fn difference(got: &[f32], want: &[f64], atol: f64, rtol: f64) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{} values, expected {}", got.len(), want.len()));
    }
    let excess = |(g, w): (&f32, &f64)| {
        let e = (f64::from(*g) - w).abs() - (atol + rtol * w.abs());
        if e.is_nan() {
            f64::INFINITY
        } else {
            e
        }
    };
    let worst = got.iter().zip(want).map(excess).enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    (worst.1 > 0.0).then(|| {
        let (i, _) = worst;
        format!("worst at {i}: {} instead of {} (atol {atol:.1e}, rtol {rtol:.1e})", got[i], want[i])
    })
}

pub fn close(what: &str, got: &[f32], want: &[f64], atol: f64, rtol: f64) -> Result<(), CheckError> {
    match difference(got, want, atol, rtol) {
        None => Ok(()),
        Some(difference) => Err(CheckError::Differs { what: what.into(), difference }),
    }
}

pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], want: &[T]) -> Result<(), CheckError> {
    let at = got.iter().zip(want).position(|(g, w)| g != w);
    let difference = match at {
        None if got.len() == want.len() => return Ok(()),
        None => format!("{} values, expected {}", got.len(), want.len()),
        Some(i) => format!("at {i}: {:?} instead of {:?}", got[i], want[i]),
    };
    Err(CheckError::Differs { what: what.into(), difference })
}

pub fn tensor(gpu: &Gpu, values: &[f32]) -> Result<Tensor, GpuError> {
    Tensor::new(gpu, "check", values)
}

/// Activations of a format, and what is left of the values in it.
pub fn activations(gpu: &Gpu, values: &[f32], format: NumberFormat) -> Result<(Tensor, Vec<f32>), GpuError> {
    let tensor = Tensor::activations(gpu, "check", values.len(), format)?;
    match format {
        NumberFormat::F32 => {
            tensor.write(gpu, 0, values);
            Ok((tensor, values.to_vec()))
        }
        NumberFormat::F16 => {
            let mut halves: Vec<half::f16> = values.iter().map(|&x| half::f16::from_f32(x)).collect();
            let rounded = halves.iter().map(|x| x.to_f32()).collect();
            halves.resize(halves.len().next_multiple_of(2), half::f16::ZERO);
            tensor.write(gpu, 0, &halves);
            Ok((tensor, rounded))
        }
    }
}

/// The same, full of NaN.
pub fn poisoned_activations(gpu: &Gpu, elements: usize, format: NumberFormat) -> Result<Tensor, GpuError> {
    Ok(activations(gpu, &vec![f32::NAN; elements], format)?.0)
}

/// Activations of any format.
pub async fn read_activations(gpu: &Gpu, tensor: &Tensor) -> Result<Vec<f32>, GpuError> {
    match tensor.format() {
        NumberFormat::F32 => tensor.read(gpu).await,
        NumberFormat::F16 => Ok(tensor.read::<half::f16>(gpu).await?.into_iter().map(half::f16::to_f32).collect()),
    }
}

/// Relative, what rounding to a format leaves uncertain: half an ulp and some.
pub fn rounding(format: NumberFormat) -> f64 {
    match format {
        NumberFormat::F32 => 0.0,
        NumberFormat::F16 => 6e-4,
    }
}

/// A buffer full of NaN: what a kernel does not write shows.
pub fn poisoned(gpu: &Gpu, elements: usize) -> Result<Tensor, GpuError> {
    tensor(gpu, &vec![f32::NAN; elements])
}

/// Builds a plan and runs it once.
pub async fn run(gpu: &Gpu, build: impl FnOnce(&mut PlanBuilder<'_>) -> Result<(), GpuError>) -> Result<(), GpuError> {
    let mut plan = PlanBuilder::new(gpu);
    build(&mut plan)?;
    plan.finish()?.run(gpu).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_can_fail() {
        assert!(difference(&[1.0, 2.0], &[1.0, 2.0], 1e-6, 0.0).is_none());
        assert!(difference(&[1.0, 2.00001], &[1.0, 2.0], 1e-6, 0.0).unwrap().contains("worst at 1"));
        assert!(difference(&[f32::NAN, 2.0], &[1.0, 2.0], 1e9, 1e9).unwrap().contains("worst at 0"));
        assert!(difference(&[1.0], &[f64::NAN], 1e9, 1e9).is_some());
        assert!(difference(&[f32::INFINITY], &[f64::INFINITY], 1e9, 1e9).is_some());
        assert!(difference(&[1.0], &[1.0, 2.0], 1e9, 1e9).is_some());
        assert!(equal("x", &[1, 2], &[1, 2]).is_ok());
        assert!(equal("x", &[1, 3], &[1, 2]).is_err() && equal("x", &[1], &[1, 2]).is_err());
    }
}
