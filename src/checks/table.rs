//! The table of the kernels: which check a kernel has, and what stands in for it. Doctor runs it, the tests spoil a kernel after the
//! other by it, and `every_kernel_has_a_check` finds what is not in it. A kernel's specs are its module's (`kernels::all_specs`), its
//! twin is of its name in [`reference`](crate::reference).

#[cfg(not(target_arch = "wasm32"))]
use super::attention;
#[cfg(not(target_arch = "wasm32"))]
use super::backward;
use super::batch;
#[cfg(not(target_arch = "wasm32"))]
use super::experts::{self, ExpertsCase};
use super::explain::{self, ExplainCase};
use super::linear::{self, LinearCase};
#[cfg(not(target_arch = "wasm32"))]
use super::optimiser;
use super::pointwise;
use super::sampling::{self, Logits};
use super::scan::{self, ScanCase};
#[cfg(not(target_arch = "wasm32"))]
use super::ssd::{self, SsdCase};
#[cfg(not(target_arch = "wasm32"))]
use super::ssd_step;
use super::step;
use super::{CheckError, Random};
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::{Gpu, Variant};
use crate::kernels::{Activation, RmsNorm, StepShape};
#[cfg(not(target_arch = "wasm32"))]
use crate::kernels::{GatedNorm, Gating, Router, Ssd};
#[cfg(not(target_arch = "wasm32"))]
use crate::settings::SamplingParams;
use crate::settings::Scan;
use std::future::Future;
use std::pin::Pin;

/// A check under way.
type Task<'a> = Pin<Box<dyn Future<Output = Result<(), CheckError>> + 'a>>;

/// What it does.
type Run = dyn for<'a> Fn(&'a Gpu, &'a mut Random) -> Task<'a>;

/// A kernel, or the few that always run together, and what is known of them.
pub struct Check {
    /// Their files in shaders/, without the ending.
    pub kernels: &'static [&'static str],
    /// In which format of weights, of those that know several.
    pub format: Option<WeightFormat>,
    /// What is switched off if this fails; `None`: nothing stands in.
    pub variant: Option<Variant>,
    /// What is checked, where `kernels` and `format` do not say it.
    what: &'static str,
    /// Whether the device could use them at all.
    needs: fn(&Gpu) -> bool,
    run: Box<Run>,
}

/// A row of the table.
fn check(
    kernels: &'static [&'static str],
    run: impl for<'a> Fn(&'a Gpu, &'a mut Random) -> Task<'a> + 'static,
) -> Check {
    Check { kernels, format: None, variant: None, what: "", needs: |_| true, run: Box::new(run) }
}

impl Check {
    fn of(self, format: WeightFormat) -> Self {
        Self { format: Some(format), ..self }
    }

    fn or(self, variant: Variant) -> Self {
        Self { variant: Some(variant), ..self }
    }

    fn about(self, what: &'static str) -> Self {
        Self { what, ..self }
    }

    fn where_there_is(self, needs: fn(&Gpu) -> bool) -> Self {
        Self { needs, ..self }
    }

    pub fn name(&self) -> String {
        let named = |kernel: &&str| match (self.format, self.what) {
            (Some(format), "") => format!("{kernel} {}", format.tag()),
            (Some(format), what) if *kernel == "matvec" => format!("{kernel} {} {what}", format.tag()),
            (Some(format), _) => format!("{kernel} {}", format.tag()),
            _ => (*kernel).to_owned(),
        };
        match (self.format, self.what) {
            (None, what) if !what.is_empty() => what.to_owned(),
            _ => self.kernels.iter().map(named).collect::<Vec<_>>().join(", "),
        }
    }

    pub fn applies(&self, gpu: &Gpu) -> bool {
        (self.needs)(gpu)
    }

    pub async fn run(&self, gpu: &Gpu) -> Result<(), CheckError> {
        (self.run)(gpu, &mut Random(0x6d_616d_6261)).await
    }
}

/// What a check does, as [`Check::run`] keeps it.
macro_rules! run {
    (|$gpu:ident, $random:ident| $body:expr) => {
        move |$gpu, $random| Box::pin(async move { $body })
    };
}

const PLAIN: (NumberFormat, NumberFormat) = (NumberFormat::F32, NumberFormat::F32);

/// (softplus, bias): softplus is dt_proj's, which is never quantised.
fn epilogues(format: WeightFormat) -> &'static [(bool, bool)] {
    match format.quant() {
        None => &[(false, false), (false, true), (true, true)],
        Some(_) => &[(false, false), (false, true)],
    }
}

