//! Quantising a checkpoint: its large matrices to q8 or q4, all else as it is (docs/quantisation.md).

use super::write::{header, place, write_quantised, Entry};
use super::{names, Checkpoint, Dtype, LoadError, TensorView};
pub use crate::error::QuantiseError;
use crate::reference::{dequantise, Quant};
use serde::Serialize;
use std::io;

#[cfg(not(target_arch = "wasm32"))]
mod folder;
#[cfg(not(target_arch = "wasm32"))]
pub use folder::quantise_to_folder;

/// What became of a tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorSummary {
    pub name: String,
    pub shape: Vec<usize>,
    /// How it was and is stored: `f16`, `q8`, ...
    pub from: String,
    pub to: String,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// The largest difference of a value and the root of the mean square of all; 0 for a tensor that is as it was.
    pub max_error: f64,
    pub rms_error: f64,
    /// The root of the mean square of the values themselves, to compare with; 0 for a tensor that is as it was.
    pub rms: f64,
    /// Why a large matrix is as it was all the same: its largest magnitude, which no scale holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beyond: Option<f64>,
}

/// What became of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Bytes of the weights.
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// In the order of the forward pass.
    pub tensors: Vec<TensorSummary>,
}

/// The magnitudes that a matrix's largest value may have: any scale that its blocks might choose, the value itself at
/// the most, times the largest integer is then finite, and the scales that matter are normal numbers of bf16. What
/// trained models hold is far inside.
const HOLDABLE: std::ops::RangeInclusive<f32> = 1e-35..=2e37;
/// Values that are looked at together.
const BATCH: usize = 1 << 20;

/// A matrix's largest magnitude, if scales cannot hold it.
fn beyond(tensor: &TensorView<'_>) -> Result<Option<f32>, LoadError> {
    let &[n, k] = tensor.shape else { return Ok(None) };
    let (batch, mut largest) = ((BATCH / k.max(1)).max(1), 0.0f32);
    for start in (0..n).step_by(batch) {
        let values = tensor.rows_to_f32(start..(start + batch).min(n))?;
        largest = values.iter().fold(largest, |largest, x| largest.max(x.abs()));
    }
    Ok((largest > 0.0 && !HOLDABLE.contains(&largest)).then_some(largest))
}

/// Called with bytes done and in all; gives whether to go on.
pub type Progress<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// Writes the weights of `checkpoint` as one safetensors file, with its large matrices quantised: embedding, head,
/// in_proj, x_proj and out_proj. One tensor after the other passes through memory. A matrix whose values no scale holds
/// stays as it is.
///
/// # Errors
/// Weights that are quantised already or not finite; what `out` says; [`QuantiseError::Cancelled`].
pub fn quantise(
    checkpoint: &Checkpoint,
    quant: Quant,
    out: &mut dyn io::Write,
    progress: &mut Progress<'_>,
) -> Result<Summary, QuantiseError> {
    let mut tensors = Vec::new();
    checkpoint.weights().for_each(|tensor| tensors.push(*tensor));
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.dtype.quant().is_some()) {
        let (source_name, tensor_name) = (checkpoint.source().into(), tensor.name.into());
        return Err(QuantiseError::AlreadyQuantised {
            source_name,
            tensor: tensor_name,
            dtype: tensor.dtype.to_string(),
        });
    }
    let total = tensors.iter().map(TensorView::bytes).sum();
    // The header comes first, and says of each how it is stored.
    let mut unholdable = Vec::with_capacity(tensors.len());
    for tensor in &tensors {
        unholdable.push(if names::is_quantisable(tensor.name) { beyond(tensor)? } else { None });
        if !progress(0, total) {
            return Err(QuantiseError::Cancelled);
        }
    }
    let to = |i: usize| match names::is_quantisable(tensors[i].name) && unholdable[i].is_none() {
        true => Dtype::Quantised(quant),
        false => tensors[i].dtype,
    };
    // Names without what wrappers have added to them.
    let prefix = checkpoint.config().arch.prefix();
    let written: Vec<_> = tensors.iter().map(|tensor| names::published(tensor.name, prefix)).collect();
    let entry = |i: usize| Entry { name: &written[i], shape: tensors[i].shape, dtype: to(i) };
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| place(to(i))); // stable
    out.write_all(&header(order.iter().map(|&i| entry(i))))?;

    let mut done = 0;
    let mut report = |bytes: u64| {
        done += bytes;
        match progress(done, total) {
            true => Ok(()),
            false => Err(QuantiseError::Cancelled),
        }
    };
    let mut errors = vec![Errors::default(); tensors.len()];
    for i in order {
        let tensor = &tensors[i];
        match (to(i).quant(), tensor.shape) {
            (Some(quant), &[n, k]) => {
                let row_bytes = tensor.dtype.row_bytes(k) as u64;
                let rows = |rows: std::ops::Range<usize>| {
                    report(0)?;
                    let values = tensor.rows_to_f32(rows.clone())?;
                    report(rows.len() as u64 * row_bytes)?;
                    Ok::<_, QuantiseError>(values)
                };
                let seen = |values: &[f32], packed: &[u8], scales: &[u8]| {
                    let mut back = vec![0.0; values.len()];
                    dequantise(quant, packed, scales, k, &mut back);
                    errors[i].add(values, &back);
                };
                write_quantised(out, quant, (n, k), rows, seen)?;
            }
            _ => {
                out.write_all(&tensor.stored_bytes()?)?;
                report(tensor.bytes())?;
            }
        }
    }
    out.flush()?;
    let summary = |(i, tensor): (usize, &TensorView<'_>)| TensorSummary {
        name: written[i].to_string(),
        shape: tensor.shape.to_vec(),
        from: tensor.dtype.to_string(),
        to: to(i).to_string(),
        bytes_before: tensor.bytes(),
        bytes_after: entry(i).bytes(),
        max_error: errors[i].max,
        rms_error: errors[i].mean(errors[i].squares),
        rms: errors[i].mean(errors[i].values),
        beyond: unholdable[i].map(f64::from),
    };
    let tensors: Vec<TensorSummary> = tensors.iter().enumerate().map(summary).collect();
    let bytes_after = tensors.iter().map(|t| t.bytes_after).sum();
    Ok(Summary { bytes_before: total, bytes_after, tensors })
}

/// Sums over a tensor's values.
#[derive(Clone, Default)]
struct Errors {
    count: u64,
    max: f64,
    squares: f64,
    values: f64,
}

impl Errors {
    fn add(&mut self, values: &[f32], back: &[f32]) {
        self.count += values.len() as u64;
        for (x, y) in values.iter().zip(back) {
            let error = f64::from(*x) - f64::from(*y);
            self.max = self.max.max(error.abs());
            self.squares += error * error;
            self.values += f64::from(*x) * f64::from(*x);
        }
    }

    fn mean(&self, sum: f64) -> f64 {
        (sum / self.count.max(1) as f64).sqrt()
    }
}
