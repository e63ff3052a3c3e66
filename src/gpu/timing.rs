//! How long a plan takes: by the device's own clock where it has TIMESTAMP_QUERY, and by the host's always.

use super::{Gpu, GpuError, Plan, Readback};
use web_time::Instant;

/// How long one run of a plan took, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// From the begin of the compute pass to its end on the device. `None` without timestamps, and where the device's
    /// two made no sense (some drivers leave zeros).
    pub gpu_ns: Option<f64>,
    /// From before the recording until the host knew of the end: with submission and waiting.
    pub wall_ns: f64,
}

struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readback: Readback,
    /// Nanoseconds a tick.
    period: f64,
}

/// Times plans, one at a time.
pub struct Timer {
    gpu: Gpu,
    queries: Option<Queries>,
}

/// Two 64-bit ticks.
const BYTES: u64 = 16;

impl Timer {
    pub fn new(gpu: &Gpu) -> Self {
        let device = gpu.device();
        let queries = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Queries {
            set: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: BYTES,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            readback: Readback::new(gpu, "timestamps", BYTES as usize / 4),
            period: f64::from(gpu.queue().get_timestamp_period()),
        });
        Self { gpu: gpu.clone(), queries }
    }

    /// Records, submits and waits. The ticks are read after the wait, outside both times.
    ///
    /// # Errors
    /// The device's.
    pub async fn run(&self, plan: &Plan) -> Result<Timing, GpuError> {
        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        plan.record_timed(
            &mut encoder,
            self.queries.as_ref().map(|q| wgpu::ComputePassTimestampWrites {
                query_set: &q.set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            }),
        );
        if let Some(q) = &self.queries {
            encoder.resolve_query_set(&q.set, 0..2, &q.resolved, 0);
            q.readback.copy_from_buffer(&mut encoder, &q.resolved, BYTES);
        }
        self.gpu.submit_and_wait(encoder.finish()).await?;
        let wall_ns = start.elapsed().as_secs_f64() * 1e9;
        let mut gpu_ns = None;
        if let Some(q) = &self.queries {
            let ticks = q.readback.read::<u64>(&self.gpu, BYTES as usize / 4).await?;
            if let [begin, end] = ticks[..] {
                gpu_ns = (begin > 0 && end > begin).then(|| (end - begin) as f64 * q.period);
            }
        }
        Ok(Timing { gpu_ns, wall_ns })
    }
}
