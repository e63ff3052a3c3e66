//! How long plans take: by the device's own clock where it has TIMESTAMP_QUERY, and by the host's always.

use super::{Gpu, GpuError, Plan, Readback, Tensor};
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

/// A plan's run within a submission of several.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub plan: &'a Plan,
    /// Copies (from, to) before it, outside its time.
    pub restore: &'a [(&'a Tensor, &'a Tensor)],
    /// Whether its time is wanted.
    pub timed: bool,
}

struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readback: Readback,
    /// Nanoseconds a tick.
    period: f64,
}

/// Times plans: one, or several in one submission.
pub struct Timer {
    gpu: Gpu,
    /// Passes of a submission that can be timed.
    room: usize,
    queries: Option<Queries>,
}

/// Two 64-bit ticks a pass.
const BYTES: usize = 16;

impl Timer {
    /// For one plan at a time.
    pub fn new(gpu: &Gpu) -> Self {
        Self::with_room(gpu, 1)
    }

    /// For as many timed passes a submission as `room`, at most 2048 (a query set's limit); later ones are not timed.
    pub fn with_room(gpu: &Gpu, room: usize) -> Self {
        let device = gpu.device();
        let room = room.clamp(1, wgpu::QUERY_SET_MAX_QUERIES as usize / 2);
        let queries = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Queries {
            set: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * room as u32,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: (room * BYTES) as u64,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            readback: Readback::new(gpu, "timestamps", room * BYTES / 4),
            period: f64::from(gpu.queue().get_timestamp_period()),
        });
        Self { gpu: gpu.clone(), room, queries }
    }

    /// Whether the device's clock can be read.
    pub fn has_timestamps(&self) -> bool {
        self.queries.is_some()
    }

    /// Records, submits and waits. The ticks are read after the wait, outside both times.
    ///
    /// # Errors
    /// The device's.
    pub async fn run(&self, plan: &Plan) -> Result<Timing, GpuError> {
        let (times, wall_ns) = self.passes(&[Pass { plan, restore: &[], timed: true }]).await?;
        Ok(Timing { gpu_ns: times.first().copied().flatten(), wall_ns })
    }

    /// Records all passes into one submission, submits and waits: the device does one after the other without waiting for
    /// the host. Gives the nanoseconds of those that were to be timed, in order, and of all by the host's clock. Passes that
    /// share a buffer do not overlap; to keep others from it, run both once, untimed, before those that are timed.
    ///
    /// # Errors
    /// The device's.
    pub async fn passes(&self, passes: &[Pass<'_>]) -> Result<(Vec<Option<f64>>, f64), GpuError> {
        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let mut timed = 0;
        for pass in passes {
            pass.restore.iter().for_each(|(from, to)| from.copy_to(&mut encoder, to));
            let queries = self.queries.as_ref().filter(|_| pass.timed && timed < self.room);
            pass.plan.record_timed(
                &mut encoder,
                queries.map(|q| wgpu::ComputePassTimestampWrites {
                    query_set: &q.set,
                    beginning_of_pass_write_index: Some(2 * timed as u32),
                    end_of_pass_write_index: Some(2 * timed as u32 + 1),
                }),
            );
            timed += usize::from(queries.is_some());
        }
        if let Some(q) = self.queries.as_ref().filter(|_| timed > 0) {
            encoder.resolve_query_set(&q.set, 0..2 * timed as u32, &q.resolved, 0);
            q.readback.copy_from_buffer(&mut encoder, &q.resolved, (timed * BYTES) as u64);
        }
        self.gpu.submit_and_wait(encoder.finish()).await?;
        let wall_ns = start.elapsed().as_secs_f64() * 1e9;
        let mut times = Vec::with_capacity(timed);
        if let Some(q) = self.queries.as_ref().filter(|_| timed > 0) {
            let ticks = q.readback.read::<u64>(&self.gpu, timed * BYTES / 4).await?;
            let ns = |pair: &[u64]| match *pair {
                [begin, end] if begin > 0 && end > begin => Some((end - begin) as f64 * q.period),
                _ => None,
            };
            times.extend(ticks.chunks_exact(2).map(ns));
        }
        let wanted = passes.iter().filter(|pass| pass.timed).count();
        times.resize(wanted, None);
        Ok((times, wall_ns))
    }
}
