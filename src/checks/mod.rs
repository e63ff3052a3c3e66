//! Every kernel variant that an adapter would use, on that adapter, against its CPU twin: what `mamba-wgpu doctor`
//! runs, and what the tests run at more sizes. GPUs and drivers do compute wrongly now and then; better to know.

#[cfg(not(target_arch = "wasm32"))]
pub mod backward;
pub mod batch;
pub mod data;
pub mod explain;
pub mod linear;
#[cfg(not(target_arch = "wasm32"))]
pub mod optimiser;
pub mod pointwise;
pub mod sampling;
pub mod scan;
#[cfg(not(target_arch = "wasm32"))]
pub mod ssd;
#[cfg(not(target_arch = "wasm32"))]
pub mod ssd_step;
pub mod step;

use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::{Gpu, GpuError, Variant};
#[cfg(not(target_arch = "wasm32"))]
use crate::kernels::GatedNorm;
use crate::kernels::{RmsNorm, StepShape};
use crate::settings::SamplingParams;
pub use data::CheckError;
use data::Random;
use explain::ExplainCase;
use linear::LinearCase;
use sampling::Logits;
use scan::{Rung, ScanCase};
use serde::Serialize;
#[cfg(not(target_arch = "wasm32"))]
use ssd::{SsdCase, SsdRung};

/// One check's outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The kernels checked.
    pub name: String,
    /// Why it did not pass.
    pub failure: Option<String>,
    /// What was switched off for it; `None` for a kernel that nothing can stand in for.
    pub switched_off: Option<Variant>,
}

/// What the self-test found on a device.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Nothing failed.
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|o| o.failure.is_none())
    }
    /// Whatever failed has something to stand in for it.
    pub fn usable(&self) -> bool {
        self.outcomes.iter().all(|o| o.failure.is_none() || o.switched_off.is_some())
    }
}

/// Runs all checks, tells `progress` checks done and in all, and switches off on this device what fails and can be.
///
/// # Errors
/// Only a lost device: everything else is an outcome.
pub async fn run(gpu: &Gpu, progress: &mut dyn FnMut(usize, usize)) -> Result<Report, GpuError> {
    use WeightFormat::{F16, F32, Q4, Q8};
    let all = [
        Check::Embedding(F32),
        Check::Embedding(F16),
        Check::Embedding(Q8),
        Check::Embedding(Q4),
        Check::RmsNorm,
        Check::XDblNorm,
        Check::Matmul(F32),
        Check::Matmul(F16),
        Check::Matmul(Q8),
        Check::Matmul(Q4),
        Check::Matvec(F32),
        Check::Matvec(F16),
        Check::Matvec(Q8),
        Check::Matvec(Q4),
        Check::Conv1d,
        Check::Conv1dUpdate,
        Check::Scan(Rung::Sequential),
        Check::Scan(Rung::Blelloch),
        Check::Scan(Rung::Fused),
        Check::StateUpdate,
        #[cfg(not(target_arch = "wasm32"))]
        Check::Ssd(SsdRung::Sequential),
        #[cfg(not(target_arch = "wasm32"))]
        Check::Ssd(SsdRung::Chunked),
        #[cfg(not(target_arch = "wasm32"))]
        Check::Ssd(SsdRung::Update),
        #[cfg(not(target_arch = "wasm32"))]
        Check::GatedNorm,
        Check::FusedStep(F32),
        Check::FusedStep(F16),
        Check::FusedStep(Q8),
        Check::FusedStep(Q4),
        Check::Rows,
        Check::Sample,
        Check::SampleBatch,
        Check::Explain,
        Check::F16Activations,
        Check::CooperativeMatrix,
        Check::SplitMatrix,
        Check::AdamW,
        Check::SplitGradients,
        Check::Gradients,
        Check::ScanGradients,
    ];
    let all: Vec<_> = all.into_iter().filter(|check| check.applies(gpu)).collect();
    let total = all.len();
    let mut report = Report { outcomes: Vec::new() };
    for (i, check) in all.into_iter().enumerate() {
        let result = check.run(gpu).await;
        if let Err(CheckError::Gpu(lost @ GpuError::Lost { .. })) = result {
            return Err(lost);
        }
        let failure = result.err().map(|e| e.to_string());
        let switched_off = failure.as_ref().and(check.variant());
        switched_off.iter().for_each(|v| gpu.switch_off(*v));
        report.outcomes.push(Outcome { name: check.name(), failure, switched_off });
        progress(i + 1, total);
    }
    Ok(report)
}

