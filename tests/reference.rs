//! The rungs of the scan against each other, against numbers worked out by hand and against f64; prefill against decode.

use mamba_wgpu::reference::{
    scan_blelloch, scan_fused, scan_sequential, selective_state_update, uniform, Real, ScanInput, ScanShape,
};
use proptest::prelude::*;

/// A scan's inputs in f64, each exactly representable in f32.
#[derive(Clone)]
struct Case<T> {
    shape: ScanShape,
    u: Vec<T>,
    delta: Vec<T>,
    a: Vec<T>,
    x_dbl: Vec<T>,
    d: Vec<T>,
    xz: Vec<T>,
    state: Vec<T>,
}

impl Case<f32> {
    /// Random inputs; delta is spread evenly over the decades of `delta_range`.
    fn random(l: usize, d_inner: usize, d_state: usize, seed: u64, delta_range: (f32, f32)) -> Self {
        let dt_rank = 3;
        let shape = ScanShape::of_layer(l, d_inner, d_state, dt_rank);
        let numbers = |len: usize, salt: u64| -> Vec<f32> {
            (0..len).map(|i| 2.0 * uniform(seed ^ (salt << 32), i as u32) - 1.0).collect()
        };
        let (low, high) = (delta_range.0.ln(), delta_range.1.ln());
        Self {
            shape,
            u: numbers(l * d_inner, 1),
            delta: numbers(l * d_inner, 2).iter().map(|x| (low + (high - low) * (x + 1.0) / 2.0).exp()).collect(),
            a: (0..d_inner * d_state).map(|i| -((i % d_state + 1) as f32)).collect(),
            x_dbl: numbers(l * shape.x_dbl_stride, 3),
            d: numbers(d_inner, 4),
            xz: numbers(l * shape.xz_stride, 5),
            state: numbers(d_inner * d_state, 6),
        }
    }

    fn wide(&self) -> Case<f64> {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect();
        Case {
            shape: self.shape,
            u: wide(&self.u),
            delta: wide(&self.delta),
            a: wide(&self.a),
            x_dbl: wide(&self.x_dbl),
            d: wide(&self.d),
            xz: wide(&self.xz),
            state: wide(&self.state),
        }
    }
}

/// (y, final ssm_state).
type Output<T> = (Vec<T>, Vec<T>);

impl<T: Real> Case<T> {
    fn input(&self) -> ScanInput<'_, T> {
        ScanInput { u: &self.u, delta: &self.delta, a: &self.a, x_dbl: &self.x_dbl, d: &self.d, xz: &self.xz }
    }

    fn run(&self, scan: impl Fn(&mut [T], &mut [T], &ScanInput<T>, &ScanShape)) -> Output<T> {
        let mut y = vec![T::nan(); self.shape.l * self.shape.d_inner];
        let mut state = self.state.clone();
        scan(&mut y, &mut state, &self.input(), &self.shape);
        (y, state)
    }

    fn sequential(&self) -> Output<T> {
        self.run(scan_sequential)
    }

    fn blelloch(&self, block: usize) -> Output<T> {
        self.run(|y, h, input, shape| scan_blelloch(y, h, input, shape, block))
    }

    fn fused(&self, chunk: usize) -> Output<T> {
        self.run(|y, h, input, shape| scan_fused(y, h, input, shape, chunk))
    }

    /// One token at a time.
    fn steps(&self) -> Output<T> {
        self.run(|y, h, input, shape| {
            let &ScanShape { l, d_inner, x_dbl_stride, xz_stride, .. } = shape;
            for t in 0..l {
                let row = t * d_inner..(t + 1) * d_inner;
                let one = ScanInput {
                    u: &input.u[row.clone()],
                    delta: &input.delta[row.clone()],
                    x_dbl: &input.x_dbl[t * x_dbl_stride..(t + 1) * x_dbl_stride],
                    xz: &input.xz[t * xz_stride..(t + 1) * xz_stride],
                    ..*input
                };
                selective_state_update(&mut y[row], h, &one, &ScanShape { l: 1, ..*shape });
            }
        })
    }
}

/// The worst |got - expected| / (atol + rtol |expected|), infinite for NaN.
fn worst<G: Real, E: Real>(got: &Output<G>, expected: &Output<E>, rtol: f64, atol: f64) -> f64 {
    assert_eq!((got.0.len(), got.1.len()), (expected.0.len(), expected.1.len()));
    let pairs = got.0.iter().chain(&got.1).zip(expected.0.iter().chain(&expected.1));
    let mut worst = 0.0f64;
    for (got, expected) in pairs {
        let (got, expected) = (got.as_f64(), expected.as_f64());
        let ratio = (got - expected).abs() / (atol + rtol * expected.abs());
        if ratio.is_nan() {
            return f64::INFINITY;
        }
        worst = worst.max(ratio);
    }
    worst
}

