use super::*;
use crate::reference::uniform;
use proptest::prelude::*;

/// Everything the recurrence reads, random; rows of zxbcdt and xbc wider than need be.
struct Case {
    shape: SsdShape,
    zxbcdt: Vec<f64>,
    xbc: Vec<f64>,
    dt_bias: Vec<f64>,
    a: Vec<f64>,
    d: Vec<f64>,
    state: Vec<f64>,
}

impl Case {
    fn new(l: usize, (heads, head_dim): (usize, usize), d_state: usize, groups: usize, seed: u64) -> Self {
        let dense = SsdShape::of_layer(l, (heads, head_dim), d_state, groups);
        let shape = SsdShape {
            xbc_stride: dense.xbc_stride + 3,
            x_offset: 1,
            b_offset: dense.b_offset + 1,
            c_offset: dense.c_offset + 2,
            zxbcdt_stride: dense.zxbcdt_stride + 2,
            dt_offset: dense.dt_offset + 2,
            dt_limit: (1e-3, 2.0),
            d_has_hdim: seed % 2 == 1,
            ..dense
        };
        let numbers = |len: usize, salt: u64, low: f64, high: f64| -> Vec<f64> {
            (0..len).map(|i| low + (high - low) * f64::from(uniform(seed * 16 + salt, i as u32))).collect()
        };
        let d = if shape.d_has_hdim { shape.d_inner() } else { heads };
        Self {
            zxbcdt: numbers(l * shape.zxbcdt_stride, 1, -4.0, 4.0),
            xbc: numbers(l * shape.xbc_stride, 2, -1.0, 1.0),
            dt_bias: numbers(heads, 3, -2.0, 2.0),
            a: numbers(heads, 4, -8.0, -0.05),
            d: numbers(d, 5, -1.0, 1.0),
            state: numbers(shape.state_len(), 6, -1.0, 1.0),
            shape,
        }
    }

    fn input(&self) -> SsdInput<'_, f64> {
        SsdInput { xbc: &self.xbc, a: &self.a, d: &self.d }
    }

    /// y, and the state after it, of positions t0..t1 from a state.
    fn run(&self, t0: usize, t1: usize, state: &[f64], chunk: Option<usize>) -> (Vec<f64>, Vec<f64>) {
        let s = SsdShape { l: t1 - t0, ..self.shape };
        let zxbcdt = &self.zxbcdt[t0 * s.zxbcdt_stride..t1 * s.zxbcdt_stride];
        let input = SsdInput { xbc: &self.xbc[t0 * s.xbc_stride..t1 * s.xbc_stride], ..self.input() };
        let (mut y, mut state) = (vec![f64::NAN; s.l * s.d_inner()], state.to_vec());
        match chunk {
            Some(chunk) => ssd_chunked(&mut y, &mut state, (zxbcdt, &self.dt_bias), &input, &s, chunk),
            None => {
                let mut delta = vec![f64::NAN; s.l * s.heads];
                ssd_delta(&mut delta, zxbcdt, &self.dt_bias, &s);
                ssd_sequential(&mut y, &mut state, &delta, &input, &s);
            }
        }
        (y, state)
    }
}

fn near(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-12 * (1.0 + b.abs()))
}

#[test]
fn by_hand() {
    // Two heads of one channel in one group, two states; delta comes out as its lower limit, 0.5, and its upper one, 2.
    let dense = SsdShape::of_layer(2, (2, 1), 2, 1);
    let s = SsdShape { dt_limit: (0.5, 2.0), ..dense };
    assert_eq!((s.xbc_stride, s.b_offset, s.c_offset), (6, 2, 4));
    assert_eq!((s.zxbcdt_stride, s.dt_offset, s.channels(), s.state_len()), (10, 8, 6, 4));
    let mut zxbcdt = [0.0; 20];
    zxbcdt[8..10].copy_from_slice(&[-9.0, 8.0]);
    zxbcdt[18..20].copy_from_slice(&[-9.0, 8.0]);
    let mut delta = [0.0; 4];
    ssd_delta(&mut delta, &zxbcdt, &[-1.0, 1.0], &s);
    assert_eq!(delta, [0.5, 2.0, 0.5, 2.0]);
    let xbc = [1.0, 10.0, 1.0, 2.0, 1.0, 0.0, /* */ 4.0, 20.0, 1.0, 0.0, 1.0, 1.0];
    let input = SsdInput { xbc: &xbc, a: &[0.0, -f64::ln(2.0) / 2.0], d: &[100.0, 0.0] };
    let (mut y, mut state) = ([0.0; 4], [0.0, 0.0, 8.0, 0.0]);
    ssd_sequential(&mut y, &mut state, &delta, &input, &s);
    // Head 0 keeps all: S = 0.5 [1, 2], then + 2 [1, 0]. Head 1 keeps half: S = [4, 0] + 20 [1, 2], then half of it +
    // 40 [1, 0].
    let close = |got: &[f64], want: &[f64]| assert!(near(got, want), "{got:?} {want:?}");
    close(&y, &[0.5 + 100.0, 24.0, 3.5 + 400.0, 52.0 + 20.0]);
    close(&state, &[2.5, 1.0, 52.0, 20.0]);
}

