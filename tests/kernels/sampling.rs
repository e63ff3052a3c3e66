//! argmax, token_nll and sample.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::{poisoned, run, tensor, Random};
use mamba_wgpu::checks::sampling::{draws, near, rows, sample, settings, Logits};
use mamba_wgpu::generate::SamplingParams;
use mamba_wgpu::gpu::PlanBuilder;
use mamba_wgpu::kernels::{self, SampleBuffers};
use pollster::block_on;

#[test]
fn argmax_and_nll_equal_their_twins() {
    let mut random = Random(12);
    for (device, gpu) in devices() {
        for vocab_size in [1, 2, 255, 256, 257, 4096] {
            for n in [0, 1, 3] {
                pass(device, rows(gpu, n, vocab_size, &mut random));
            }
        }
    }
}

#[test]
fn logits_without_a_choice_give_no_token() {
    for (_, gpu) in devices() {
        let greedy = SamplingParams::default();
        for at in [0, 299] {
            let mut logits = vec![1.0; 300];
            logits[at] = f32::NAN;
            let (tl, token) = (tensor(gpu, &logits).unwrap(), poisoned(gpu, 1).unwrap());
            block_on(run(gpu, |plan| kernels::argmax(plan, &tl, &token, 1, 300))).unwrap();
            assert_eq!(block_on(token.read::<u32>(gpu)).unwrap(), [SampleBuffers::NOT_A_NUMBER]);
            assert_eq!(block_on(draws(gpu, &logits, &greedy, 1)).unwrap(), [SampleBuffers::NOT_A_NUMBER]);
        }
        let nothing = vec![f32::NEG_INFINITY; 300];
        assert_eq!(block_on(draws(gpu, &nothing, &greedy, 1)).unwrap(), [SampleBuffers::NOT_A_NUMBER]);
    }
}

#[test]
fn logits_without_a_distribution_give_no_token() {
    let warm = SamplingParams { temperature: 0.7, ..SamplingParams::default() };
    for (_, gpu) in devices() {
        for params in [warm, SamplingParams { top_k: 5, top_p: 0.9, min_p: 0.1, ..warm }] {
            for spoilt in [f32::NAN, f32::INFINITY] {
                let mut logits = vec![1.0; 300];
                logits[280] = spoilt;
                assert_eq!(block_on(draws(gpu, &logits, &params, 2)).unwrap(), [SampleBuffers::NOT_A_NUMBER; 2]);
            }
            let nothing = vec![f32::NEG_INFINITY; 300];
            assert_eq!(block_on(draws(gpu, &nothing, &params, 1)).unwrap(), [SampleBuffers::NOT_A_NUMBER]);
        }
    }
}

#[test]
fn sample_equals_its_twin() {
    let mut random = Random(13);
    for (device, gpu) in devices() {
        for vocab_size in [1, 2, 31, 32, 33, 255, 256, 257, 1000] {
            for params in settings() {
                for kind in Logits::ALL {
                    pass(device, sample(gpu, &kind.random(vocab_size, &mut random), &params, 3));
                }
            }
        }
    }
}

#[test]
fn sample_equals_its_twin_for_random_parameters() {
    let mut random = Random(14);
    let (device, gpu) = &devices()[0];
    for i in 0..150 {
        let vocab_size = 1 + random.bits() as usize % 700;
        let mut maybe = |low: f64, high: f64, off: f32| {
            let x = (low + (high - low) * random.unit()) as f32;
            if random.bits().is_multiple_of(3) {
                off
            } else {
                x
            }
        };
        let params = SamplingParams {
            temperature: maybe(0.05, 3.0, 1.0),
            top_k: maybe(1.0, 2.0 * vocab_size as f64, 0.0) as u32,
            top_p: maybe(0.001, 1.0, 1.0),
            min_p: maybe(0.0, 0.5, 0.0),
            repetition_penalty: maybe(0.5, 3.0, 1.0),
            seed: i,
        };
        let logits = Logits::ALL[i as usize % 5].random(vocab_size, &mut random);
        pass(device, sample(gpu, &logits, &params, 3));
    }
}

