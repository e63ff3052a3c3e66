//! generate
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {}
