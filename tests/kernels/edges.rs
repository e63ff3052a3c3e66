//! Where devices and the CPU could part: the ends of what sampling is asked for, and decays that f32 cannot hold.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::batch::selective_state_update;
use mamba_wgpu::checks::data::{tensor, Random};
use mamba_wgpu::checks::sampling::{draws, sample, Logits};
use mamba_wgpu::checks::scan::{scan, ScanCase};
use mamba_wgpu::generate::SamplingParams;
use mamba_wgpu::gpu::PlanBuilder;
use mamba_wgpu::kernels::{self, SampleBuffers};
use mamba_wgpu::model::Scan;
use mamba_wgpu::reference::{self, decay_rate};
use pollster::block_on;

/// Settings that leave the most likely token alone, for logits without ties at the top.
fn greedy_settings() -> Vec<SamplingParams> {
    let warm = SamplingParams { temperature: 0.8, seed: u64::MAX, ..SamplingParams::default() };
    let top_p = [1e-4, 1e-9, 2.4e-10, 2.3e-10, 1e-12, 1e-30, f32::MIN_POSITIVE, 1e-45];
    let temperature = [1e-7, 1e-20, 1e-30, 9e-31, 1e-38, f32::MIN_POSITIVE, 1e-45, 0.0];
    let top_p = top_p.map(|top_p| SamplingParams { top_p, ..warm });
    let cold = temperature.map(|temperature| SamplingParams { temperature, ..warm });
    let filtered = cold.map(|cold| SamplingParams { top_k: 50, top_p: 0.95, min_p: 0.05, ..cold });
    let others = [SamplingParams { min_p: 1.0, ..warm }, SamplingParams { top_k: 1, ..warm }];
    [&top_p[..], &cold, &filtered, &others].concat()
}

#[test]
fn settings_that_leave_one_token_are_greedy() {
    let mut random = Random(71);
    for (device, gpu) in devices() {
        for vocab_size in [1, 2, 3, 257, 1001] {
            let mut logits = Logits::Peaked.random(vocab_size, &mut random);
            let best = reference::argmax(&logits).unwrap();
            logits[best] += 0.5;
            for scale in [1.0, 1e30] {
                let logits: Vec<f32> = logits.iter().map(|x| x * scale).collect();
                for params in greedy_settings() {
                    let (gpu_token, cpu) = (
                        block_on(draws(gpu, &logits, &params, 1)).unwrap(),
                        reference::sample(&logits, &[], &params, 0),
                    );
                    assert_eq!(
                        (gpu_token[0], cpu),
                        (best as u32, Some(best as u32)),
                        "{device} {vocab_size} {params:?}"
                    );
                }
            }
        }
    }
}

/// The same tokens as the twin in f64, over the ends of every range and logits of every kind.
#[test]
fn extreme_settings_equal_the_twin() {
    let mut random = Random(72);
    let warm = SamplingParams { temperature: 1.0, seed: u64::MAX - 1, ..SamplingParams::default() };
    let settings = [
        SamplingParams { temperature: 1e30, ..warm },
        SamplingParams { temperature: f32::MAX, min_p: 0.5, ..warm },
        SamplingParams { temperature: 1e30, top_p: 0.5, top_k: 9, ..warm },
        SamplingParams { min_p: 0.999_999_94, ..warm },
        SamplingParams { min_p: 1e-45, ..warm },
        SamplingParams { top_p: 0.999_999_94, ..warm },
        SamplingParams { top_k: u32::MAX, ..warm },
        SamplingParams { repetition_penalty: 1e30, ..warm },
        SamplingParams { repetition_penalty: 1e-30, ..warm },
        SamplingParams { repetition_penalty: 1e30, temperature: 0.0, ..warm },
        SamplingParams { repetition_penalty: 1e-30, temperature: 1e-45, ..warm },
    ];
    for (device, gpu) in devices() {
        for vocab_size in [1, 2, 3, 5, 257, 999] {
            for kind in Logits::ALL {
                let logits = kind.random(vocab_size, &mut random);
                // What f32 cannot hold of a penalised logit the twin in f64 can.
                let held = |params: &&SamplingParams| kind != Logits::OneHuge || params.repetition_penalty == 1.0;
                for params in settings.iter().filter(held) {
                    pass(device, sample(gpu, &logits, params, 3));
                }
            }
            for logits in [vec![0.0; vocab_size], vec![-3e7; vocab_size]] {
                for params in settings {
                    pass(device, sample(gpu, &logits, &params, 2));
                }
            }
            let mut far = vec![-3e38; vocab_size];
            far[vocab_size / 2] = 3e38;
            for params in settings.iter().filter(|params| params.temperature <= 1.0 && params.repetition_penalty == 1.0)
            {
                pass(device, sample(gpu, &far, params, 1));
            }
        }
    }
}

