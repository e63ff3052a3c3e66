//! gpu
#[derive(Debug, thiserror::Error)]
pub enum GpuError {}
