//! Mamba-2's kernels: lengths around its chunks of 64, sizes around its tiles, groups, extreme deltas, carried states.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::{close, difference, Random};
use mamba_wgpu::checks::pointwise;
use mamba_wgpu::checks::ssd::{gated_norm, gated_update, ssd, ssd_chunks, SsdCase};
use mamba_wgpu::checks::ssd_step::ssd_step;
use mamba_wgpu::gpu::shader::{NumberFormat, WeightFormat};
use mamba_wgpu::gpu::Gpu;
use mamba_wgpu::kernels::{GatedNorm, Ssd};
use mamba_wgpu::reference::decay_rate;
use pollster::block_on;

const RUNGS: [Option<Ssd>; 2] = [Some(Ssd::Sequential), Some(Ssd::Chunked)];

/// Those that a device has for a shape.
fn rungs(gpu: &Gpu, case: &SsdCase) -> Vec<Option<Ssd>> {
    let best = Ssd::best(gpu, &case.shape, true);
    RUNGS.into_iter().chain((best == Ssd::Matrices).then_some(Some(best))).collect()
}

/// Heads, head_dim, d_state, groups: on tiles' borders and off them, whole quads and not.
const SIZES: [(usize, usize, usize, usize); 9] = [
    (1, 1, 1, 1),
    (2, 64, 128, 1),
    (4, 32, 16, 2),
    (3, 33, 17, 3),
    (6, 5, 3, 2),
    (2, 65, 64, 1),
    (2, 80, 33, 2),
    (5, 8, 65, 1),
    (1, 31, 260, 1),
];

#[test]
fn every_rung_equals_the_sequential_twin() {
    let mut random = Random(21);
    for (device, gpu) in devices() {
        for (i, sizes) in SIZES.into_iter().enumerate() {
            for l in [0, 1, 2, 63, 64, 65, 200] {
                let case = SsdCase::random(l, sizes, (1e-3, 1.0), &mut random);
                let case = if (i + l) % 2 == 1 { case.wide(&mut random) } else { case };
                let expected = case.expected(false);
                for rung in rungs(gpu, &case) {
                    pass(device, ssd(gpu, rung, &case, &expected));
                }
            }
        }
    }
}

/// Around its chunks and tiles, where the device has cooperative matrices.
#[test]
fn the_rung_by_matrices_equals_the_sequential_twin() {
    let mut random = Random(33);
    for (device, gpu) in devices().iter().filter(|(_, gpu)| gpu.cooperative()) {
        let sizes = [(1, 4, 4, 1), (4, 36, 40, 2), (2, 64, 128, 1), (2, 68, 132, 1)];
        for (i, l) in [0, 1, 127, 129, 256, 257, 520].into_iter().enumerate() {
            for range in [(1e-3, 1e-1), (1e-4, 20.0)] {
                let case = SsdCase::random(l, sizes[i % sizes.len()], range, &mut random);
                for case in [case.clone().halved(), case] {
                    pass(device, ssd(gpu, Some(Ssd::Matrices), &case, &case.expected(false)));
                }
            }
        }
    }
}

#[test]
fn inputs_may_be_f16() {
    let mut random = Random(22);
    for (device, gpu) in devices().iter().filter(|(_, gpu)| gpu.shader_f16()) {
        for sizes in [(2, 64, 128, 1), (3, 33, 17, 3)] {
            let case = SsdCase::random(150, sizes, (1e-3, 1.0), &mut random).halved();
            for rung in rungs(gpu, &case) {
                pass(device, ssd(gpu, rung, &case, &case.expected(false)));
            }
        }
    }
}

/// What each kernel of the chunked rung leaves for the next.
#[test]
fn the_parts_of_the_chunked_rung_equal_their_twins() {
    let mut random = Random(23);
    for (device, gpu) in devices() {
        for sizes in SIZES {
            for (l, range) in [(50, (1e-3, 1.0)), (140, (1e-4, 20.0)), (600, (1e-3, 1e-1))] {
                pass(device, ssd_chunks(gpu, &SsdCase::random(l, sizes, range, &mut random)));
            }
            let case = SsdCase::random(70, sizes, (1e-3, 1.0), &mut random).wide(&mut random);
            pass(device, ssd_chunks(gpu, &case));
        }
    }
}

