//! `cargo bench`: the kernels at small sizes, by the host's clock, for comparing one change with another. For what a GPU
//! can do see `mamba-wgpu bench`, which measures large sizes by the device's own clock.

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use mamba_wgpu::checks::data::Random;
use mamba_wgpu::gpu::shader::WeightFormat;
use mamba_wgpu::gpu::{Gpu, GpuError, GpuOptions, Plan, PlanBuilder, Tensor};
use mamba_wgpu::kernels::{self, BlellochWorkspace, FusedWorkspace, Linear, ScanBuffers, ScanShape, WeightMatrix};
use mamba_wgpu::model::Scan;
use pollster::block_on;

const D_INNER: usize = 256;
const D_STATE: usize = 16;
const LENGTHS: [usize; 2] = [64, 512];
const FORMATS: [(&str, WeightFormat); 2] = [("f32", WeightFormat::F32), ("f16", WeightFormat::F16)];

fn random(gpu: &Gpu, elements: usize, low: f64, high: f64) -> Result<Tensor, GpuError> {
    Tensor::new(gpu, "bench", &Random(1).vec(elements, low, high))
}

fn scan_plan(gpu: &Gpu, l: usize, rung: Scan) -> Result<Plan, GpuError> {
    let shape = ScanShape {
        l,
        d_inner: D_INNER,
        d_state: D_STATE,
        x_dbl_stride: 2 * D_STATE,
        b_offset: 0,
        c_offset: D_STATE,
        xz_stride: D_INNER,
        z_offset: 0,
    };
    let b = ScanBuffers {
        u: &random(gpu, l * D_INNER, -1.0, 1.0)?,
        delta: &random(gpu, l * D_INNER, 1e-3, 0.1)?,
        a: &random(gpu, D_INNER * D_STATE, -16.0, -1.0)?,
        x_dbl: &random(gpu, l * shape.x_dbl_stride, -1.0, 1.0)?,
        d: &random(gpu, D_INNER, 0.5, 1.5)?,
        xz: &random(gpu, l * D_INNER, -2.0, 2.0)?,
        ssm_state: &Tensor::zeros(gpu, "ssm_state", D_INNER * D_STATE)?,
        y: &Tensor::zeros(gpu, "y", l * D_INNER)?,
    };
    let mut plan = PlanBuilder::new(gpu);
    match rung {
        Scan::Sequential => kernels::scan_sequential(&mut plan, &b, shape)?,
        Scan::Blelloch => {
            kernels::scan_blelloch(&mut plan, &BlellochWorkspace::new(gpu, l, D_INNER, D_STATE)?, &b, shape)?;
        }
        Scan::Fused => kernels::scan_fused(&mut plan, &FusedWorkspace::new(gpu, l, D_INNER, D_STATE)?, &b, shape)?,
    }
    plan.finish()
}

/// y (l, n) = x (l, k) w^T; a matvec for one token.
fn linear_plan(gpu: &Gpu, [l, n, k]: [usize; 3], format: WeightFormat) -> Result<Plan, GpuError> {
    let w = WeightMatrix::new(gpu, "w", (n, k), format, &Random(2).vec(n * k, -0.1, 0.1))?;
    let (x, y) = (random(gpu, l * k, -1.0, 1.0)?, Tensor::zeros(gpu, "y", l * n)?);
    let shape = Linear { l, x_stride: k, y_stride: n, softplus: false };
    let mut plan = PlanBuilder::new(gpu);
    match l {
        1 => kernels::matvec(&mut plan, &x, &w, None, &y, shape)?,
        _ => kernels::matmul(&mut plan, &x, &w, None, &y, shape)?,
    }
    plan.finish()
}

fn kernel_benches(c: &mut Criterion) {
    let gpu = block_on(Gpu::new(&GpuOptions::default())).expect("an adapter (Mesa's lavapipe is one)");
    let run = |plan: &Plan| block_on(plan.run(&gpu)).expect("the kernel runs");

    let mut group = c.benchmark_group("scan");
    group.sample_size(10);
    for l in LENGTHS {
        group.throughput(Throughput::Bytes(4 * (4 * l * D_INNER + 2 * l * D_STATE) as u64));
        for rung in Scan::ALL {
            let plan = scan_plan(&gpu, l, rung).expect("a plan");
            group.bench_function(BenchmarkId::new(rung.to_string(), l), |b| b.iter(|| run(&plan)));
        }
    }
    group.finish();

    for (name, shape) in [("matmul", [128, 512, 256]), ("matvec", [1, 1024, 512])] {
        let [l, n, k] = shape;
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        group.throughput(Throughput::Elements(2 * (l * n * k) as u64));
        for (format_name, format) in FORMATS {
            let plan = linear_plan(&gpu, shape, format).expect("a plan");
            group.bench_function(BenchmarkId::new(format_name, format!("{l}x{n}x{k}")), |b| b.iter(|| run(&plan)));
        }
        group.finish();
    }
}

criterion_group!(benches, kernel_benches);
criterion_main!(benches);
