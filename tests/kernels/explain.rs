//! The hidden attention and the statistics beside it, of channels and of heads: lengths around a workgroup's rows (16) and steps (4),
//! units around its lanes (64), ranges of units, more of them than one dispatch takes, states around what registers hold (16).

use crate::harness::{devices, pass};
use mamba_wgpu::checks::data::{difference, Random};
use mamba_wgpu::checks::explain::{explain, ExplainCase};
use mamba_wgpu::gpu::{GpuError, PlanBuilder, Tensor};
use mamba_wgpu::kernels::{self, ExplainBuffers, ExplainShape, ScanShape, SsdShape};
use pollster::block_on;

#[test]
fn explain_equals_its_twins() {
    let mut random = Random(21);
    for (device, gpu) in devices() {
        for d_state in [1, 5, 16, 64] {
            for (l, d_inner) in [(0, 3), (1, 1), (3, 15), (4, 16), (5, 17), (15, 63), (16, 64), (17, 65), (33, 130)] {
                let range =
                    [0..d_inner, d_inner - 1..d_inner, d_inner / 2..(d_inner / 2 + 18).min(d_inner)][l % 3].clone();
                let case = ExplainCase::channels((l, d_inner, d_state), range, &mut random);
                pass(device, explain(gpu, &case, &case.expected()));
            }
        }
    }
}

#[test]
fn heads_equal_their_twins() {
    let mut random = Random(24);
    for (device, gpu) in devices() {
        for (l, sizes, heads) in [
            (0, (2, 3, 4, 1), 0..2),
            (1, (1, 1, 1, 1), 0..1),
            (3, (6, 5, 7, 3), 0..6),
            (4, (6, 9, 15, 2), 2..5), // from one group into the other
            (15, (4, 8, 16, 4), 3..4),
            (16, (65, 2, 17, 1), 0..65),
            (17, (130, 1, 33, 2), 0..130),
            (33, (8, 16, 300, 8), 0..8),
            (520, (2, 4, 256, 1), 0..2), // rounds enough to be ended by llvmpipe, were they counted
        ] {
            for wide in [false, true] {
                let case = ExplainCase::heads(l, sizes, wide, heads.clone(), &mut random);
                pass(device, explain(gpu, &case, &case.expected()));
            }
        }
    }
}

/// The sums go on from dispatch to dispatch.
#[test]
fn more_channels_than_a_dispatch_takes() {
    let (device, gpu) = &devices()[0];
    let case = ExplainCase::channels((130, 400, 64), 1..400, &mut Random(22));
    let s = &case.shape;
    let t = Tensor::zeros(gpu, "t", 2 * s.l * s.l).unwrap();
    let b = ExplainBuffers { u: &t, delta: &t, a: &t, bc: &t };
    let mut plan = PlanBuilder::new(gpu);
    kernels::hidden_attention(&mut plan, &b, &t, 1..400, s).unwrap();
    assert!(plan.finish().unwrap().labels().len() > 1);
    pass(device, explain(gpu, &case, &case.expected()));
}

/// The comparison sees one wrong value and one NaN among the inputs.
#[test]
fn a_perturbed_input_of_explain_fails() {
    let (_, gpu) = &devices()[0];
    let channels = ExplainCase::channels((40, 5, 4), 0..5, &mut Random(23));
    for mut case in [channels, ExplainCase::heads(40, (6, 3, 9, 2), false, 0..6, &mut Random(25))] {
        let want = case.expected();
        for wrong in [case.delta[12] + 0.01, f32::NAN] {
            case.delta[12] = wrong;
            let got = block_on(case.run(gpu)).unwrap();
            for (what, got, want) in [
                ("forget", &got.forget, &want.forget),
                ("energy", &got.energy, &want.energy),
                ("stats", &got.stats, &want.stats),
                ("attention", &got.attention, &want.attention),
            ] {
                assert!(difference(got, want, 1e-5, 1e-4).is_some(), "{what} with {wrong}");
            }
        }
    }
}

#[test]
fn a_text_of_too_many_rounds_is_an_error() {
    let (_, gpu) = &devices()[0];
    let t = Tensor::zeros(gpu, "t", 1024).unwrap();
    let b = ExplainBuffers { u: &t, delta: &t, a: &t, bc: &t };
    let channels = ExplainShape::from(&ScanShape::of_layer(1 << 16, 1, 16, 1));
    let heads = ExplainShape::from(&SsdShape::of_layer(1 << 16, (1, 64), 128, 1));
    for (shape, most) in [(channels, 1_804), (heads, 1_700)] {
        let result = kernels::hidden_attention(&mut PlanBuilder::new(gpu), &b, &t, 0..1, &shape);
        if gpu.adapter_summary().device_type == "Cpu" {
            let error = result.unwrap_err();
            let GpuError::Unsupported { what: "length", value: 65_536, limit, .. } = error else { panic!("{error}") };
            assert_eq!(limit, most);
        } else {
            result.unwrap();
        }
    }
}