#[test]
fn nan_is_refused_whatever_the_settings() {
    let (_, gpu) = &devices()[0];
    for params in greedy_settings() {
        let mut logits = vec![1.0; 70];
        logits[69] = f32::NAN;
        assert_eq!(block_on(draws(gpu, &logits, &params, 1)).unwrap(), [SampleBuffers::NOT_A_NUMBER], "{params:?}");
        assert_eq!(reference::sample(&logits, &[], &params, 0), None, "{params:?}");
    }
}

const A_LOGS: [f32; 9] = [-200.0, -95.0, 0.0, 5.0, 69.0, 88.0, 89.0, 90.0, 3e38];
const DELTAS: [f32; 9] = [0.0, 1e-40, 1e-37, 1e-20, 1e-6, 1.0, 100.0, 1e9, 1e20];

/// Decays that are 0, 1 and between, by A_log that f32's exp cannot hold and deltas of every size.
fn decays(l: usize, d_inner: usize, d_state: usize, random: &mut Random) -> ScanCase {
    let mut case = ScanCase::random((l, d_inner, d_state), (1e-3, 1.0), random);
    let mut pick = |values: &[f32]| values[random.bits() as usize % values.len()];
    case.a.iter_mut().for_each(|a| *a = decay_rate(pick(&A_LOGS)));
    for (delta, u) in case.delta.iter_mut().zip(&mut case.u) {
        *delta = pick(&DELTAS);
        // delta u B is to be of the usual size: this is about the decay.
        *u /= delta.max(1.0);
    }
    case
}

#[test]
fn decays_of_any_rate_equal_the_twin() {
    let mut random = Random(73);
    for (device, gpu) in devices() {
        for (l, d_inner, d_state) in [(1, 8, 16), (7, 33, 16), (65, 5, 3), (300, 40, 16)] {
            let case = decays(l, d_inner, d_state, &mut random);
            let expected = case.expected();
            assert!(expected.0.iter().chain(&expected.1).all(|x| x.is_finite()));
            for rung in [Scan::Sequential, Scan::Blelloch, Scan::Fused] {
                pass(device, scan(gpu, rung, &case, &expected));
            }
            if l < 10 {
                pass(device, selective_state_update(gpu, &case, &mut random));
            }
        }
    }
}

#[test]
fn training_makes_the_same_rates() {
    let a_log = [A_LOGS.as_slice(), &[69.3, 69.4, 88.72, 88.73, f32::MAX, -f32::MAX, -0.0]].concat();
    for (device, gpu) in devices() {
        let (from, to) = (tensor(gpu, &a_log).unwrap(), tensor(gpu, &vec![7.0; a_log.len()]).unwrap());
        let mut plan = PlanBuilder::new(gpu);
        kernels::backward::negative_exp(&mut plan, &from, &to, a_log.len()).unwrap();
        block_on(plan.finish().unwrap().run(gpu)).unwrap();
        let got = block_on(to.read::<f32>(gpu)).unwrap();
        for (a_log, got) in a_log.iter().zip(got) {
            let want = decay_rate(*a_log);
            // exp of a large number is off by some ulp; what lies below the normal numbers may be 0.
            assert!((got - want).abs() <= 1e-4 * want.abs() + f32::MIN_POSITIVE, "{device} {a_log}: {got} {want}");
        }
    }
}
