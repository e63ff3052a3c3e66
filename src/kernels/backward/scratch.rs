//! How much memory the partial sums of all kernels take.

use super::sums::Scratch;
use super::{conv, embedding, linear, scan, sums};
use crate::gpu::{Gpu, GpuError};
use crate::reference::backward::TrainScan;
use crate::reference::ScanShape;

/// What one [`Scratch`] must serve.
#[derive(Debug, Clone, Copy)]
pub struct ScratchShape {
    /// Tokens of all sequences of a micro-batch.
    pub rows: usize,
    pub batch: usize,
    pub d_model: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
}

impl ScratchShape {
    /// For a layer of the usual proportions, of that d_model.
    pub fn of_width(rows: usize, d_model: usize) -> Self {
        let (d_inner, dt_rank) = (2 * d_model, d_model.div_ceil(16));
        Self { rows, batch: 1, d_model, d_inner, d_state: 16, d_conv: 4, dt_rank }
    }
}

impl Scratch {
    /// # Errors
    /// Over the adapter's limit a buffer or a binding: a smaller micro-batch needs less.
    pub fn new(gpu: &Gpu, shape: ScratchShape) -> Result<Self, GpuError> {
        let ScratchShape { rows, batch, d_model, d_inner, d_state, d_conv, dt_rank } = shape;
        let l = rows.div_ceil(batch.max(1));
        let scan = |lti| TrainScan { batch, shape: ScanShape::of_layer(l, d_inner, d_state, dt_rank), lti };
        let widest = d_model.max(2 * d_inner).max(dt_rank + 2 * d_state);
        let needs = [
            linear::TILES,
            sums::partials(rows, widest),
            embedding::partials(rows, d_model),
            conv::partials(batch, l, d_inner, d_conv),
            scan::Layout::new(scan(false)).end,
            scan::Layout::new(scan(true)).end,
        ];
        Self::with_room(gpu, needs.into_iter().fold(0, usize::max))
    }
}