/// A page trains unchecked, and runs Mamba-2 so: the checks of what only these need, with their twins in f64, would be a tenth of what
/// everybody downloads. `mamba-wgpu doctor` has them.
const CHECKS_TRAINING: bool = !cfg!(target_arch = "wasm32");

/// A kernel, or the few that always run together.
#[derive(Debug, Clone, Copy)]
enum Check {
    Embedding(WeightFormat),
    RmsNorm,
    XDblNorm,
    Matmul(WeightFormat),
    Matvec(WeightFormat),
    Conv1d,
    Conv1dUpdate,
    Scan(Rung),
    StateUpdate,
    #[cfg(not(target_arch = "wasm32"))]
    Ssd(SsdRung),
    #[cfg(not(target_arch = "wasm32"))]
    GatedNorm,
    FusedStep(WeightFormat),
    Rows,
    Sample,
    SampleBatch,
    Explain,
    F16Activations,
    CooperativeMatrix,
    SplitMatrix,
    AdamW,
    SplitGradients,
    Gradients,
    ScanGradients,
}

/// (softplus, bias): softplus is dt_proj's, which is never quantised.
fn epilogues(format: WeightFormat) -> &'static [(bool, bool)] {
    match format.quant() {
        None => &[(false, false), (false, true), (true, true)],
        Some(_) => &[(false, false), (false, true)],
    }
}

impl Check {
    /// Whether the device could use the kernel at all.
    fn applies(self, gpu: &Gpu) -> bool {
        match self {
            Check::F16Activations => gpu.shader_f16(),
            Check::CooperativeMatrix | Check::SplitMatrix => gpu.cooperative(),
            Check::SplitGradients => CHECKS_TRAINING && gpu.cooperative(),
            Check::AdamW | Check::Gradients | Check::ScanGradients => CHECKS_TRAINING,
            _ => true,
        }
    }

    fn name(self) -> String {
        match self {
            Check::Embedding(f) => format!("embedding {}", f.tag()),
            Check::RmsNorm => "rms_norm".into(),
            Check::XDblNorm => "x_dbl_norm".into(),
            Check::Matmul(f) => format!("matmul {}", f.tag()),
            Check::Matvec(f) => format!("matvec {}", f.tag()),
            Check::Conv1d => "conv1d, conv1d_state".into(),
            Check::Conv1dUpdate => "conv1d_update".into(),
            Check::Scan(Rung::Sequential) => "scan_sequential".into(),
            Check::Scan(Rung::Blelloch) => "discretise, scan_blelloch, scan_blelloch_add, scan_output".into(),
            Check::Scan(Rung::Fused) => "scan_fused_reduce, scan_fused_carry, scan_fused_apply".into(),
            Check::StateUpdate => "selective_state_update".into(),
            #[cfg(not(target_arch = "wasm32"))]
            Check::Ssd(SsdRung::Sequential) => "ssd_delta, ssd_sequential".into(),
            #[cfg(not(target_arch = "wasm32"))]
            Check::Ssd(SsdRung::Chunked) => {
                "ssd_chunk_cumsum, ssd_bmm_chunk, ssd_chunk_state, ssd_state_passing, ssd_chunk_scan".into()
            }
            #[cfg(not(target_arch = "wasm32"))]
            Check::Ssd(SsdRung::Update) => "matvec f32 NORM, CONV, ssd_state_update, with ROWS".into(),
            #[cfg(not(target_arch = "wasm32"))]
            Check::GatedNorm => "gated_rms_norm".into(),
            Check::FusedStep(f) => match f.quant() {
                // step_mixer reads dt_proj, which is never quantised.
                Some(_) => format!("matvec {} NORM, CONV, ADD", f.tag()),
                None => format!("matvec {0} NORM, CONV, ADD, step_mixer {0}", f.tag()),
            },
            Check::Rows => "argmax, token_nll".into(),
            Check::Sample => "sample_scale, _greedy, _select, _mass, _draw".into(),
            Check::SampleBatch => "sample_scale, _greedy, _select, _mass, _draw BATCH".into(),
            Check::Explain => "channel_stats, token_stats, hidden_attention".into(),
            Check::F16Activations => "f16 activations: rms_norm, conv1d, matmul, scan_fused".into(),
            Check::CooperativeMatrix => "matmul_coop".into(),
            Check::SplitMatrix => "matmul_split".into(),
            Check::AdamW => "train/gradient_norm, train/gradient_clip, train/adamw".into(),
            Check::SplitGradients => "training: matmul_grad_split".into(),
            Check::Gradients => "training: matmul_grad, largest, rms_norm, cross_entropy, embedding, conv1d".into(),
            Check::ScanGradients => "training: scan_backward".into(),
        }
    }

