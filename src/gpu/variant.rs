//! What can be switched off on a device, and what stands in for it.

use super::shader::WeightFormat;
use crate::reference::Quant;
use serde::Serialize;
use std::fmt;

/// A line a variant: its name to people, and what runs where it is switched off.
macro_rules! variants {
    ($($(#[$doc:meta])* $variant:ident: $name:literal, $fallback:literal;)*) => {
        /// A kernel variant that something plainer can stand in for, or that a device can do without.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Variant {
            $($(#[$doc])* $variant,)*
        }

        impl Variant {
            pub const ALL: &[Variant] = &[$(Variant::$variant),*];

            /// What runs where this variant is switched off.
            pub fn fallback(self) -> &'static str {
                match self {
                    $(Variant::$variant => $fallback,)*
                }
            }
        }

        impl fmt::Display for Variant {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Variant::$variant => $name,)*
                })
            }
        }
    };
}

variants! {
    /// Weights held as f16.
    F16Weights: "f16 weights", "weights as f32";
    /// Weights held quantised to 8 bits, as a checkpoint has them.
    Q8Weights: "q8 weights", "weights as f32";
    /// The same with 4 bits.
    Q4Weights: "q4 weights", "weights as f32";
    /// matvec for one token.
    Matvec: "matvec", "matmul";
    /// The decode step in four dispatches a layer.
    FusedStep: "fused step", "kernel by kernel";
    /// conv1d_update and selective_state_update, in the step: the parallel kernels do it with a length of one.
    Step: "recurrent step", "the parallel kernels";
    /// The textbook scan.
    BlellochScan: "blelloch scan", "the sequential scan";
    /// The fused scan.
    FusedScan: "fused scan", "the sequential scan";
    /// Mamba-2's recurrence in chunks.
    ChunkedSsd: "chunked SSD", "the sequential scan";
    /// The same by cooperative matrices.
    MatrixSsd: "SSD by matrices", "chunked SSD";
    /// ssd_state_update for one token: the kernels for texts do it with a length of one.
    SsdStep: "SSD step", "the parallel kernels";
    /// Several texts in a step: they go one after the other.
    Batch: "batches", "one text after the other";
    /// What Mamba-2's layers cannot do without: ssd_sequential and gated_rms_norm. Models that have such layers are refused.
    Mamba2: "Mamba-2", "no models with such layers";
    /// What layers of attention and MLPs cannot do without: rope_store, attention, attention_step, attention_join and
    /// activate.
    Attention: "attention", "no models with such layers";
    /// What layers of experts cannot do without: route, route_order, experts_sum and the experts' products.
    Experts: "experts", "no models with such layers";
    /// The kernels that explain: their twins do it, from tensors read back.
    Explain: "explaining", "the CPU";
    /// Activations in f16.
    F16Activations: "f16 activations", "activations as f32";
    /// matmul by cooperative matrices; matmul.wgsl has multiply-adds.
    CooperativeMatrix: "cooperative matrices", "matmul";
    /// matmul of f32 by cooperative matrices of halves.
    SplitMatrix: "split f32 matrices", "matmul";
    /// matmul of f32 for few tokens by cooperative matrices of halves.
    FewTokens: "few tokens by matrices", "matmul";
    /// matmul_grad by cooperative matrices of halves.
    SplitGradients: "split f32 gradients", "matmul_grad";
    /// The kernels that only training needs: without them the device does not train.
    Training: "training", "no training";
}

impl Variant {
    /// The variant that holds weights in such a format; f32 needs none.
    pub fn of(format: WeightFormat) -> Option<Self> {
        match format {
            WeightFormat::F32 => None,
            WeightFormat::F16 => Some(Variant::F16Weights),
            WeightFormat::Quantised(Quant::Q8) => Some(Variant::Q8Weights),
            WeightFormat::Quantised(Quant::Q4) => Some(Variant::Q4Weights),
        }
    }
}
