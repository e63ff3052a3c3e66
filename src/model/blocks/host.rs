//! What layers of all kinds share on the CPU.

use crate::model::pages::LayerPages;
use crate::reference::{matmul, matvec, Epilogue, Linear, Quantised, Weights as Rows};
use crate::settings::Scan;

/// A parameter in memory. A matrix that a checkpoint holds quantised stays so: its rows are made as they are used. That takes a
/// quarter or a seventh of the memory that f32 would, and a decode step, which reads every weight once, is no slower for it.
pub(crate) enum HostTensor {
    Plain(Vec<f32>),
    Quantised(Quantised),
}

impl HostTensor {
    /// The values of a parameter that is never quantised.
    pub fn values(&self) -> &[f32] {
        match self {
            HostTensor::Plain(values) => values,
            HostTensor::Quantised(_) => &[],
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        match self {
            HostTensor::Plain(values) => 4 * values.len() as u64,
            HostTensor::Quantised(matrix) => (matrix.packed.len() + matrix.scales.len()) as u64,
        }
    }
}

impl<'a> From<&'a HostTensor> for Rows<'a, f32> {
    fn from(matrix: &'a HostTensor) -> Self {
        match matrix {
            HostTensor::Plain(w) => w.into(),
            HostTensor::Quantised(w) => w.into(),
        }
    }
}

/// The two ways through a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Any number of positions, by convolution and scan.
    Prefill,
    /// One position of each of some texts, by the recurrent step.
    Decode,
}

/// What runs through all layers: l positions of one text, or of as many texts, and how.
pub(crate) struct Stream<'a> {
    pub residual: &'a mut [f32], // (l, d_model)
    pub hidden: &'a mut [f32],   // (l, d_model), scratch
    pub l: usize,
    /// Of the norm before each layer.
    pub norm_eps: f32,
    pub mode: Mode,
    pub scan: Scan,
}

/// A layer's state: what its kind does not keep is empty.
pub(crate) struct LayerState<'a> {
    pub conv: &'a mut [f32],
    pub ssm: &'a mut [f32],
    /// Of attention.
    pub pages: Option<&'a mut LayerPages>,
    /// Tokens that the text has already, where it is counted.
    pub position: usize,
}

/// y = x w^T (+ bias), by the kernel of the mode.
pub(crate) fn linear(
    mode: Mode,
    y: &mut [f32],
    x: &[f32],
    (w, bias): (&HostTensor, Option<&HostTensor>),
    shape: &Linear,
    epilogue: Epilogue,
) {
    let bias = bias.map(HostTensor::values);
    match mode {
        Mode::Decode if shape.l == 1 => matvec(y, x, w, bias, shape, epilogue),
        Mode::Prefill | Mode::Decode => matmul(y, x, w, bias, shape, epilogue),
    }
}