    /// What can be switched off if this fails.
    fn variant(self) -> Option<Variant> {
        match self {
            Check::Embedding(f) | Check::Matmul(f) => Variant::of(f),
            Check::Matvec(f) | Check::FusedStep(f) if f.quant().is_some() => Variant::of(f),
            Check::Matvec(_) => Some(Variant::Matvec),
            Check::FusedStep(_) => Some(Variant::FusedStep),
            Check::Conv1dUpdate | Check::StateUpdate => Some(Variant::Step),
            Check::Scan(Rung::Blelloch) => Some(Variant::BlellochScan),
            Check::Scan(Rung::Fused) => Some(Variant::FusedScan),
            #[cfg(not(target_arch = "wasm32"))]
            Check::Ssd(SsdRung::Chunked) => Some(Variant::ChunkedSsd),
            #[cfg(not(target_arch = "wasm32"))]
            Check::Ssd(SsdRung::Update) => Some(Variant::SsdStep),
            Check::SampleBatch => Some(Variant::Batch),
            Check::Explain => Some(Variant::Explain),
            Check::F16Activations => Some(Variant::F16Activations),
            Check::CooperativeMatrix => Some(Variant::CooperativeMatrix),
            Check::SplitMatrix => Some(Variant::SplitMatrix),
            Check::SplitGradients => Some(Variant::SplitGradients),
            Check::AdamW | Check::Gradients | Check::ScanGradients => Some(Variant::Training),
            _ => None,
        }
    }

