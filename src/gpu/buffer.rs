//! Storage buffers with a name, counted, and views into them.

use super::context::Memory;
use super::shader::NumberFormat;
use super::{Gpu, GpuError};
use std::sync::Arc;

struct Allocation {
    buffer: wgpu::Buffer,
    label: String,
    memory: Arc<Memory>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.memory.remove(self.buffer.size());
    }
}

/// A run of elements in a storage buffer, of 32 bits each, or of 16 (activations in f16). Cheap to clone: clones and views share the buffer.
#[derive(Clone)]
pub struct Tensor {
    allocation: Arc<Allocation>,
    offset: u64,
    bytes: u64,
    format: NumberFormat,
    range: Range,
}

/// What is done about a tensor's values being larger than f16, and products by matrices of f16, can do with: 65,504.
#[derive(Clone, Default)]
enum Range {
    /// Nothing: they are not, or it is noticed elsewhere.
    #[default]
    Assumed,
    /// Whoever stores one sets a flag.
    Watched(Arc<Tensor>),
    /// They may be: no f16 is to be used.
    Wide,
}

/// The smallest binding that every kernel accepts: one quad of 32-bit values.
const MIN_BYTES: u64 = 16;

impl Tensor {
    /// A zeroed buffer of `elements` 32-bit values.
    ///
    /// # Errors
    /// Over the adapter's limit a buffer. A full memory shows in [`Gpu::check`].
    pub fn zeros(gpu: &Gpu, label: &str, elements: usize) -> Result<Self, GpuError> {
        Self::activations(gpu, label, elements, NumberFormat::F32)
    }

    /// A zeroed buffer of `elements` activations.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn activations(gpu: &Gpu, label: &str, elements: usize, format: NumberFormat) -> Result<Self, GpuError> {
        let length = (elements * format.bytes()) as u64;
        let bytes = length.next_multiple_of(MIN_BYTES).max(MIN_BYTES);
        let limit = gpu.limits().max_buffer_size;
        if bytes > limit {
            return Err(GpuError::BufferTooLarge { label: label.into(), bytes, limit });
        }
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.memory().add(bytes);
        let allocation = Allocation { buffer, label: label.into(), memory: gpu.memory().clone() };
        Ok(Self { allocation: Arc::new(allocation), offset: 0, bytes: length, format, range: Range::Assumed })
    }

    /// A buffer with these values (of 4 bytes each: f32, u32, packed pairs of f16).
    pub fn new<T: bytemuck::Pod>(gpu: &Gpu, label: &str, values: &[T]) -> Result<Self, GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let tensor = Self::zeros(gpu, label, bytes.len().div_ceil(4))?;
        tensor.write(gpu, 0, values);
        Ok(tensor)
    }

    /// Writes values from element `at` on (before all that is submitted later). Their bytes are a multiple of 4.
    pub fn write<T: bytemuck::Pod>(&self, gpu: &Gpu, at: usize, values: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if !bytes.is_empty() {
            gpu.queue().write_buffer(&self.allocation.buffer, self.offset + at as u64 * 4, bytes);
        }
    }

    /// Records a copy to a tensor of the same length in another buffer; both begin and end with whole words.
    pub fn copy_to(&self, encoder: &mut wgpu::CommandEncoder, to: &Tensor) {
        debug_assert_eq!(self.bytes, to.bytes, "{}: copy to another length", self.label());
        encoder.copy_buffer_to_buffer(self.buffer(), self.offset, to.buffer(), to.offset, self.bytes);
    }

    /// A view of `elements` 32-bit values from element `at` on. To be bound, `at` must be a multiple of 64 (256 bytes).
    pub fn slice(&self, at: usize, elements: usize) -> Self {
        debug_assert!((at + elements) as u64 * 4 <= self.bytes, "{}: view outside", self.label());
        let (offset, bytes) = (self.offset + at as u64 * 4, elements as u64 * 4);
        Self { allocation: self.allocation.clone(), offset, bytes, format: self.format, range: self.range.clone() }
    }

    /// The same, watched: the kernels that store activations (rms_norm, conv1d, scan_fused with its own workspace's
    /// flag), and matmul where it rounds x to f16, set `flag` (one u32) to 1 where a value is beyond f16.
    #[must_use]
    pub fn watched_by(mut self, flag: &Tensor) -> Self {
        self.range = Range::Watched(Arc::new(flag.clone()));
        self
    }
    /// The same, for values of any size: matmul multiplies it in f32 throughout.
    #[must_use]
    pub fn of_any_size(mut self) -> Self {
        self.range = Range::Wide;
        self
    }
    /// The flag of a watched tensor.
    pub fn watch(&self) -> Option<&Tensor> {
        match &self.range {
            Range::Watched(flag) => Some(flag),
            Range::Assumed | Range::Wide => None,
        }
    }
    /// Whether values may be of any size.
    pub fn wide(&self) -> bool {
        matches!(self.range, Range::Wide)
    }

    pub fn label(&self) -> &str {
        &self.allocation.label
    }
    /// Values in this view.
    pub fn elements(&self) -> usize {
        self.bytes as usize / self.format.bytes()
    }
    /// Bytes in this view.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }
    /// How its values are stored.
    pub fn format(&self) -> NumberFormat {
        self.format
    }
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.allocation.buffer
    }
    /// Bytes from the buffer's begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The view as a binding, never empty.
    pub(super) fn binding(&self) -> (wgpu::BufferBinding<'_>, u64) {
        let end =
            (self.offset + self.bytes.next_multiple_of(MIN_BYTES).max(MIN_BYTES)).min(self.allocation.buffer.size());
        let bytes = end - self.offset;
        let size = std::num::NonZeroU64::new(bytes);
        (wgpu::BufferBinding { buffer: &self.allocation.buffer, offset: self.offset, size }, bytes)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}, {} elements)", self.label(), self.elements())
    }
}
