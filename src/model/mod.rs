//! model
#[derive(Debug, thiserror::Error)]
pub enum LoadError {}