#[test]
fn long_texts_and_extreme_deltas() {
    let mut random = Random(24);
    for (device, gpu) in devices() {
        for range in [(1e-6, 20.0), (1e-6, 1e-5), (10.0, 20.0), (1e-3, 1e-1)] {
            for (l, sizes) in
                [(4095, (2, 3, 4, 1)), (1000, (2, 33, 130, 2)), (2500, (2, 64, 64, 1)), (65_536, (1, 2, 3, 1))]
            {
                let case = SsdCase::random(l, sizes, range, &mut random);
                let expected = case.expected(false);
                for rung in rungs(gpu, &case) {
                    pass(&format!("{device}, delta {range:?}"), ssd(gpu, rung, &case, &expected));
                }
            }
        }
    }
}

/// Decays that are 0, 1 and between, one beside the other in a chunk: by A that f32's exp could not hold and deltas of
/// every size.
#[test]
fn decays_of_any_rate_equal_the_twin() {
    let mut random = Random(25);
    let rates = [-200.0, -95.0, 0.0, 5.0, 69.0, 88.0, 89.0, 3e38].map(decay_rate::<f32>);
    for (device, gpu) in devices() {
        for (low, sizes) in
            [1e-30, 1e-6, 1e-2].into_iter().flat_map(|low| [(8, 5, 6, 2), (8, 8, 12, 2)].map(|s| (low, s)))
        {
            let mut case = SsdCase::random(300, sizes, (low, 1e3), &mut random);
            case.a = rates.to_vec();
            case.shape.dt_limit = (0.0, f32::INFINITY);
            for (t, row) in case.zxbcdt.chunks_exact_mut(case.shape.zxbcdt_stride).enumerate() {
                for (h, dt) in row[case.shape.dt_offset..].iter_mut().enumerate() {
                    *dt = [-300.0, -80.0, -20.0, -3.0, 0.0, 3.0, 30.0, 300.0][(t * 5 + h * 3) % 8];
                }
            }
            let expected = case.expected(false);
            assert!(expected.0.iter().chain(&expected.1).all(|x| x.is_finite()));
            for rung in rungs(gpu, &case) {
                pass(device, ssd(gpu, rung, &case, &expected));
            }
        }
    }
}

/// More states than one binding holds: the chunked rung goes through in segments.
#[test]
fn texts_whose_states_are_larger_than_a_binding_go_through_in_segments() {
    let (device, gpu) = &devices()[1];
    let case = SsdCase::random(300, (64, 128, 1024, 1), (1e-3, 1e-1), &mut Random(26));
    assert!(5 * case.shape.state_len() as u64 * 4 > gpu.max_binding());
    pass(device, ssd(gpu, Some(Ssd::Chunked), &case, &case.expected(false)));
}

#[test]
fn ssd_state_update_is_one_token_of_the_recurrence() {
    let mut random = Random(27);
    for (device, gpu) in devices() {
        for sizes in SIZES {
            let case = SsdCase::random(1, sizes, (1e-6, 20.0), &mut random);
            pass(device, ssd(gpu, None, &case, &case.expected(false)));
            pass(device, gated_update(gpu, &case));
            let case = case.wide(&mut random);
            pass(device, ssd(gpu, None, &case, &case.expected(false)));
            pass(device, gated_update(gpu, &case));
        }
    }
}

#[test]
fn the_decode_step_equals_its_twins() {
    let mut random = Random(32);
    for (device, gpu) in devices() {
        for format in WeightFormat::ALL {
            for (i, sizes) in SIZES[..8].iter().enumerate() {
                let columns = ([0, 3, 8][i % 3], [4, 68, 260][i % 3]);
                pass(device, ssd_step(gpu, *sizes, columns, (format, i % 2 == 0), &mut random));
            }
        }
    }
}

