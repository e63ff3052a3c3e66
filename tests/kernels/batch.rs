//! Steps of several texts: slots out of order and without a row, sizes around workgroups, settings of every kind side by side.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::batch::{conv1d_update, sample, selective_state_update, ssd_state_update};
use mamba_wgpu::checks::data::Random;
use mamba_wgpu::checks::sampling::{draws, near, settings, Logits};
use mamba_wgpu::checks::scan::ScanCase;
use pollster::block_on;

const TEXTS: [usize; 4] = [1, 2, 5, 13];

#[test]
fn states_move_on_in_their_slots() {
    let mut random = Random(31);
    for (device, gpu) in devices() {
        for n in TEXTS {
            for (d_inner, d_conv) in [(1, 1), (54, 2), (64, 4), (65, 5)] {
                for (x_offset, bias) in [(0, false), (7, true)] {
                    pass(device, conv1d_update(gpu, n, (d_inner, d_conv), (x_offset, bias), &mut random));
                }
            }
            for (d_inner, d_state) in [(1, 1), (63, 16), (65, 5), (200, 64), (3, 300)] {
                let case = ScanCase::random((n, d_inner, d_state), (1e-6, 20.0), &mut random);
                pass(device, selective_state_update(gpu, &case, &mut random));
            }
            for sizes in [(1, 1, 1, 1), (2, 64, 128, 1), (3, 33, 17, 3), (6, 5, 3, 2), (2, 80, 33, 2)] {
                pass(device, ssd_state_update(gpu, n, sizes, &mut random));
            }
        }
    }
}

#[test]
fn a_text_draws_what_it_would_alone() {
    let mut random = Random(32);
    for (device, gpu) in devices() {
        for vocab_size in [1, 33, 257, 1000] {
            let params = settings();
            for kind in [Logits::Even, Logits::Ties, Logits::Peaked, Logits::MostlyNothing] {
                let logits: Vec<_> = params.iter().map(|_| kind.random(vocab_size, &mut random)).collect();
                pass(device, sample(gpu, &logits, &params, 3));
            }
            // Those that need few dispatches among themselves.
            for params in [&params[..2], &params[2..3], &params[3..5]] {
                let logits: Vec<_> = params.iter().map(|_| Logits::Even.random(vocab_size, &mut random)).collect();
                pass(device, sample(gpu, &logits, params, 2));
            }
        }
    }
}

/// What one text's logits have wrong is no other's.
#[test]
fn logits_without_a_choice_are_their_own_texts_trouble() {
    let (_, gpu) = &devices()[0];
    let params = settings();
    let mut random = Random(33);
    let mut logits: Vec<_> = params.iter().map(|_| Logits::Even.random(300, &mut random)).collect();
    // One greedy and one by chance.
    logits[1][20] = f32::NAN;
    logits[4] = vec![f32::NEG_INFINITY; 300];
    block_on(sample(gpu, &logits, &params, 2)).unwrap();
}

/// The comparison sees a text that was drawn by other settings than its own.
#[test]
fn another_texts_settings_fail() {
    let (_, gpu) = &devices()[0];
    let logits = Logits::Even.random(300, &mut Random(34));
    let all = settings();
    let (drawn, wanted) = (all[2], all[5]);
    let tokens = block_on(draws(gpu, &logits, &drawn, 4)).unwrap();
    let near = |params| (0..4).try_for_each(|i| near(tokens[i], &logits, &[], params, i as u32));
    assert!(near(&drawn).is_ok() && near(&wanted).is_err());
}
