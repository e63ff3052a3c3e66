//! What can go wrong on a device.

/// What can go wrong between the host and a device.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No adapter on any of the backends asked for.
    #[error("no GPU adapter found on {backends}: install its driver, or a software Vulkan such as Mesa's lavapipe")]
    NoAdapter { backends: String },
    /// The adapter named on the command line or by the caller is not there.
    #[error("no adapter {wanted}; there {}", list(available))]
    UnknownAdapter { wanted: String, available: Vec<String> },
    /// No hardware where only that may be taken.
    #[error("no hardware GPU: {adapter} computes in software")]
    OnlySoftware { index: usize, adapter: String },
    /// The adapter has no compute shaders.
    #[error("adapter {adapter} has no compute shaders: choose another one")]
    NoCompute { adapter: String },
    /// The driver refused the device.
    #[error("adapter {adapter} refused to start: {message}")]
    Device { adapter: String, message: String },
    /// A buffer larger than the adapter allows.
    #[error("buffer {label}: {bytes} bytes are over the adapter's limit of {limit} bytes a buffer")]
    BufferTooLarge { label: String, bytes: u64, limit: u64 },
    /// A view larger than the adapter lets a shader see at once.
    #[error("kernel {kernel}, binding {label}: {bytes} bytes are over the adapter's limit of {limit} bytes a binding")]
    BindingTooLarge { kernel: String, label: String, bytes: u64, limit: u64 },
    /// A grid larger than the adapter can dispatch.
    #[error("kernel {kernel}: a grid of {x} x {y} workgroups is over the adapter's limit of {limit} a dimension")]
    GridTooLarge { kernel: String, x: u64, y: u64, limit: u32 },
    /// The device's memory is full.
    #[error("out of GPU memory ({} MiB were allocated); a smaller chunk, or quantised weights, need less: {message}", allocated >> 20)]
    OutOfMemory { allocated: u64, message: String },
    /// A shader or a call that the driver rejected: a fault of this crate or of the driver.
    #[error("the device rejected a call (`mamba-wgpu doctor` says whether it can be trusted): {message}")]
    Validation { message: String },
    /// The device is gone: reset, unplugged or timed out. Load the model again.
    #[error("the device was lost; start again: {message}")]
    Lost { message: String },
    /// The result could not be read.
    #[error("reading {label} back failed: {message}")]
    Readback { label: String, message: String },
    /// Layers whose kernels the self-test found wrong on this device, with nothing to stand in for them.
    #[error("this device computes {layers} layers wrongly (`mamba-wgpu doctor` says how), so it runs no model that has them: choose another adapter, or the CPU")]
    Unfit { layers: &'static str },
    /// Heads of attention that the kernels are not made for.
    #[error("heads of {head_dim} channels: on a GPU a multiple of 4 can be run, 256 at most; choose the CPU")]
    HeadDim { head_dim: usize },
    /// A model dimension that a kernel cannot hold.
    #[error("kernel {kernel}: {what} is {value}, at most {limit} can be run")]
    Unsupported { kernel: &'static str, what: &'static str, value: usize, limit: usize },
}

/// The adapters there are, as the end of a sentence.
fn list(available: &[String]) -> String {
    match available {
        [] => "are none at all".into(),
        some => format!("are: {}", some.join(", ")),
    }
}