#[test]
fn heads_read_their_own_group() {
    let case = Case::new(5, (6, 2), 3, 3, 4);
    let mut other = Case::new(5, (6, 2), 3, 3, 4);
    for t in 0..5 {
        other.xbc[t * case.shape.xbc_stride + case.shape.b_offset + 3] += 1.0; // B of group 1
    }
    let ((y, _), (changed, _)) = (case.run(0, 5, &case.state, None), other.run(0, 5, &case.state, None));
    for (i, (y, changed)) in y.iter().zip(&changed).enumerate() {
        let head = i / 2 % 6;
        assert_eq!(y != changed, head / 2 == 1, "head {head}");
    }
}

#[test]
fn nan_stays_nan_and_a_perturbed_input_is_seen() {
    let mut case = Case::new(9, (2, 3), 4, 1, 2);
    let before = case.run(0, 9, &case.state, None);
    for chunk in [None, Some(4)] {
        let at = 6 * case.shape.zxbcdt_stride + case.shape.dt_offset;
        let old = std::mem::replace(&mut case.zxbcdt[at], f64::NAN);
        let (y, state) = case.run(0, 9, &case.state, chunk);
        assert!(y[6 * 6].is_nan() && state[0].is_nan() && !state[12].is_nan());
        case.zxbcdt[at] = old;
    }
    case.xbc[3 * case.shape.xbc_stride + case.shape.x_offset] += 1e-6;
    assert!(!near(&case.run(0, 9, &case.state, None).0, &before.0));
    assert!(!near(&case.run(0, 9, &case.state, Some(4)).0, &before.0));
}

#[test]
fn f32_follows_f64_over_threads() {
    let case = Case::new(300, (6, 16), 32, 2, 3);
    let (want, want_state) = case.run(0, 300, &case.state, None);
    let narrow = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
    let (zxbcdt, xbc, bias) = (narrow(&case.zxbcdt), narrow(&case.xbc), narrow(&case.dt_bias));
    let (a, d, mut state) = (narrow(&case.a), narrow(&case.d), narrow(&case.state));
    let (mut delta, mut y) = (vec![0.0; 300 * 6], vec![0.0f32; want.len()]);
    ssd_delta(&mut delta, &zxbcdt, &bias, &case.shape);
    ssd_sequential(&mut y, &mut state, &delta, &SsdInput { xbc: &xbc, a: &a, d: &d }, &case.shape);
    for (got, want) in y.iter().chain(&state).zip(want.iter().chain(&want_state)) {
        assert!((f64::from(*got) - want).abs() < 2e-5 * (1.0 + want.abs()), "{got} {want}");
    }
}

proptest! {
    #[test]
    fn chunked_equals_sequential_and_any_split_the_whole(
        l in 0usize..150, cut in 0usize..150, groups in 1usize..4, per_group in 1usize..4,
        head_dim in 1usize..6, d_state in 1usize..7, seed in 0u64..1000,
    ) {
        let cut = cut.min(l);
        let case = Case::new(l, (groups * per_group, head_dim), d_state, groups, seed);
        let (y, state) = case.run(0, l, &case.state, None);
        for chunk in [None, Some(1), Some(7), Some(64)] {
            let whole = case.run(0, l, &case.state, chunk);
            prop_assert!(near(&whole.0, &y) && near(&whole.1, &state), "chunk {:?}", chunk);
            let (mut first, between) = case.run(0, cut, &case.state, chunk);
            let (rest, last) = case.run(cut, l, &between, chunk);
            first.extend(rest);
            prop_assert!(near(&first, &y) && near(&last, &state), "chunk {:?} cut at {}", chunk, cut);
        }
        // Token by token.
        let mut stepped = case.state.clone();
        for t in 0..l.min(20) {
            let s = SsdShape { l: 1, ..case.shape };
            let zxbcdt = &case.zxbcdt[t * s.zxbcdt_stride..][..s.zxbcdt_stride];
            let input = SsdInput { xbc: &case.xbc[t * s.xbc_stride..][..s.xbc_stride], ..case.input() };
            let mut row = vec![f64::NAN; s.d_inner()];
            ssd_state_update(&mut row, &mut stepped, (zxbcdt, &case.dt_bias), &input, false, &s);
            prop_assert_eq!(&row[..], &y[t * s.d_inner()..(t + 1) * s.d_inner()]);
            ssd_state_update(&mut row, &mut stepped.clone(), (zxbcdt, &case.dt_bias), &input, true, &s);
        }
    }
}