    async fn run(self, gpu: &Gpu) -> Result<(), CheckError> {
        const PLAIN: (NumberFormat, NumberFormat) = (NumberFormat::F32, NumberFormat::F32);
        let random = &mut Random(0x6d_616d_6261);
        match self {
            Check::Embedding(format) => pointwise::embedding(gpu, format, (101, 27, 64), random).await,
            Check::RmsNorm => {
                for add in [false, true] {
                    let shape = RmsNorm { rows: 3, row0: 1, d: 257, eps: 1e-5 };
                    pointwise::rms_norm(gpu, shape, add, NumberFormat::F32, random).await?;
                }
                Ok(())
            }
            Check::XDblNorm => pointwise::x_dbl_norm(gpu, (5, 33, 16), random).await,
            Check::Matmul(format) | Check::Matvec(format) => {
                let matvec = matches!(self, Check::Matvec(_));
                // Of matmul a size for each of its tiles.
                let sizes = if matvec { &[(1, 773)][..] } else { &[(65, 130), (5, 130), (20, 90), (50, 40)] };
                for (i, &(l, k)) in sizes.iter().enumerate() {
                    for &(softplus, bias) in &epilogues(format)[if i == 0 { 0 } else { 1 }..] {
                        let case = LinearCase { l, k, n: 67, format, bias, softplus, numbers: PLAIN };
                        linear::linear(gpu, matvec, case, random).await?;
                    }
                }
                Ok(())
            }
            Check::Conv1d => pointwise::conv1d(gpu, (37, 65, 4), 0, (true, NumberFormat::F32), random).await,
            Check::Conv1dUpdate => batch::conv1d_update(gpu, 5, (65, 4), (2, true), random).await,
            Check::StateUpdate => {
                for (d_inner, d_state) in [(65, 16), (33, 5)] {
                    let case = ScanCase::random((5, d_inner, d_state), (1e-4, 5.0), random);
                    batch::selective_state_update(gpu, &case, random).await?;
                }
                Ok(())
            }
            Check::Scan(rung) => {
                for (d_inner, d_state) in [(65, 16), (33, 5)] {
                    let case = ScanCase::random((300, d_inner, d_state), (1e-4, 5.0), random);
                    scan::scan(gpu, rung, &case, &case.expected()).await?;
                }
                Ok(())
            }
            #[cfg(not(target_arch = "wasm32"))]
            Check::Ssd(rung) => {
                let length = if rung == SsdRung::Update { 1 } else { 600 };
                for sizes in [(4, 36, 40, 2), (3, 5, 7, 1)] {
                    let case = SsdCase::random(length, sizes, (1e-4, 5.0), random);
                    ssd::ssd(gpu, rung, &case, &case.expected(false)).await?;
                }
                if rung == SsdRung::Update {
                    ssd_step::ssd_step(gpu, (4, 36, 40, 2), (0, 68), (WeightFormat::F32, true), random).await?;
                    batch::ssd_state_update(gpu, 5, (4, 36, 40, 2), random).await?;
                }
                Ok(())
            }
            #[cfg(not(target_arch = "wasm32"))]
            Check::GatedNorm => {
                for kind in [GatedNorm::GateFirst, GatedNorm::NormFirst, GatedNorm::GateOnly] {
                    ssd::gated_norm(gpu, kind, (3, 514, 2), (true, false), PLAIN, random).await?;
                }
                Ok(())
            }
            Check::FusedStep(format) => {
                step::matvec_norm(gpu, (67, 772), format, true, random).await?;
                step::matvec_add(gpu, (67, 772), format, true, random).await?;
                for mixer_rms_eps in [None, Some(1e-6)] {
                    let shape = StepShape { d_inner: 68, d_state: 16, d_conv: 4, dt_rank: 9, mixer_rms_eps };
                    step::mixer(gpu, shape, format, (true, true), random).await?;
                }
                Ok(())
            }
            Check::F16Activations => {
                let f16 = NumberFormat::F16;
                let shape = RmsNorm { rows: 3, row0: 1, d: 257, eps: 1e-5 };
                pointwise::rms_norm(gpu, shape, true, f16, random).await?;
                pointwise::conv1d(gpu, (37, 65, 4), 0, (true, f16), random).await?;
                // k no multiple of four: never by cooperative matrices.
                for numbers in [(f16, f16), (f16, NumberFormat::F32), (NumberFormat::F32, f16)] {
                    let (format, bias, softplus) = (WeightFormat::F16, true, numbers.1 == f16);
                    let case = LinearCase { l: 65, k: 130, n: 67, format, bias, softplus, numbers };
                    linear::linear(gpu, false, case, random).await?;
                }
                let case = ScanCase::random((300, 65, 16), (1e-4, 5.0), random).halved();
                scan::scan(gpu, Rung::Fused, &case, &case.expected()).await
            }
            Check::CooperativeMatrix => linear::cooperative(gpu, random).await,
            Check::SplitMatrix => linear::split(gpu, random).await,
            Check::Explain => {
                for (sizes, channels) in [((37, 37, 16), 0..37), ((20, 5, 5), 3..4)] {
                    let case = ExplainCase::channels(sizes, channels, random);
                    explain::explain(gpu, &case, &case.expected()).await?;
                }
                #[cfg(not(target_arch = "wasm32"))]
                for (sizes, heads) in [((4, 36, 40, 2), 0..4), ((3, 5, 7, 1), 1..2)] {
                    let case = ExplainCase::heads(37, sizes, false, heads, random);
                    explain::explain(gpu, &case, &case.expected()).await?;
                }
                Ok(())
            }
            #[cfg(not(target_arch = "wasm32"))]
            Check::SplitGradients => backward::split(gpu, random).await,
            #[cfg(not(target_arch = "wasm32"))]
            Check::Gradients => {
                backward::largest(gpu, (70, 12, 20), random).await?;
                backward::linear(gpu, (520, 67, 70), random).await?;
                backward::norm(gpu, (40, 257), true, random).await?;
                backward::loss(gpu, (4, 300), random).await?;
                backward::embedding(gpu, (50, 27, 200), 3, random).await?;
                backward::conv(gpu, 2, (37, 65, 4), true, random).await
            }
            #[cfg(not(target_arch = "wasm32"))]
            Check::ScanGradients => {
                for lti in [false, true] {
                    backward::scan(gpu, 2, (37, 65, 16), lti, random).await?;
                }
                backward::softplus(gpu, random).await
            }
            #[cfg(not(target_arch = "wasm32"))]
            Check::AdamW => {
                optimiser::adamw(gpu, 17_000, 400, 1.0, random).await?;
                optimiser::frozen(gpu, 1000, random).await
            }
            #[cfg(target_arch = "wasm32")]
            Check::AdamW | Check::SplitGradients | Check::Gradients | Check::ScanGradients => Ok(()), // does not apply
            Check::Rows => sampling::rows(gpu, 3, 1000, random).await,
            Check::SampleBatch => {
                let params = sampling::settings();
                for kind in [Logits::Even, Logits::Ties] {
                    let logits: Vec<_> = params.iter().map(|_| kind.random(333, random)).collect();
                    batch::sample(gpu, &logits, &params, 2).await?;
                }
                let greedy: Vec<_> = params.into_iter().filter(SamplingParams::is_greedy).collect();
                let logits: Vec<_> = greedy.iter().map(|_| Logits::Ties.random(333, random)).collect();
                batch::sample(gpu, &logits, &greedy, 2).await
            }
            Check::Sample => {
                for params in sampling::settings() {
                    for kind in [Logits::Even, Logits::Ties] {
                        sampling::sample(gpu, &kind.random(333, random), &params, 2).await?;
                    }
                }
                Ok(())
            }
        }
    }
}