async fn linear_layers(gpu: &Gpu, matvec: bool, format: WeightFormat, random: &mut Random) -> Result<(), CheckError> {
    // Of matmul a size for each of its tiles, the first with every epilogue.
    let sizes = if matvec { &[(1, 773)][..] } else { &[(65, 130), (5, 130), (20, 90), (50, 40)] };
    for (i, &(l, k)) in sizes.iter().enumerate() {
        for &(softplus, bias) in &epilogues(format)[usize::from(i > 0)..] {
            let case = LinearCase { l, k, n: 67, format, bias, softplus, numbers: PLAIN };
            linear::linear(gpu, matvec, case, random).await?;
        }
    }
    Ok(())
}

async fn scans(gpu: &Gpu, rung: Scan, random: &mut Random) -> Result<(), CheckError> {
    for (d_inner, d_state) in [(65, 16), (33, 5)] {
        let case = ScanCase::random((300, d_inner, d_state), (1e-4, 5.0), random);
        scan::scan(gpu, rung, &case, &case.expected()).await?;
    }
    Ok(())
}

async fn state_update(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    for (d_inner, d_state) in [(65, 16), (33, 5)] {
        let case = ScanCase::random((5, d_inner, d_state), (1e-4, 5.0), random);
        batch::selective_state_update(gpu, &case, random).await?;
    }
    Ok(())
}

#[cfg(not(target_arch = "wasm32"))]
async fn sample_batch(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    let params = sampling::settings();
    for kind in [Logits::Even, Logits::Ties] {
        let logits: Vec<_> = params.iter().map(|_| kind.random(333, random)).collect();
        batch::sample(gpu, &logits, &params, 2).await?;
    }
    let greedy: Vec<_> = params.into_iter().filter(SamplingParams::is_greedy).collect();
    let logits: Vec<_> = greedy.iter().map(|_| Logits::Ties.random(333, random)).collect();
    batch::sample(gpu, &logits, &greedy, 2).await
}

#[cfg(not(target_arch = "wasm32"))]
async fn ssds(gpu: &Gpu, rung: Option<Ssd>, random: &mut Random) -> Result<(), CheckError> {
    let length = if rung.is_none() { 1 } else { 600 };
    for sizes in [(4, 36, 40, 2), (3, 5, 7, 1)] {
        let case = SsdCase::random(length, sizes, (1e-4, 5.0), random);
        ssd::ssd(gpu, rung, &case, &case.expected(false)).await?;
    }
    if rung.is_none() {
        ssd_step::ssd_step(gpu, (4, 36, 40, 2), (0, 68), (WeightFormat::F32, true), random).await?;
        batch::ssd_state_update(gpu, 5, (4, 36, 40, 2), random).await?;
    }
    Ok(())
}

/// In f32 and in f16: chunks, tiles and groups that are whole and that are not.
#[cfg(not(target_arch = "wasm32"))]
async fn ssd_matrices(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
    for (length, sizes) in [(600, (4, 36, 40, 2)), (256, (1, 64, 128, 1))] {
        let case = SsdCase::random(length, sizes, (1e-4, 5.0), random);
        for case in [case.clone().halved(), case] {
            ssd::ssd(gpu, Some(Ssd::Matrices), &case, &case.expected(false)).await?;
        }
    }
    Ok(())
}

async fn fused_step(gpu: &Gpu, format: WeightFormat, random: &mut Random) -> Result<(), CheckError> {
    step::matvec_norm(gpu, (67, 772), format, (true, false), random).await?;
    step::matvec_norm(gpu, (67, 772), format, (true, true), random).await?;
    step::matvec_add(gpu, (67, 772), format, (true, false), random).await?;
    step::matvec_add(gpu, (67, 772), format, (true, true), random).await?;
    step::matvec_norm_activate(gpu, (67, 772), format, (Activation::Silu, true, true), random).await?;
    step::matvec_norm_activate(gpu, (67, 772), format, (Activation::Relu2, false, false), random).await?;
    for mixer_rms_eps in [None, Some(1e-6)] {
        let shape = StepShape { d_inner: 68, d_state: 16, d_conv: 4, dt_rank: 9, mixer_rms_eps };
        step::mixer(gpu, shape, format, (true, true), random).await?;
    }
    Ok(())
}

