//! The selective scan on tensors of your own, without any model: `cargo run --release --example scan`.

use mamba_wgpu::gpu::{Gpu, GpuOptions, PlanBuilder, Tensor, Timer};
use mamba_wgpu::kernels::{scan_fused, FusedWorkspace, ScanBuffers, ScanShape};

/// Some values between low and high.
fn values(n: usize, low: f32, high: f32) -> Vec<f32> {
    (0..n).map(|i| low + (high - low) * (i as f32 * 0.618_034).fract()).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(async {
        let gpu = Gpu::new(&GpuOptions::default()).await?;
        // x_dbl's rows are [dt | B | C], xz's [x | z], as a Mamba layer has them; offsets and strides can be any.
        let (l, d_inner, d_state, dt_rank) = (512, 256, 16, 8);
        let shape = ScanShape::of_layer(l, d_inner, d_state, dt_rank);
        let tensor = |label: &str, n: usize, low, high| Tensor::new(&gpu, label, &values(n, low, high));
        let b = ScanBuffers {
            u: &tensor("u", l * d_inner, -1.0, 1.0)?,
            delta: &tensor("delta", l * d_inner, 0.001, 0.1)?,
            a: &tensor("A", d_inner * d_state, -16.0, -1.0)?,
            x_dbl: &tensor("x_dbl", l * shape.x_dbl_stride, -1.0, 1.0)?,
            d: &tensor("D", d_inner, 0.5, 1.5)?,
            xz: &tensor("xz", l * shape.xz_stride, -2.0, 2.0)?,
            ssm_state: &Tensor::zeros(&gpu, "ssm_state", d_inner * d_state)?,
            y: &Tensor::zeros(&gpu, "y", l * d_inner)?,
        };
        let workspace = FusedWorkspace::new(&gpu, l, d_inner, d_state)?;
        let mut plan = PlanBuilder::new(&gpu);
        scan_fused(&mut plan, &workspace, &b, shape)?;
        let plan = plan.finish()?;
        // Each run goes on from the state that the one before left.
        for run in 0..3 {
            let timing = Timer::new(&gpu).run(&plan).await?;
            println!(
                "run {run}: {:.0} us on the device, {:.0} us in all",
                timing.gpu_ns.unwrap_or(f64::NAN) / 1e3,
                timing.wall_ns / 1e3
            );
        }
        let y: Vec<f32> = b.y.read(&gpu).await?;
        println!("y of the last token: {:?} ...", &y[(l - 1) * d_inner..][..4]);
        Ok(())
    })
}
