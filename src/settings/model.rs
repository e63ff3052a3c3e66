//! How a model is run.

use std::fmt;
use std::str::FromStr;

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

impl Scan {
    pub const ALL: [Scan; 3] = [Scan::Sequential, Scan::Blelloch, Scan::Fused];
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scan::Sequential => "sequential",
            Scan::Blelloch => "blelloch",
            Scan::Fused => "fused",
        })
    }
}

impl FromStr for Scan {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let found = Scan::ALL.into_iter().find(|scan| scan.to_string() == s);
        found.ok_or_else(|| format!("unknown scan {s:?}: one of sequential, blelloch, fused"))
    }
}

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

impl FromStr for WeightDtype {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(WeightDtype::Auto),
            "f32" => Ok(WeightDtype::F32),
            "f16" => Ok(WeightDtype::F16),
            _ => Err(format!("unknown weight format {s:?}: one of auto, f32, f16")),
        }
    }
}

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

impl FromStr for ActivationDtype {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(ActivationDtype::Auto),
            "f32" => Ok(ActivationDtype::F32),
            "f16" => Ok(ActivationDtype::F16),
            _ => Err(format!("unknown activation format {s:?}: one of auto, f32, f16")),
        }
    }
}

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
