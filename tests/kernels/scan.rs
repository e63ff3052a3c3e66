//! The three rungs of the scan and the single step: lengths around every block (16, 32, 64, 8 x 16), extreme deltas,
//! carried states.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::{close, difference, Random};
use mamba_wgpu::checks::scan::{scan, ScanCase};
use mamba_wgpu::gpu::{PlanBuilder, Tensor};
use mamba_wgpu::kernels::{self, ScanBuffers, ScanShape};
use mamba_wgpu::model::Scan;
use pollster::block_on;

const RUNGS: [Scan; 3] = [Scan::Sequential, Scan::Blelloch, Scan::Fused];

#[test]
fn every_rung_equals_the_sequential_twin() {
    let mut random = Random(6);
    let lengths = [
        (0, 3),
        (1, 1),
        (2, 31),
        (15, 32),
        (16, 33),
        (17, 5),
        (63, 8),
        (64, 2),
        (65, 3),
        (127, 4),
        (129, 1),
        (300, 65),
    ];
    for (device, gpu) in devices() {
        for d_state in [1, 2, 3, 4, 5, 15, 16, 17, 64] {
            for (l, d_inner) in lengths {
                let case = ScanCase::random((l, d_inner, d_state), (1e-3, 1.0), &mut random);
                let expected = case.expected();
                for rung in RUNGS {
                    pass(device, scan(gpu, rung, &case, &expected));
                }
                if gpu.shader_f16() && d_state > 3 {
                    let case = case.halved();
                    pass(device, scan(gpu, Scan::Fused, &case, &case.expected()));
                }
            }
        }
    }
}

#[test]
fn long_texts_and_extreme_deltas() {
    let mut random = Random(7);
    for (device, gpu) in devices() {
        for range in [(1e-6, 20.0), (1e-6, 1e-5), (10.0, 20.0), (1e-3, 1e-1)] {
            for sizes in [(4095, 3, 4), (4097, 33, 16), (65_536, 2, 3)] {
                let case = ScanCase::random(sizes, range, &mut random);
                let expected = case.expected();
                for rung in RUNGS {
                    pass(&format!("{device}, delta {range:?}"), scan(gpu, rung, &case, &expected));
                }
            }
        }
    }
}

/// More pairs than one binding holds: the textbook scan goes through in segments.
#[test]
fn scans_larger_than_a_binding_go_through_in_segments() {
    let (device, gpu) = &devices()[1];
    let case = ScanCase::random((2100, 256, 64), (1e-3, 1e-1), &mut Random(8));
    assert!(2100 * 256 * 64 * 4 > gpu.max_binding());
    let expected = case.expected();
    for rung in [Scan::Blelloch, Scan::Fused] {
        pass(device, scan(gpu, rung, &case, &expected));
    }
}

/// A scan cut in two, the state carried over, equals the whole.
#[test]
fn the_final_state_is_the_next_initial_state() {
    let (_, gpu) = &devices()[0];
    let whole = ScanCase::random((200, 40, 16), (1e-3, 1.0), &mut Random(10));
    let (want_y, want_state) = whole.expected();
    for rung in RUNGS {
        for cut in [1, 16, 77, 128, 199] {
            let first = whole.part(0, cut, whole.ssm_state.clone());
            let (mut y, state) = block_on(first.run(gpu, rung)).unwrap();
            let (rest, state) = block_on(whole.part(cut, 200, state).run(gpu, rung)).unwrap();
            y.extend(rest);
            close(&format!("{rung:?} cut at {cut}: y"), &y, &want_y, 2e-5, 2e-5).unwrap();
            close(&format!("{rung:?} cut at {cut}: state"), &state, &want_state, 2e-5, 2e-5).unwrap();
        }
    }
}

/// The comparison sees one wrong value and one NaN among the inputs.
#[test]
fn a_perturbed_input_fails() {
    let (_, gpu) = &devices()[0];
    let mut case = ScanCase::random((70, 5, 4), (1e-2, 1.0), &mut Random(11));
    let (want, _) = case.expected();
    for wrong in [case.x_dbl[8] + 0.01, f32::NAN] {
        case.x_dbl[8] = wrong;
        for rung in RUNGS {
            let (y, _) = block_on(case.run(gpu, rung)).unwrap();
            assert!(difference(&y, &want, 2e-5, 2e-5).is_some(), "{rung:?} with {wrong}");
        }
    }
}

#[test]
fn too_many_states_for_registers_is_an_error() {
    let (_, gpu) = &devices()[0];
    let t = Tensor::zeros(gpu, "t", 1024).unwrap();
    let b = ScanBuffers { u: &t, delta: &t, a: &t, x_dbl: &t, d: &t, xz: &t, ssm_state: &t, y: &t };
    let (x_dbl_stride, b_offset, c_offset) = (515, 1, 258);
    let s = ScanShape { l: 1, d_inner: 1, d_state: 257, x_dbl_stride, b_offset, c_offset, xz_stride: 2, z_offset: 1 };
    let e = kernels::scan_sequential(&mut PlanBuilder::new(gpu), &b, s).unwrap_err();
    assert!(e.to_string().contains("d_state is 257"), "{e}");
}