/// A text cut in two, the state carried over, equals the whole; so does one token by token.
#[test]
fn the_final_state_is_the_next_initial_state() {
    let (_, gpu) = &devices()[0];
    let whole = SsdCase::random(200, (4, 12, 12, 2), (1e-3, 1.0), &mut Random(28));
    let (want_y, want_state) = whole.expected(false);
    for rung in rungs(gpu, &whole) {
        for cut in [1, 64, 77, 128, 199] {
            let first = whole.part(0, cut, whole.ssm_state.clone());
            let (mut y, state) = block_on(first.run(gpu, rung, false)).unwrap();
            let (rest, state) = block_on(whole.part(cut, 200, state).run(gpu, rung, false)).unwrap();
            y.extend(rest);
            close(&format!("{rung:?} cut at {cut}: y"), &y, &want_y, 2e-5, 2e-5).unwrap();
            close(&format!("{rung:?} cut at {cut}: state"), &state, &want_state, 2e-5, 2e-5).unwrap();
        }
    }
    let mut state = whole.ssm_state.clone();
    for t in 0..20 {
        let (y, next) = block_on(whole.part(t, t + 1, state).run(gpu, None, false)).unwrap();
        close(&format!("token {t}"), &y, &want_y[t * 48..(t + 1) * 48], 2e-5, 2e-5).unwrap();
        state = next;
    }
}

/// The comparison sees one wrong value and one NaN among the inputs, wherever it is.
#[test]
fn a_perturbed_input_fails() {
    let (_, gpu) = &devices()[0];
    let sound = SsdCase::random(70, (2, 8, 4, 1), (1e-2, 1.0), &mut Random(35));
    let (want, _) = sound.expected(false);
    let change = |case: &mut SsdCase, which: usize, wrong: f32| {
        let s = case.shape;
        let value = match which {
            0 => &mut case.zxbcdt[9 * s.zxbcdt_stride + s.dt_offset],
            1 => &mut case.xbc[9 * s.xbc_stride],
            2 => &mut case.xbc[9 * s.xbc_stride + s.b_offset],
            3 => &mut case.xbc[9 * s.xbc_stride + s.c_offset],
            4 => &mut case.dt_bias[1],
            5 => &mut case.d[0],
            6 => &mut case.ssm_state[7],
            _ => &mut case.a[1],
        };
        *value += wrong;
    };
    for which in 0..8 {
        for wrong in [0.01, f32::NAN] {
            let mut case = sound.clone();
            change(&mut case, which, wrong);
            for rung in rungs(gpu, &case) {
                let (y, _) = block_on(case.run(gpu, rung, false)).unwrap();
                assert!(difference(&y, &want, 2e-5, 2e-5).is_some(), "{rung:?} with {wrong} in {which}");
            }
        }
    }
}

#[test]
fn gated_rms_norm_equals_its_twin() {
    let mut random = Random(30);
    let f32s = (NumberFormat::F32, NumberFormat::F32);
    for (device, gpu) in devices() {
        for kind in [GatedNorm::GateFirst, GatedNorm::NormFirst, GatedNorm::GateOnly] {
            for sizes in [(0, 4, 1), (1, 1, 1), (5, 6, 3), (2, 255, 1), (1, 1536, 1), (3, 520, 2), (70, 64, 8)] {
                for weighted in [false, true] {
                    for in_place in [false, true] {
                        pass(device, gated_norm(gpu, kind, sizes, (weighted, in_place), f32s, &mut random));
                    }
                }
                if gpu.shader_f16() {
                    for z in [NumberFormat::F32, NumberFormat::F16] {
                        let formats = (z, NumberFormat::F16);
                        pass(device, gated_norm(gpu, kind, sizes, (true, false), formats, &mut random));
                    }
                }
            }
        }
    }
}

/// Mamba-2's convolution: x, B and C stand behind z.
#[test]
fn conv1d_at_a_column_equals_its_twin() {
    let mut random = Random(31);
    for (device, gpu) in devices() {
        for (channels, x_offset, l) in [(1, 1, 1), (54, 32, 2), (65, 7, 4), (300, 129, 33)] {
            let numbers = (true, NumberFormat::F32);
            pass(device, pointwise::conv1d(gpu, (l, channels, 4), x_offset, numbers, &mut random));
        }
    }
}