/// Blocks of many invocations' tokens each: a published vocabulary, and one with more than one token an invocation.
#[test]
fn sample_equals_its_twin_over_a_large_vocabulary() {
    let mut random = Random(15);
    let (device, gpu) = &devices()[0];
    let all = *settings().last().unwrap();
    let greedy = SamplingParams { temperature: 0.0, ..all };
    for vocab_size in [50_280, 65_536 + 300] {
        for kind in [Logits::Even, Logits::Peaked, Logits::Ties] {
            let logits = kind.random(vocab_size, &mut random);
            let top_p = SamplingParams { top_p: 0.95, top_k: 0, min_p: 0.0, ..all };
            for params in [greedy, SamplingParams { top_p: 1.0, top_k: 40, ..all }, top_p] {
                pass(device, sample(gpu, &logits, &params, 2));
            }
        }
    }
}

#[test]
fn the_comparison_with_the_twin_can_fail() {
    let logits = Logits::Even.random(1000, &mut Random(16));
    let seen = [0; 32];
    for params in settings() {
        let token = block_on(draws(&devices()[0].1, &logits, &params, 1)).unwrap()[0];
        near(token, &logits, &seen, &params, 0).unwrap();
        for wrong in [token + 1, token.wrapping_sub(1), SampleBuffers::NOT_A_NUMBER] {
            near(wrong, &logits, &seen, &params, 0).unwrap_err();
        }
    }
    // The twin itself sees which tokens were seen.
    let best = mamba_wgpu::reference::argmax(&logits).unwrap();
    let penalised = SamplingParams { repetition_penalty: 100.0, ..SamplingParams::default() };
    let mut seen = seen;
    seen[best / 32] = 1 << (best % 32);
    near(best as u32, &logits, &seen, &penalised, 0).unwrap_err();
}

/// The dispatches are as few as the parameters allow.
#[test]
fn only_what_the_parameters_need_is_dispatched() {
    let (_, gpu) = &devices()[0];
    let buffers = SampleBuffers::new(gpu, 100).unwrap();
    let logits = tensor(gpu, &[0.0; 100]).unwrap();
    let count = |params: SamplingParams| {
        let mut plan = PlanBuilder::new(gpu);
        kernels::sample(&mut plan, &logits, &buffers, 100, &params).unwrap();
        plan.finish().unwrap().labels().len()
    };
    let plain = SamplingParams { temperature: 1.0, min_p: 0.1, ..SamplingParams::default() };
    assert_eq!(count(SamplingParams { temperature: 0.0, top_k: 3, ..plain }), 2);
    assert_eq!([plain, SamplingParams { top_k: 100, ..plain }].map(count), [3, 3]);
    assert_eq!([SamplingParams { top_k: 99, ..plain }, SamplingParams { top_p: 0.9, ..plain }].map(count), [6, 6]);
    assert_eq!(count(SamplingParams { top_k: 99, top_p: 0.9, ..plain }), 9);
}

/// The draws follow the distribution: chi squared over 5 tokens and 2,000 draws, with a bound far beyond chance.
#[test]
fn draws_follow_the_softmax() {
    let (_, gpu) = &devices()[0];
    let logits = [0.0f32, 1.0, 2.0, -1.0, 0.5];
    let params = SamplingParams { temperature: 1.0, seed: 3, ..SamplingParams::default() };
    let tokens = block_on(draws(gpu, &logits, &params, 2000)).unwrap();
    let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let part = |i: usize| {
        let want = 2000.0 * f64::from(logits[i]).exp() / total;
        let got = tokens.iter().filter(|&&t| t == i as u32).count() as f64;
        (got - want).powi(2) / want
    };
    let chi: f64 = (0..logits.len()).map(part).sum();
    assert!(chi < 25.0, "chi squared {chi} with 4 degrees of freedom");
}
