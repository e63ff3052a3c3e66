//! STUB
#![allow(unused_variables)]
use super::{Conv1d, ConvShape, RmsNorm, ScanBuffers, ScanShape, WeightMatrix};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
type R = Result<(), GpuError>;
type P<'a, 'b> = &'a mut PlanBuilder<'b>;
pub struct Scratch;
pub struct ScratchShape {
    pub rows: usize,
    pub batch: usize,
    pub d_model: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
}
impl Scratch {
    pub fn new(gpu: &Gpu, shape: ScratchShape) -> Result<Self, GpuError> {
        Ok(Scratch)
    }
}
#[derive(Clone, Copy)]
pub struct LinearGrad {
    pub l: usize,
    pub x_stride: usize,
    pub y_stride: usize,
}
#[derive(Clone, Copy)]
pub struct Columns {
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}
pub fn matmul_grad_x(
    plan: P,
    scratch: &Scratch,
    grad_y: &Tensor,
    w: &WeightMatrix,
    grad_x: &Tensor,
    shape: LinearGrad,
    add: bool,
) -> R {
    Ok(())
}
pub fn matmul_grad_w(
    plan: P,
    scratch: &Scratch,
    x: &Tensor,
    grad_y: &Tensor,
    grad_w: &WeightMatrix,
    shape: LinearGrad,
) -> R {
    Ok(())
}
pub fn column_sums(plan: P, scratch: &Scratch, x: &Tensor, out: &Tensor, shape: Columns) -> R {
    Ok(())
}
pub fn rms_norm_train(
    plan: P,
    residual: &Tensor,
    hidden: Option<&Tensor>,
    sum: &Tensor,
    weight: &Tensor,
    y: &Tensor,
    shape: RmsNorm,
) -> R {
    Ok(())
}
pub struct RmsNormGrads<'a> {
    pub x: &'a Tensor,
    pub weight: &'a Tensor,
    pub grad_y: &'a Tensor,
    pub grad_x: &'a Tensor,
    pub grad_weight: &'a Tensor,
}
pub fn rms_norm_backward(plan: P, scratch: &Scratch, b: &RmsNormGrads, shape: RmsNorm) -> R {
    Ok(())
}
pub const IGNORE: u32 = u32::MAX;
pub fn cross_entropy(
    plan: P,
    logits: &Tensor,
    targets: &Tensor,
    scale: &Tensor,
    nll: &Tensor,
    rows: usize,
    vocab_size: usize,
) -> R {
    Ok(())
}
pub fn token_order(tokens: &[u32]) -> Vec<u32> {
    let mut o: Vec<u32> = (0..tokens.len() as u32).collect();
    o.sort_by_key(|&i| tokens[i as usize]);
    o
}
pub fn embedding_backward(
    plan: P,
    scratch: &Scratch,
    tokens: &Tensor,
    order: &Tensor,
    grad_residual: &Tensor,
    grad_table: &WeightMatrix,
    rows: usize,
) -> R {
    Ok(())
}
pub fn conv1d_batch(plan: P, conv: &Conv1d, batch: usize, shape: ConvShape) -> R {
    Ok(())
}
pub struct Conv1dGrads<'a> {
    pub xz: &'a Tensor,
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub grad_u: &'a Tensor,
    pub grad_xz: &'a Tensor,
    pub grad_weight: &'a Tensor,
    pub grad_bias: Option<&'a Tensor>,
}
pub fn conv1d_backward(plan: P, scratch: &Scratch, b: &Conv1dGrads, batch: usize, shape: ConvShape) -> R {
    Ok(())
}
pub fn negative_exp(plan: P, a_log: &Tensor, a: &Tensor, elements: usize) -> R {
    Ok(())
}
pub fn softplus(plan: P, x: &Tensor, y: &Tensor, elements: usize) -> R {
    Ok(())
}
#[derive(Clone, Copy)]
pub struct TrainScan {
    pub batch: usize,
    pub shape: ScanShape,
    pub lti: bool,
}
pub struct ScanTape;
impl ScanTape {
    pub fn new(gpu: &Gpu, scan: TrainScan) -> Result<Self, GpuError> {
        Ok(ScanTape)
    }
}
pub fn scan_train(plan: P, tape: &ScanTape, b: &ScanBuffers, scan: TrainScan) -> R {
    Ok(())
}
pub struct ScanGrads<'a> {
    pub u: &'a Tensor,
    pub a: &'a Tensor,
    pub x_dbl: &'a Tensor,
    pub d: &'a Tensor,
    pub xz: &'a Tensor,
    pub delta: &'a Tensor,
    pub grad_y: &'a Tensor,
    pub grad_xz: &'a Tensor,
    pub grad_x_dbl: &'a Tensor,
    pub grad_a_log: &'a Tensor,
    pub grad_d: &'a Tensor,
    pub grad_dt_bias: &'a Tensor,
    pub grad_state: &'a Tensor,
}
pub fn scan_backward(plan: P, scratch: &Scratch, tape: &ScanTape, b: &ScanGrads, scan: TrainScan) -> R {
    Ok(())
}