fn exactly<T: Real>(got: &Output<T>, expected: &Output<T>) -> bool {
    got == expected
}

/// A state that forgets half a step: A = -ln 2, delta = 1.
#[test]
fn two_steps_by_hand() {
    let ln2 = std::f64::consts::LN_2;
    let case = Case {
        shape: ScanShape {
            l: 2,
            d_inner: 1,
            d_state: 1,
            x_dbl_stride: 2,
            b_offset: 0,
            c_offset: 1,
            xz_stride: 2,
            z_offset: 1,
        },
        u: vec![3.0, 4.0],
        delta: vec![1.0, 2.0],
        a: vec![-ln2],
        x_dbl: vec![5.0, 1.0, -1.0, 10.0],
        d: vec![100.0],
        xz: vec![f64::NAN, 0.0, f64::NAN, ln2],
        state: vec![8.0],
    };
    // h1 = 8/2 + 1*5*3 = 19; h2 = 19/4 + 2*(-1)*4 = -3.25. The gate: silu(0) = 0, silu(ln 2) = ln 2 * 2/3.
    let expected = (vec![0.0, (10.0 * -3.25 + 400.0) * ln2 * 2.0 / 3.0], vec![-3.25]);
    for (name, got) in [
        ("sequential", case.sequential()),
        ("blelloch", case.blelloch(2)),
        ("fused in chunks of 1", case.fused(1)),
        ("fused", case.fused(64)),
        ("steps", case.steps()),
    ] {
        assert!(worst(&got, &expected, 1e-14, 1e-14) <= 1.0, "{name}: {got:?}, expected {expected:?}");
    }
}

#[test]
fn no_positions_leave_the_state_alone() {
    let case = Case::random(0, 5, 4, 1, (0.1, 1.0));
    for (y, state) in [case.sequential(), case.blelloch(4), case.fused(4)] {
        assert!(y.is_empty());
        assert_eq!(state, case.state);
    }
}

