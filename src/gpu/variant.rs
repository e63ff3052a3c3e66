//! What can be switched off on a device, and what stands in for it.

use super::shader::WeightFormat;
use serde::Serialize;
use std::fmt;

/// A kernel variant that something plainer can stand in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Weights held as f16. Instead: as f32.
    F16Weights,
    /// Weights held quantised to 8 bits, as a checkpoint has them. Instead: as f32.
    Q8Weights,
    /// The same with 4 bits.
    Q4Weights,
    /// matvec for one token. Instead: matmul.
    Matvec,
    /// The decode step in four dispatches a layer. Instead: kernel by kernel.
    FusedStep,
    /// conv1d_update and selective_state_update, in the step. Instead: the parallel kernels with a length of one.
    Step,
    /// The textbook scan. Instead: the sequential one.
    BlellochScan,
    /// The fused scan. Instead: the sequential one.
    FusedScan,
    /// Mamba-2's recurrence in chunks. Instead: the sequential one.
    ChunkedSsd,
    /// ssd_state_update for one token. Instead: the kernels for texts with a length of one.
    SsdStep,
    /// Several texts in a step. Instead: one after the other.
    Batch,
    /// The kernels that explain. Instead: their twins, from tensors read back.
    Explain,
    /// Activations in f16. Instead: in f32.
    F16Activations,
    /// matmul by cooperative matrices. Instead: by multiply-adds.
    CooperativeMatrix,
    /// matmul of f32 by cooperative matrices of halves. Instead: by multiply-adds.
    SplitMatrix,
    /// matmul_grad by cooperative matrices of halves. Instead: by multiply-adds.
    SplitGradients,
    /// The kernels that only training needs. Instead: nothing, the device does not train.
    Training,
}

impl Variant {
    pub const ALL: [Variant; 17] = [
        Variant::F16Weights,
        Variant::Q8Weights,
        Variant::Q4Weights,
        Variant::Matvec,
        Variant::FusedStep,
        Variant::Step,
        Variant::BlellochScan,
        Variant::FusedScan,
        Variant::ChunkedSsd,
        Variant::SsdStep,
        Variant::Batch,
        Variant::Explain,
        Variant::F16Activations,
        Variant::CooperativeMatrix,
        Variant::SplitMatrix,
        Variant::SplitGradients,
        Variant::Training,
    ];

    /// The variant that holds weights in such a format; f32 needs none.
    pub fn of(format: WeightFormat) -> Option<Self> {
        match format {
            WeightFormat::F32 => None,
            WeightFormat::F16 => Some(Variant::F16Weights),
            WeightFormat::Q8 => Some(Variant::Q8Weights),
            WeightFormat::Q4 => Some(Variant::Q4Weights),
        }
    }

    /// What runs where this variant is switched off.
    pub fn fallback(self) -> &'static str {
        match self {
            Variant::F16Weights | Variant::Q8Weights | Variant::Q4Weights => "weights as f32",
            Variant::Matvec => "matmul",
            Variant::FusedStep => "kernel by kernel",
            Variant::Step | Variant::SsdStep => "the parallel kernels",
            Variant::BlellochScan | Variant::FusedScan | Variant::ChunkedSsd => "the sequential scan",
            Variant::Batch => "one text after the other",
            Variant::Explain => "the CPU",
            Variant::F16Activations => "activations as f32",
            Variant::CooperativeMatrix | Variant::SplitMatrix => "matmul",
            Variant::SplitGradients => "matmul_grad",
            Variant::Training => "no training",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Variant::F16Weights => "f16 weights",
            Variant::Q8Weights => "q8 weights",
            Variant::Q4Weights => "q4 weights",
            Variant::Matvec => "matvec",
            Variant::FusedStep => "fused step",
            Variant::Step => "recurrent step",
            Variant::BlellochScan => "blelloch scan",
            Variant::FusedScan => "fused scan",
            Variant::ChunkedSsd => "chunked SSD",
            Variant::SsdStep => "SSD step",
            Variant::Batch => "batches",
            Variant::Explain => "explaining",
            Variant::F16Activations => "f16 activations",
            Variant::CooperativeMatrix => "cooperative matrices",
            Variant::SplitMatrix => "split f32 matrices",
            Variant::SplitGradients => "split f32 gradients",
            Variant::Training => "training",
        })
    }
}