async fn f16_activations(gpu: &Gpu, random: &mut Random) -> Result<(), CheckError> {
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
    scan::scan(gpu, Scan::Fused, &case, &case.expected()).await
}

/// Every check, in the order in which they are run.
pub fn table() -> Vec<Check> {
    let formats = WeightFormat::ALL;
    let held = |check: Check, format| Check { variant: Variant::of(format), ..check.of(format) };
    let mut all = Vec::new();
    all.extend(formats.map(|f| {
        held(check(&["embedding"], run!(|gpu, random| pointwise::embedding(gpu, f, (101, 27, 64), random).await)), f)
    }));
    all.push(check(
        &["rms_norm"],
        run!(|gpu, random| {
            for add in [false, true] {
                let shape = RmsNorm { rows: 3, row0: 1, d: 257, eps: 1e-5 };
                pointwise::rms_norm(gpu, shape, add, NumberFormat::F32, random).await?;
            }
            Ok(())
        }),
    ));
    all.push(check(&["x_dbl_norm"], run!(|gpu, random| pointwise::x_dbl_norm(gpu, (5, 33, 16), random).await)));
    all.extend(
        formats.map(|f| held(check(&["matmul"], run!(|gpu, random| linear_layers(gpu, false, f, random).await)), f)),
    );
    all.extend(formats.map(|f| {
        let matvec = check(&["matvec"], run!(|gpu, random| linear_layers(gpu, true, f, random).await));
        matvec.of(f).or(f.quant().and(Variant::of(f)).unwrap_or(Variant::Matvec))
    }));
    let plain = (true, NumberFormat::F32);
    all.push(check(
        &["conv1d", "conv1d_state"],
        run!(|gpu, random| pointwise::conv1d(gpu, (37, 65, 4), 0, plain, random).await),
    ));
    all.push(
        check(&["conv1d_update"], run!(|gpu, random| batch::conv1d_update(gpu, 5, (65, 4), (2, true), random).await))
            .or(Variant::Step),
    );
    all.push(check(&["scan_sequential"], run!(|gpu, random| scans(gpu, Scan::Sequential, random).await)));
    all.push(
        check(
            &["discretise", "scan_blelloch", "scan_blelloch_add", "scan_output"],
            run!(|gpu, random| scans(gpu, Scan::Blelloch, random).await),
        )
        .or(Variant::BlellochScan),
    );
    all.push(
        check(
            &["scan_fused_reduce", "scan_fused_carry", "scan_fused_apply"],
            run!(|gpu, random| scans(gpu, Scan::Fused, random).await),
        )
        .or(Variant::FusedScan),
    );
    all.push(check(&["selective_state_update"], run!(|gpu, random| state_update(gpu, random).await)).or(Variant::Step));
    #[cfg(not(target_arch = "wasm32"))]
    all.extend(mamba2());
    #[cfg(not(target_arch = "wasm32"))]
    all.extend(attention());
    #[cfg(not(target_arch = "wasm32"))]
    all.extend(mixtures());
    all.extend(formats.map(|f| {
        // step_mixer reads dt_proj, which is never quantised.
        let kernels: &[&str] = if f.quant().is_some() { &["matvec"] } else { &["matvec", "step_mixer"] };
        let step = check(kernels, run!(|gpu, random| fused_step(gpu, f, random).await)).of(f).about("NORM, CONV, ADD");
        step.or(f.quant().and(Variant::of(f)).unwrap_or(Variant::FusedStep))
    }));
    all.push(check(&["argmax", "token_nll"], run!(|gpu, random| sampling::rows(gpu, 3, 1000, random).await)));
    all.push(check(
        &["sample_scale", "sample_greedy", "sample_select", "sample_mass", "sample_draw"],
        run!(|gpu, random| {
            for params in sampling::settings() {
                for kind in [Logits::Even, Logits::Ties] {
                    sampling::sample(gpu, &kind.random(333, random), &params, 2).await?;
                }
            }
            Ok(())
        }),
    ));
    // No page has batches.
    #[cfg(not(target_arch = "wasm32"))]
    all.push(
        check(&[], run!(|gpu, random| sample_batch(gpu, random).await))
            .about("sample_scale, sample_greedy, sample_select, sample_mass, sample_draw BATCH")
            .or(Variant::Batch),
    );
    all.push(
        check(
            &["channel_stats", "token_stats", "hidden_attention"],
            run!(|gpu, random| {
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
            }),
        )
        .or(Variant::Explain),
    );
    all.push(
        check(&[], run!(|gpu, random| f16_activations(gpu, random).await))
            .about("f16 activations: rms_norm, conv1d, matmul, scan_fused")
            .or(Variant::F16Activations)
            .where_there_is(Gpu::shader_f16),
    );
    all.push(
        check(&["matmul_coop"], run!(|gpu, random| linear::cooperative(gpu, random).await))
            .or(Variant::CooperativeMatrix)
            .where_there_is(Gpu::cooperative),
    );
    all.push(
        check(&["matmul_split"], run!(|gpu, random| linear::split(gpu, random).await))
            .or(Variant::SplitMatrix)
            .where_there_is(Gpu::cooperative),
    );
    all.push(
        check(&["matmul_few", "matmul_sum"], run!(|gpu, random| linear::few(gpu, random).await))
            .or(Variant::FewTokens)
            .where_there_is(Gpu::cooperative),
    );
    #[cfg(not(target_arch = "wasm32"))]
    all.extend(training());
    all
}