#[test]
fn sizes_around_blocks_and_chunks() {
    for l in [1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 200] {
        for (d_inner, d_state) in [(1, 1), (5, 3), (9, 16), (3, 17), (2, 64)] {
            let case = Case::random(l, d_inner, d_state, l as u64, (1e-3, 2.0)).wide();
            let oracle = case.sequential();
            assert!(exactly(&case.steps(), &oracle), "steps, L {l}");
            for block in [2, 8, 32] {
                assert!(worst(&case.blelloch(block), &oracle, 1e-12, 1e-12) <= 1.0, "L {l}, block {block}");
            }
            for chunk in [1, 8, 32, 1000] {
                assert!(worst(&case.fused(chunk), &oracle, 1e-12, 1e-12) <= 1.0, "L {l}, chunk {chunk}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_rungs_agree(
        l in 0usize..150, d_inner in 1usize..20, d_state in 1usize..20, seed in any::<u64>(),
        log_block in 1u32..7, chunk in 1usize..160,
    ) {
        let case = Case::random(l, d_inner, d_state, seed, (1e-6, 20.0));
        let oracle = case.wide().sequential();
        prop_assert!(worst(&case.wide().blelloch(1 << log_block), &oracle, 1e-12, 1e-12) <= 1.0);
        prop_assert!(worst(&case.wide().fused(chunk), &oracle, 1e-12, 1e-12) <= 1.0);
        // mamba-ssm's own f32 tolerances are 6e-4 and 2e-3.
        for got in [case.sequential(), case.blelloch(1 << log_block), case.fused(chunk)] {
            prop_assert!(worst(&got, &oracle, 1e-4, 2e-5) <= 1.0);
        }
    }

    #[test]
    fn any_split_continues_from_the_state(
        l in 1usize..60, cut in 0usize..60, d_inner in 1usize..9, d_state in 1usize..20, seed in any::<u64>(),
    ) {
        let cut = cut.min(l);
        let case = Case::random(l, d_inner, d_state, seed, (1e-3, 1.0));
        let whole = case.sequential();
        let split = case.run(|y, h, input, shape| {
            let (first, second) = y.split_at_mut(cut * d_inner);
            scan_sequential(first, h, &ScanInput {
                u: &input.u[..cut * d_inner], delta: &input.delta[..cut * d_inner], ..*input
            }, &ScanShape { l: cut, ..*shape });
            scan_fused(second, h, &ScanInput {
                u: &input.u[cut * d_inner..],
                delta: &input.delta[cut * d_inner..],
                x_dbl: &input.x_dbl[cut * shape.x_dbl_stride..],
                xz: &input.xz[cut * shape.xz_stride..],
                ..*input
            }, &ScanShape { l: l - cut, ..*shape }, l);
        });
        // One chunk of the fused scan is the sequential one.
        prop_assert!(exactly(&split, &whole));
        prop_assert!(exactly(&case.steps(), &whole));
    }
}

/// Long sequences with step sizes from 1e-6 (everything is remembered) to 20 (everything is forgotten), in f32.
///
/// When every step is 1e-6, exp(delta A) is a few units in the last place below 1: its rounding, the same at each step, is
/// worth 3e-8 L of the state. That is the tolerance there; mamba-ssm's is 2e-3 absolute.
#[test]
fn extreme_delta_over_a_long_sequence() {
    for (range, atol) in [((1e-6, 1e-6), 5e-4), ((1e-6, 20.0), 2e-5), ((20.0, 20.0), 2e-5)] {
        let case = Case::random(8192, 4, 16, 3, range);
        let oracle = case.wide().sequential();
        for (name, got) in
            [("sequential", case.sequential()), ("blelloch", case.blelloch(256)), ("fused", case.fused(64))]
        {
            let worst = worst(&got, &oracle, 1e-4, atol);
            assert!(worst <= 1.0, "{name}, delta {range:?}: {worst}");
        }
    }
}

/// The comparison has to notice one wrong number and NaN.
#[test]
fn a_perturbed_output_and_nan_are_noticed() {
    let case = Case::random(70, 6, 16, 9, (1e-3, 1.0));
    let oracle = case.wide().sequential();
    let good = case.fused(8);
    assert!(worst(&good, &oracle, 1e-4, 2e-5) <= 1.0);
    for poison in [1e-3, f32::NAN] {
        for i in [0, 70 * 6 - 1] {
            let mut bad = good.clone();
            bad.0[i] += poison;
            assert!(worst(&bad, &oracle, 1e-4, 2e-5) > 1.0);
        }
        let mut bad = good.clone();
        bad.1[17] += poison;
        assert!(worst(&bad, &oracle, 1e-4, 2e-5) > 1.0);
    }
    // An input that is off by one position is noticed as well, and NaN in an input reaches the outputs after it only.
    let mut shifted = case.clone();
    shifted.delta.rotate_left(6);
    assert!(worst(&shifted.fused(8), &oracle, 1e-4, 2e-5) > 1.0);
    let mut poisoned = case.clone();
    poisoned.delta[30 * 6 + 2] = f32::NAN;
    for (y, state) in [poisoned.sequential(), poisoned.blelloch(16), poisoned.fused(16)] {
        for (i, y) in y.iter().enumerate() {
            assert_eq!(y.is_nan(), i % 6 == 2 && i / 6 >= 30, "{i}");
        }
        assert!(state[2 * 16..3 * 16].iter().all(|h| h.is_nan()));
        assert!(state[..2 * 16].iter().all(|h| h.is_finite()));
    }
}

/// Enough work that it is shared between threads: the same bits as for each channel alone.
#[test]
fn threads_do_not_change_a_bit() {
    let case = Case::random(64, 96, 16, 5, (1e-3, 1.0));
    let single = rayon_free(&case);
    assert!(exactly(&case.sequential(), &single));
}

/// The scan by a single loop over channels with the sums in the twins' order.
fn rayon_free(case: &Case<f32>) -> Output<f32> {
    let shape = case.shape;
    let mut y = vec![0.0; shape.l * shape.d_inner];
    let mut state = case.state.clone();
    for d in 0..shape.d_inner {
        let column = |x: &[f32], stride: usize, offset: usize| -> Vec<f32> {
            (0..shape.l).map(|t| x[t * stride + offset]).collect()
        };
        let states = d * shape.d_state..(d + 1) * shape.d_state;
        let one = Case {
            shape: ScanShape { d_inner: 1, xz_stride: 1, z_offset: 0, ..shape },
            u: column(&case.u, shape.d_inner, d),
            delta: column(&case.delta, shape.d_inner, d),
            a: case.a[states.clone()].to_vec(),
            x_dbl: case.x_dbl.clone(),
            d: vec![case.d[d]],
            xz: column(&case.xz, shape.xz_stride, shape.z_offset + d),
            state: case.state[states.clone()].to_vec(),
        };
        let (column, end) = one.sequential();
        for (t, value) in column.into_iter().enumerate() {
            y[t * shape.d_inner + d] = value;
        }
        state[states].copy_from_slice(&end);
    }
    (y, state)
}
