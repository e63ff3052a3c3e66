//! A forward pass as a flat list of dispatches. Mamba's kernels never depend on the position in the text, so a plan is
//! built once (bindings, parameters, grids) and recorded into a command buffer again for every chunk or token.

use super::shader::ShaderSpec;
use super::{Gpu, GpuError, Tensor};

struct Pending {
    spec: ShaderSpec,
    bindings: Vec<(u32, Tensor)>,
    params: (usize, usize), // begin and length in PlanBuilder::params
    groups: [u32; 2],
}

/// Collects dispatches; [`PlanBuilder::finish`] makes their bind groups.
pub struct PlanBuilder<'g> {
    gpu: &'g Gpu,
    steps: Vec<Pending>,
    params: Vec<u8>,
    scratch: Option<Tensor>,
}

struct Step {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    groups: [u32; 2],
}

/// A list of dispatches with all that they need, ready to be recorded any number of times.
pub struct Plan {
    steps: Vec<Step>,
    labels: Vec<String>,
}

/// Spreads `items` items over workgroups of `size` and these over x and y (shared/grid.wgsl).
pub fn grid(items: usize, size: usize, limit: u32) -> [u64; 2] {
    let groups = items.div_ceil(size) as u64;
    let x = groups.min(u64::from(limit));
    [x, groups.checked_div(x).map_or(0, |_| groups.div_ceil(x))]
}

impl<'g> PlanBuilder<'g> {
    pub fn new(gpu: &'g Gpu) -> Self {
        Self { gpu, steps: Vec::new(), params: Vec::new(), scratch: None }
    }

    pub fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// Room for so many values of f32 between two dispatches that follow each other; others overwrite it.
    pub fn scratch(&mut self, elements: usize) -> Result<Tensor, GpuError> {
        if let Some(scratch) = self.scratch.as_ref().filter(|scratch| scratch.elements() >= elements) {
            return Ok(scratch.slice(0, elements));
        }
        let scratch = Tensor::zeros(self.gpu, "scratch", elements)?;
        self.scratch = Some(scratch.clone());
        Ok(scratch)
    }

    /// A dispatch over a flat grid: one workgroup for every `size` of `items`.
    pub fn dispatch_flat<P: bytemuck::Pod>(
        &mut self,
        spec: ShaderSpec,
        params: &P,
        bindings: &[(u32, &Tensor)],
        items: usize,
        size: usize,
    ) -> Result<(), GpuError> {
        let groups = grid(items, size, self.gpu.limits().max_compute_workgroups_per_dimension);
        self.dispatch(spec, params, bindings, groups)
    }

    /// A dispatch of `groups` workgroups (x, y). Nothing to do (a zero) is left out. Binding 0 is the parameters.
    ///
    /// # Errors
    /// A binding or a grid over the adapter's limits, named.
    pub fn dispatch<P: bytemuck::Pod>(
        &mut self,
        spec: ShaderSpec,
        params: &P,
        bindings: &[(u32, &Tensor)],
        groups: [u64; 2],
    ) -> Result<(), GpuError> {
        if groups.contains(&0) {
            return Ok(());
        }
        let limit = self.gpu.limits().max_compute_workgroups_per_dimension;
        let [x, y] = groups;
        let (Ok(gx), Ok(gy)) = (u32::try_from(x), u32::try_from(y)) else {
            return Err(GpuError::GridTooLarge { kernel: spec.label(), x, y, limit });
        };
        if gx > limit || gy > limit {
            return Err(GpuError::GridTooLarge { kernel: spec.label(), x, y, limit });
        }
        let limit = self.gpu.max_binding();
        for (_, tensor) in bindings {
            let (_, bytes) = tensor.binding();
            if bytes > limit {
                let (kernel, label) = (spec.label(), tensor.label().to_owned());
                return Err(GpuError::BindingTooLarge { kernel, label, bytes, limit });
            }
        }
        let align = self.gpu.limits().min_uniform_buffer_offset_alignment as usize;
        self.params.resize(self.params.len().next_multiple_of(align), 0);
        let begin = self.params.len();
        self.params.extend_from_slice(bytemuck::bytes_of(params));
        self.params.resize(self.params.len().next_multiple_of(16), 0);
        self.steps.push(Pending {
            spec,
            bindings: bindings.iter().map(|(i, t)| (*i, (*t).clone())).collect(),
            params: (begin, self.params.len() - begin),
            groups: [gx, gy],
        });
        Ok(())
    }

    /// Compiles what is not compiled yet and makes the bind groups.
    pub fn finish(self) -> Result<Plan, GpuError> {
        let device = self.gpu.device();
        let uniforms = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (self.params.len().max(16)) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if !self.params.is_empty() {
            self.gpu.queue().write_buffer(&uniforms, 0, &self.params);
        }
        let labels = self.steps.iter().map(|s| s.spec.label()).collect();
        let steps = self.steps.iter().map(|pending| {
            let pipeline = self.gpu.pipeline(&pending.spec);
            let (begin, length) = pending.params;
            let uniform = wgpu::BufferBinding {
                buffer: &uniforms,
                offset: begin as u64,
                size: std::num::NonZeroU64::new(length as u64),
            };
            let mut entries =
                vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(uniform) }];
            entries.extend(pending.bindings.iter().map(|(i, tensor)| wgpu::BindGroupEntry {
                binding: *i,
                resource: wgpu::BindingResource::Buffer(tensor.binding().0),
            }));
            let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&pending.spec.label()),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            Step { pipeline, bind_group, groups: pending.groups }
        });
        let plan = Plan { steps: steps.collect(), labels };
        self.gpu.check()?;
        Ok(plan)
    }
}

impl Plan {
    /// Records all dispatches, in order, in one compute pass. wgpu orders them by what they read and write.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.record_timed(encoder, None);
    }

    /// The same, with timestamps at the pass's begin and end.
    pub fn record_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        for step in &self.steps {
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, &step.bind_group, &[]);
            pass.dispatch_workgroups(step.groups[0], step.groups[1], 1);
        }
    }

    /// The kernels, in order: how many dispatches there are, and which.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Records and submits without waiting.
    pub fn submit(&self, gpu: &Gpu) -> Result<(), GpuError> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.record(&mut encoder);
        gpu.submit([encoder.finish()]);
        gpu.check()
    }

    /// Records, submits and waits: for kernels run alone.
    pub async fn run(&self, gpu: &Gpu) -> Result<(), GpuError> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.record(&mut encoder);
        gpu.submit_and_wait(encoder.finish()).await
    }
}
