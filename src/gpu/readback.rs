//! From the device to the host. One piece of code natively and in wasm: the callback of `map_async` completes a
//! channel; natively the device is polled once, in a browser the event loop runs the callback.

use super::{Gpu, GpuError, Tensor};

/// A buffer that the host can map, used again and again.
pub struct Readback {
    buffer: wgpu::Buffer,
    label: String,
}

impl Readback {
    /// For at most `elements` 32-bit values.
    pub fn new(gpu: &Gpu, label: &str, elements: usize) -> Self {
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: (elements as u64 * 4).max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Self { buffer, label: label.into() }
    }

    /// Records the copy of a tensor to the begin of this buffer.
    pub fn copy_from(&self, encoder: &mut wgpu::CommandEncoder, tensor: &Tensor) {
        let bytes = (tensor.bytes() as u64).next_multiple_of(4).min(self.buffer.size());
        encoder.copy_buffer_to_buffer(tensor.buffer(), tensor.offset(), &self.buffer, 0, bytes);
    }

    /// Records the copy of a buffer's first bytes to the begin of this buffer.
    pub(super) fn copy_from_buffer(&self, encoder: &mut wgpu::CommandEncoder, buffer: &wgpu::Buffer, bytes: u64) {
        encoder.copy_buffer_to_buffer(buffer, 0, &self.buffer, 0, bytes.min(self.buffer.size()));
    }

    /// Waits for what was submitted and gives the first `elements` values.
    pub async fn read<T: bytemuck::Pod>(&self, gpu: &Gpu, elements: usize) -> Result<Vec<T>, GpuError> {
        self.read_after(gpu, elements, None).await
    }

    /// The same, natively waiting for one submission only (which this buffer was last written by): what was submitted
    /// behind it goes on meanwhile.
    pub async fn read_after<T: bytemuck::Pod>(
        &self,
        gpu: &Gpu,
        elements: usize,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<T>, GpuError> {
        let failed = |message: String| GpuError::Readback { label: self.label.clone(), message };
        if elements == 0 {
            return Ok(Vec::new());
        }
        let range = 0..elements as u64 * 4;
        let (tx, rx) = futures_channel::oneshot::channel();
        self.buffer.map_async(wgpu::MapMode::Read, range.clone(), move |result| {
            let _ = tx.send(result);
        });
        gpu.drive(submission)?;
        // wgpu 30 drops the callbacks of what is done where a window's surface could not be configured. The buffer is mapped all the
        // same, or the range below is refused.
        let mapped = rx.await.unwrap_or(Ok(()));
        gpu.check()?;
        mapped.map_err(|e| failed(e.to_string()))?;
        let values = {
            let view = self.buffer.get_mapped_range(range).map_err(|e| failed(format!("{e:?}")))?;
            bytemuck::pod_collect_to_vec::<u8, T>(&view)
        };
        self.buffer.unmap();
        Ok(values)
    }
}

impl Tensor {
    /// The values, for callers that read rarely: makes a staging buffer for this one read.
    pub async fn read<T: bytemuck::Pod>(&self, gpu: &Gpu) -> Result<Vec<T>, GpuError> {
        let words = self.bytes().div_ceil(4);
        let readback = Readback::new(gpu, self.label(), words);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        readback.copy_from(&mut encoder, self);
        gpu.submit([encoder.finish()]);
        let mut values = readback.read::<T>(gpu, words).await?;
        values.truncate(self.bytes() / std::mem::size_of::<T>().max(1));
        Ok(values)
    }
}
