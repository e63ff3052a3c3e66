//! argmax, token_nll and sample.

use crate::harness::{devices, pass};
use mamba_wgpu::generate::SamplingParams;
use mamba_wgpu::gpu::selftest::data::{poisoned, run, tensor, Random};
use mamba_wgpu::gpu::selftest::sampling::{draws, rows, sample, settings};
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
fn sample_equals_its_twin() {
    let mut random = Random(13);
    for (device, gpu) in devices() {
        for vocab_size in [1, 2, 33, 257, 1000] {
            for params in settings() {
                pass(device, sample(gpu, vocab_size, &params, 12, &mut random));
            }
        }
    }
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
