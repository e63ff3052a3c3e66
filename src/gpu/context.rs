//! One device: its limits and features, its pipelines, its memory, and the first error it reported.

use super::adapter::{self, AdapterChoice, AdapterSummary};
use super::gate::Gate;
use super::shader::{spoil, ShaderSpec};
use super::sync::lock;
use super::variant::Variant;
use crate::error::GpuError;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Which limits a device is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitMode {
    /// WebGPU's defaults, with buffer and binding sizes raised to what the adapter has.
    #[default]
    Full,
    /// WebGPU's defaults and no feature at all: what any browser must offer. For tests and for finding faults.
    WebGpuDefaults,
}

/// How to open a device. The default takes the best adapter there is, a software one if there is no other.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// Only this backend; `None` for any.
    pub backend: Option<wgpu::Backend>,
    /// Only this adapter; `None` for the best.
    pub adapter: Option<AdapterChoice>,
    /// Whether the best may be a software one, where there is no other: slower than the CPU backend, but the same kernels.
    /// Without, [`GpuError::OnlySoftware`] says that there is only such a one ([`crate::model::Backend::auto`]).
    pub software: bool,
    /// Which of several GPUs comes first.
    pub power_preference: wgpu::PowerPreference,
    pub limits: LimitMode,
    /// Compile shaders with every run-time check (bounds, loops, divisions): slower, for tests.
    pub checked_shaders: bool,
    /// The name of a kernel whose arithmetic is to be spoilt by one per cent: shows that the self-test finds it.
    #[doc(hidden)]
    pub fault: Option<String>,
    /// Watches activations as where f16 is used, though it is not: for tests on adapters without it.
    #[doc(hidden)]
    pub watch: bool,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            backend: None,
            adapter: None,
            software: true,
            power_preference: wgpu::PowerPreference::HighPerformance,
            limits: LimitMode::Full,
            checked_shaders: false,
            fault: None,
            watch: false,
        }
    }
}

/// Bytes of buffers that this crate holds on a device.
#[derive(Debug, Default)]
pub(super) struct Memory {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Memory {
    pub(super) fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }
    pub(super) fn remove(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    summary: AdapterSummary,
    checked_shaders: bool,
    limits: LimitMode,
    spoilt: Option<String>,
    watch: bool,
    switched_off: Mutex<HashSet<Variant>>,
    pipelines: Mutex<HashMap<ShaderSpec, wgpu::ComputePipeline>>,
    memory: Arc<Memory>,
    fault: Arc<Mutex<Option<GpuError>>>,
    gate: Gate,
}

/// A device and all that is shared by the models on it. Cheap to clone.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.0.summary.line())
    }
}

/// What wgpu says where a window's surface was to be configured while another thread submitted work
/// ([`Gpu::hold_submissions`]). The surface stays as it was and is configured at a later frame: no fault of the models'.
const SURFACE_IN_USE: &str = "Failed to wait for GPU to come idle before reconfiguring the Surface";

/// Workgroup memory that the kernels with cooperative matrices take at most, matmul_grad_split.wgsl 46 KiB.
const COOPERATIVE_STORAGE: u32 = 48 << 10;

/// Whether an adapter has what those kernels need.
fn cooperative(adapter: &wgpu::Adapter, summary: &AdapterSummary) -> bool {
    use wgpu::CooperativeScalarType::{F16, F32};
    let fits = |p: &wgpu::CooperativeMatrixProperties| {
        (p.m_size, p.n_size, p.k_size) == (16, 16, 16) && (p.ab_type, p.cr_type) == (F16, F32)
    };
    adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        && (summary.subgroup_min_size, summary.subgroup_max_size) == (32, 32)
        && adapter.limits().max_compute_workgroup_storage_size >= COOPERATIVE_STORAGE
        && adapter.cooperative_matrix_properties().iter().any(fits)
}

impl Gpu {
    /// Opens a device on the adapter that the options ask for.
    ///
    /// # Errors
    /// No such adapter, only a software one where that may not be taken, no compute shaders, or a driver that refuses.
    pub async fn new(options: &GpuOptions) -> Result<Self, GpuError> {
        let found = adapter::find(options.backend, options.power_preference).await;
        let (adapter, summary) = adapter::choose(found.adapters, options)?;

        let refused =
            |e: wgpu::RequestDeviceError| GpuError::Device { adapter: summary.line(), message: e.to_string() };
        let (device, queue) =
            adapter.request_device(&Self::device_descriptor(&adapter, options.limits)).await.map_err(refused)?;
        Ok(Self::with(summary, device, queue, options))
    }

