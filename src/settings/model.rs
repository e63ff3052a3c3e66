//! How a model is run.

use super::named;

/// The rungs of the scan (docs/scan.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scan {
    /// One token after the other: the oracle.
    Sequential,
    /// The textbook work-efficient scan of materialised pairs.
    Blelloch,
    /// Discretised in registers, reduce-then-scan.
    #[default]
    Fused,
}

named!(Scan, "scan": Sequential = "sequential", Blelloch = "blelloch", Fused = "fused");

/// How weight matrices are held on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightDtype {
    /// As f16 what the checkpoint stores as f16, quantised what it stores quantised, all else as f32: nothing is rounded.
    #[default]
    Auto,
    /// All as f32.
    F32,
    /// As [`WeightDtype::Auto`], said outright.
    F16,
}

named!(WeightDtype, "weight format": Auto = "auto", F32 = "f32", F16 = "f16");

/// How a prompt's activations are held on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ActivationDtype {
    /// As f16 where cooperative matrices make that several times faster (an adapter that has them, weights of f16 or coarser,
    /// the fused scan, a d_model of 512 or more), else as f32. The residual stream, xz, B, C and all states are f32 in any case, and so
    /// is decoding.
    #[default]
    Auto,
    /// As f32: what is computed is exact to its rounding.
    F32,
    /// As f16 wherever the adapter's shaders have it.
    F16,
}

named!(ActivationDtype, "activation format": Auto = "auto", F32 = "f32", F16 = "f16");

/// How a model is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    pub scan: Scan,
    /// Tokens of a prompt that go through at once: more is faster and takes more memory. At least 1.
    pub chunk: usize,
    pub weights: WeightDtype,
    pub activations: ActivationDtype,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            scan: Scan::default(),
            chunk: 2048,
            weights: WeightDtype::default(),
            activations: ActivationDtype::default(),
        }
    }
}
