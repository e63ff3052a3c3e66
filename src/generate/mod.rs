//! generate
mod sampler;
pub use sampler::SamplingParams;
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {}