    /// What to ask an adapter for, so that models run as fast as it can: for programs that open the device themselves, to
    /// draw with it too ([`Gpu::on_device`]).
    pub fn device_descriptor(adapter: &wgpu::Adapter, mode: LimitMode) -> wgpu::DeviceDescriptor<'static> {
        let available = adapter.limits();
        let mut limits = wgpu::Limits::defaults().or_worse_values_from(&available);
        let mut features = wgpu::Features::empty();
        if mode == LimitMode::Full {
            limits.max_buffer_size = available.max_buffer_size;
            limits.max_storage_buffer_binding_size = available.max_storage_buffer_binding_size;
            let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SHADER_F16;
            features = adapter.features() & wanted;
            if features.contains(wgpu::Features::SHADER_F16) && cooperative(adapter, &AdapterSummary::new(0, adapter)) {
                features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
                limits.max_compute_workgroup_storage_size = COOPERATIVE_STORAGE;
            }
        }
        wgpu::DeviceDescriptor {
            label: Some("mamba-wgpu"),
            required_features: features,
            required_limits: limits,
            experimental_features: if features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
                // SAFETY: the one experimental feature asked for is used by six kernels, matmul_coop, matmul_split,
                // matmul_grad_split and ssd_matrix_*, which the self-test compares with their twins.
                unsafe { wgpu::ExperimentalFeatures::enabled() }
            } else {
                wgpu::ExperimentalFeatures::disabled()
            },
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        }
    }

    /// Models on a device that the program opened itself, as [`Gpu::device_descriptor`] says. The device's error and loss
    /// callbacks are this crate's from now on. The summary's index is 0: the adapter stands in no list.
    ///
    /// # Errors
    /// [`GpuError::NoCompute`].
    pub fn on_device(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Result<Self, GpuError> {
        let summary = AdapterSummary::new(0, adapter);
        match summary.compute {
            true => Ok(Self::with(summary, device, queue, &GpuOptions::default())),
            false => Err(GpuError::NoCompute { adapter: summary.line() }),
        }
    }

    fn with(summary: AdapterSummary, device: wgpu::Device, queue: wgpu::Queue, options: &GpuOptions) -> Self {
        let memory = Arc::new(Memory::default());
        let fault = Arc::new(Mutex::new(None));
        let keep_first = |fault: &Mutex<Option<GpuError>>, e| {
            lock(fault).get_or_insert(e);
        };
        let (m, f) = (memory.clone(), fault.clone());
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let message = e.to_string();
            if message.contains(SURFACE_IN_USE) {
                return;
            }
            keep_first(
                &f,
                match e {
                    wgpu::Error::OutOfMemory { .. } => {
                        GpuError::OutOfMemory { allocated: m.now.load(Ordering::Relaxed), message }
                    }
                    _ => GpuError::Validation { message },
                },
            );
        }));
        let f = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                keep_first(&f, GpuError::Lost { message });
            }
        });
        Self(Arc::new(Inner {
            device,
            queue,
            summary,
            checked_shaders: options.checked_shaders,
            limits: options.limits,
            spoilt: options.fault.clone(),
            watch: options.watch,
            switched_off: Mutex::default(),
            pipelines: Mutex::default(),
            memory,
            fault,
            gate: Gate::default(),
        }))
    }

    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }
    /// Submits commands. All that this crate computes goes through here.
    pub fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        self.0.gate.pass(|| self.0.queue.submit(commands))
    }
    /// Lets models submit nothing until [`Gpu::release_submissions`], 1 s at most. For a program that draws with the same
    /// device ([`Gpu::on_device`]) while models run on another thread: a surface can be configured only while the queue is idle.
    pub fn hold_submissions(&self) {
        self.0.gate.hold();
    }
    /// The other half of [`Gpu::hold_submissions`].
    pub fn release_submissions(&self) {
        self.0.gate.release();
    }
    /// The adapter behind the device.
    pub fn adapter_summary(&self) -> &AdapterSummary {
        &self.0.summary
    }
    /// Whether kernels are laid out for a software adapter, where every load costs the same and barriers cost much. Not with
    /// WebGPU's defaults, where nothing is known of the adapter.
    pub fn software(&self) -> bool {
        self.0.limits == LimitMode::Full && self.0.summary.software()
    }
    /// Whether shaders may use f16: activations can be held in it.
    pub fn shader_f16(&self) -> bool {
        self.0.device.features().contains(wgpu::Features::SHADER_F16)
    }
    /// Whether matmul_coop.wgsl and the like run: f16 matrices of 16 x 16 x 16 with sums in f32, subgroups of 32.
    /// In browsers, which have none, known without asking: what is for them only is not built then.
    pub fn cooperative(&self) -> bool {
        let features = || self.0.device.features();
        cfg!(not(target_arch = "wasm32")) && features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
    }
    /// Whether activations are watched in any case.
    pub(crate) fn watches(&self) -> bool {
        self.0.watch
    }
    pub fn limits(&self) -> wgpu::Limits {
        self.0.device.limits()
    }
    /// The most bytes that one binding may show to a shader.
    pub fn max_binding(&self) -> u64 {
        let limits = self.limits();
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
    }
    /// Bytes of buffers held now, and the most there ever were.
    pub fn memory_bytes(&self) -> (u64, u64) {
        (self.0.memory.now.load(Ordering::Relaxed), self.0.memory.peak.load(Ordering::Relaxed))
    }
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.0.memory
    }

    /// The first error that the device reported outside any call, if there was one. Called wherever a caller waits.
    /// A loss stays (the device is gone for good); anything else is reported once.
    pub fn check(&self) -> Result<(), GpuError> {
        let mut fault = lock(&self.0.fault);
        match &*fault {
            None => Ok(()),
            Some(lost @ GpuError::Lost { .. }) => Err(lost.clone()),
            Some(_) => fault.take().map_or(Ok(()), Err),
        }
    }

    /// Models loaded and plans made on this device from now on do without a variant.
    pub fn switch_off(&self, variant: Variant) {
        lock(&self.0.switched_off).insert(variant);
    }
    /// Whether a variant may be used on this device.
    pub fn allows(&self, variant: Variant) -> bool {
        !lock(&self.0.switched_off).contains(&variant)
    }

    /// The pipeline of a shader variant; compiled once a device. A variant that the driver rejects shows in [`Gpu::check`].
    pub fn pipeline(&self, spec: &ShaderSpec) -> wgpu::ComputePipeline {
        if let Some(pipeline) = lock(&self.0.pipelines).get(spec) {
            return pipeline.clone();
        }
        let label = spec.label();
        let mut source = spec.source();
        // "matmul", or "matmul q8" for one format of it.
        let in_format = spec.weight.map(|format| format!("{} {}", spec.name, format.tag()));
        if self.0.spoilt.as_deref().is_some_and(|fault| fault == spec.name || in_format.as_deref() == Some(fault)) {
            source = spoil(source);
        }
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(source.into()) };
        let module = if self.0.checked_shaders {
            self.0.device.create_shader_module(descriptor)
        } else {
            let checks =
                wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
            // SAFETY: only loop bounding is off, and every loop in shaders/ is bounded by a uniform or a constant.
            // It costs more than half of a matmul's time; the other checks cost nothing that could be measured.
            unsafe { self.0.device.create_shader_module_trusted(descriptor, checks) }
        };
        let pipeline = self.0.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: self.0.checked_shaders,
            },
            cache: None,
        });
        lock(&self.0.pipelines).insert(spec.clone(), pipeline.clone());
        pipeline
    }

    /// Submits, and waits until the device has done it.
    pub async fn submit_and_wait(&self, commands: wgpu::CommandBuffer) -> Result<(), GpuError> {
        self.submit([commands]);
        let (tx, rx) = futures_channel::oneshot::channel();
        self.0.queue.on_submitted_work_done(move || {
            let _ = tx.send(());
        });
        self.drive(None)?;
        // Natively all is done by now, even where the callback was dropped (see `Readback::read_after`).
        let _ = rx.await;
        self.check()
    }

    /// Waits until the device is idle, and has the memory of tensors that were dropped given back. In a browser that is the
    /// browser's.
    pub fn settle(&self) -> Result<(), GpuError> {
        // What was written and never used keeps its buffer until the next submission.
        self.submit([]);
        self.drive(None)?;
        self.check()
    }

    /// How many bytes of buffers the device has room for now, `up_to` at most. wgpu does not tell how much memory is free: so many are asked
    /// for, and given back.
    ///
    /// # Errors
    /// A device that was lost.
    pub async fn room(&self, up_to: u64) -> Result<u64, GpuError> {
        const PIECE: u64 = 128 << 20;
        let piece = PIECE.min(self.limits().max_buffer_size);
        let (mut held, mut room) = (Vec::new(), 0);
        while room < up_to {
            let size = piece.min(up_to - room).next_multiple_of(4);
            let full = self.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            held.push(self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("room"),
                size,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }));
            if full.pop().await.is_some() {
                break;
            }
            room += size;
        }
        held.iter().for_each(wgpu::Buffer::destroy);
        drop(held);
        self.settle()?;
        Ok(room.min(up_to))
    }

    /// Natively, waits for a submission (the last one, for `None`) and runs the callbacks of all that is done; in a
    /// browser its event loop does.
    #[cfg_attr(target_arch = "wasm32", allow(unused_variables))]
    pub(super) fn drive(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), GpuError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(e) = self.0.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None }) {
            self.check()?;
            return Err(GpuError::Lost { message: e.to_string() });
        }
        Ok(())
    }
}
