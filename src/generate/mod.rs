//! generate
mod sampler;
pub use sampler::SamplingParams;
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("{parameter} is {value}: expected {expected}")]
    InvalidParameter {
        parameter: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("no distribution to sample from: a logit is NaN or all are -inf")]
    NotSampleable,
}