// A page trains unchecked, and runs Mamba-2 and attention so: the checks of what only these need, with their twins in
// f64, would be a tenth of what everybody downloads. `mamba-wgpu doctor` has them.

#[cfg(not(target_arch = "wasm32"))]
fn mamba2() -> [Check; 5] {
    [
        check(&["ssd_delta", "ssd_sequential"], run!(|gpu, random| ssds(gpu, Some(Ssd::Sequential), random).await))
            .or(Variant::Mamba2),
        check(
            &["ssd_chunk_cumsum", "ssd_bmm_chunk", "ssd_chunk_state", "ssd_state_passing", "ssd_chunk_scan"],
            run!(|gpu, random| ssds(gpu, Some(Ssd::Chunked), random).await),
        )
        .or(Variant::ChunkedSsd),
        check(
            &["ssd_matrix_bmm", "ssd_matrix_state", "ssd_matrix_scan"],
            run!(|gpu, random| ssd_matrices(gpu, random).await),
        )
        .or(Variant::MatrixSsd)
        .where_there_is(Gpu::cooperative),
        check(&["ssd_state_update"], run!(|gpu, random| ssds(gpu, None, random).await))
            .about("matvec f32 NORM, CONV, ssd_state_update, with ROWS")
            .or(Variant::SsdStep),
        check(
            &["gated_rms_norm"],
            run!(|gpu, random| {
                for kind in [GatedNorm::GateFirst, GatedNorm::NormFirst, GatedNorm::GateOnly] {
                    ssd::gated_norm(gpu, kind, (3, 514, 2), (true, false), PLAIN, random).await?;
                }
                Ok(())
            }),
        )
        .or(Variant::Mamba2),
    ]
}

/// Around the borders of tiles and pages, with a window and without.
#[cfg(not(target_arch = "wasm32"))]
fn attention() -> [Check; 5] {
    [
        check(&["scale_add"], run!(|gpu, random| attention::scale_add(gpu, (5, 53), random).await))
            .or(Variant::Attention),
        check(
            &["rope_store"],
            run!(|gpu, random| {
                let (none, both) = ((false, false), (true, true));
                attention::rope_store(gpu, (4, 2, 20, 0), (12, none), (&[250], 10), random).await?;
                attention::rope_store(gpu, (4, 2, 20, 0), (12, both), (&[250], 10), random).await?;
                attention::rope_store(gpu, (2, 1, 8, 0), (8, none), (&[700, 3, 256], 1), random).await
            }),
        )
        .or(Variant::Attention),
        check(
            &["attention"],
            run!(|gpu, random| {
                attention::attention(gpu, (4, 2, 80, 0), (230, 70), random).await?;
                attention::attention(gpu, (2, 1, 12, 100), (190, 200), random).await
            }),
        )
        .or(Variant::Attention),
        check(
            &["attention_step", "attention_join"],
            run!(|gpu, random| {
                attention::attention_step(gpu, (6, 2, 80, 0), &[0, 513, 255, 256], random).await?;
                attention::attention_step(gpu, (2, 1, 12, 300), &[1300], random).await
            }),
        )
        .or(Variant::Attention),
        check(
            &["activate"],
            run!(|gpu, random| {
                for f in Activation::ALL {
                    attention::activate(gpu, f, (3, 67), f != Activation::Relu2, PLAIN, random).await?;
                }
                Ok(())
            }),
        )
        .or(Variant::Attention),
    ]
}

