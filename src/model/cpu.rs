//! stub
use super::types::*;
use super::*;
use crate::error::Result;
use crate::generate::SamplingParams;
use std::sync::Arc;
pub struct CpuModel;
pub struct CpuSession;
impl CpuModel {
    pub fn load(
        _: &ModelConfig,
        _: &ModelWeights<'_>,
        _: ModelOptions,
        _: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        unreachable!()
    }
    pub fn config(&self) -> &ModelConfig {
        unreachable!()
    }
}
impl CpuSession {
    pub fn new(_: &Arc<CpuModel>) -> Self {
        Self
    }
    pub fn prefill(&mut self, _: &[u32], _: &mut dyn FnMut(usize, usize)) -> Result<()> {
        unreachable!()
    }
    pub fn step(&mut self, _: u32) -> Result<()> {
        unreachable!()
    }
    pub fn logits(&mut self) -> Result<Vec<f32>> {
        unreachable!()
    }
    pub fn score(
        &mut self,
        _: &[u32],
        _: Option<&[u32]>,
        _: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        unreachable!()
    }
    pub fn begin_sampling(&mut self, _: &SamplingParams, _: &[u32]) -> Result<()> {
        unreachable!()
    }
    pub fn sample(&mut self) -> Result<u32> {
        unreachable!()
    }
    pub fn try_clone(&self) -> Result<Self> {
        unreachable!()
    }
    pub fn reset(&mut self) {}
    pub fn state(&mut self) -> Result<StateData> {
        unreachable!()
    }
    pub fn set_state(&mut self, _: &StateData) -> Result<()> {
        unreachable!()
    }
}