/// Experts' products of every tile and kind of rows.
#[cfg(not(target_arch = "wasm32"))]
async fn products(gpu: &Gpu, format: WeightFormat, random: &mut Random) -> Result<(), CheckError> {
    let case = |l, k| ExpertsCase { l, experts: 5, chosen: 3, k, rows: 70, format, x: NumberFormat::F32 };
    for (many, few, k) in [(70, 1, 36), (9, 3, 33)] {
        experts::matmul(gpu, case(many, k), random).await?;
        experts::matvec(gpu, case(few, k), random).await?;
    }
    Ok(())
}

/// Routers of every kind, and what their experts do.
#[cfg(not(target_arch = "wasm32"))]
fn mixtures() -> Vec<Check> {
    let mut all = vec![
        check(
            &["route"],
            run!(|gpu, random| {
                let sigmoid = |normed, kept| Gating::Sigmoid { groups: 7, kept, normed };
                for gating in [Gating::Chosen, Gating::All, sigmoid(true, 3), sigmoid(false, 7)] {
                    let router = Router { experts: 140, chosen: 6, gating, scale: 1.7 };
                    experts::route(gpu, router, 5, random).await?;
                }
                Ok(())
            }),
        )
        .or(Variant::Experts),
        check(&["experts_sum"], run!(|gpu, random| experts::sum(gpu, (5, 3, 67), random).await)).or(Variant::Experts),
        check(&["route_order"], run!(|gpu, random| products(gpu, WeightFormat::F32, random).await))
            .about("route_order, experts' matmul and matvec")
            .or(Variant::Experts),
    ];
    for format in WeightFormat::ALL.into_iter().filter(|format| *format != WeightFormat::F32) {
        let check = check(&["matmul", "matvec"], run!(|gpu, random| products(gpu, format, random).await));
        all.push(Check { variant: Variant::of(format), ..check.of(format).about("EXPERTS") });
    }
    all
}

#[cfg(not(target_arch = "wasm32"))]
fn training() -> [Check; 4] {
    [
        check(
            &["train/gradient_norm", "train/gradient_clip", "train/adamw"],
            run!(|gpu, random| {
                optimiser::adamw(gpu, 17_000, 400, 1.0, random).await?;
                optimiser::frozen(gpu, 1000, random).await
            }),
        )
        .or(Variant::Training),
        check(&["backward/matmul_grad_split"], run!(|gpu, random| backward::split(gpu, random).await))
            .about("training: matmul_grad_split")
            .or(Variant::SplitGradients)
            .where_there_is(Gpu::cooperative),
        check(
            &[
                "backward/matmul_grad",
                "backward/largest",
                "backward/rms_norm_backward",
                "backward/cross_entropy",
                "backward/embedding_backward",
                "backward/conv1d_backward",
                "backward/column_sums",
                "backward/sum_partials",
            ],
            run!(|gpu, random| {
                backward::largest(gpu, (70, 12, 20), random).await?;
                backward::linear(gpu, (520, 67, 70), random).await?;
                backward::norm(gpu, (40, 257), true, random).await?;
                backward::loss(gpu, (4, 300), random).await?;
                backward::embedding(gpu, (50, 27, 200), 3, random).await?;
                backward::conv(gpu, 2, (37, 65, 4), true, random).await
            }),
        )
        .about("training: matmul_grad, largest, rms_norm, cross_entropy, embedding, conv1d")
        .or(Variant::Training),
        check(
            &["backward/scan_backward_reduce", "backward/scan_backward_apply", "backward/pointwise"],
            run!(|gpu, random| {
                for lti in [false, true] {
                    backward::scan(gpu, 2, (37, 65, 16), lti, random).await?;
                }
                backward::softplus(gpu, random).await
            }),
        )
        .about("training: scan_backward")
        .or(Variant::Training),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::all_specs;
    use std::collections::BTreeSet;

    /// What no model runs: the benchmark's own.
    const OF_BENCH: [&str; 3] = ["bench_copy", "bench_fma", "fill"];

    #[test]
    fn every_kernel_has_a_check() {
        let there: BTreeSet<&str> = all_specs().iter().map(|spec| spec.name).collect();
        let checked: BTreeSet<&str> = table().iter().flat_map(|check| check.kernels).copied().chain(OF_BENCH).collect();
        assert_eq!(checked, there);
    }
}
