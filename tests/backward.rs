//! Gradients: the twins against PyTorch's autograd in float64 (tests/golden/make_backward.py) and against finite differences
//! of the twins themselves.

mod common;

use common::assert_close;
use mamba_wgpu::reference::backward::*;
use mamba_wgpu::reference::{self, ConvShape, Epilogue, Linear, Real, ScanInput, ScanShape};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;

/// A golden file: its tensors widened to f64, and its sizes.
struct Golden {
    tensors: HashMap<String, Vec<f64>>,
    sizes: HashMap<String, String>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let path = common::repository("tests/golden/backward").join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let widen = |view: safetensors::tensor::TensorView| match view.dtype() {
            Dtype::F64 => view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F32 => {
                view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            Dtype::I32 => {
                view.data().chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            other => panic!("{name}: {other:?}"),
        };
        let tensors = file.iter().map(|(name, view)| (name.to_owned(), widen(view))).collect();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let sizes = header.metadata().as_ref().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Self { tensors, sizes }
    }

    fn get<T: Real>(&self, name: &str) -> Vec<T> {
        self.tensors[name].iter().map(|&x| T::from_f64(x)).collect()
    }
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
    fn size(&self, name: &str) -> usize {
        self.sizes[name].parse().unwrap()
    }
    fn tokens(&self, name: &str) -> Vec<u32> {
        self.tensors[name].iter().map(|&x| x as i32 as u32).collect()
    }

    /// Holds `got` against the tensor of this name: |got - want| <= tolerance (|want| + the largest |want|).
    #[track_caller]
    fn holds<T: Real>(&self, name: &str, got: &[T], tolerance: f64) {
        let want = &self.tensors[name];
        let got: Vec<f64> = got.iter().map(|x| x.as_f64()).collect();
        let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert_close(name, &got, want, tolerance * scale, tolerance);
    }
}

/// What an accumulated gradient starts from.
const BEFORE: f64 = 0.25;

fn before<T: Real>(n: usize) -> Vec<T> {
    vec![T::from_f64(BEFORE); n]
}

/// What was added to it.
fn added<T: Real>(x: Vec<T>) -> Vec<T> {
    x.into_iter().map(|x| x - T::from_f64(BEFORE)).collect()
}

fn linear<T: Real>(tolerance: f64) {
    let g = Golden::read("linear");
    let shape = Linear::dense(g.size("l"), g.size("k"), g.size("n"));
    let (x, w, grad_y): (Vec<T>, Vec<T>, Vec<T>) = (g.get("x"), g.get("w"), g.get("grad_y"));
    let mut y = vec![T::nan(); grad_y.len()];
    reference::matmul(&mut y, &x, &w, Some(&g.get::<T>("bias")), &shape, Epilogue::None);
    g.holds("y", &y, tolerance);
    let mut grad_x = vec![T::nan(); x.len()];
    matmul_grad_x(&mut grad_x, &grad_y, &w, &shape, false);
    g.holds("grad_x", &grad_x, tolerance);
    let mut grad_x = before(x.len());
    matmul_grad_x(&mut grad_x, &grad_y, &w, &shape, true);
    g.holds("grad_x", &added::<T>(grad_x), tolerance);
    let (mut grad_w, mut grad_bias) = (before(w.len()), before(shape.n));
    matmul_grad_w(&mut grad_w, &x, &grad_y, &shape);
    column_sums(&mut grad_bias, &grad_y, shape.l, shape.n);
    g.holds("grad_w", &added::<T>(grad_w), tolerance);
    g.holds("grad_bias", &added::<T>(grad_bias), tolerance);
}

fn norm<T: Real>(name: &str, tolerance: f64) {
    let g = Golden::read(name);
    let eps = T::from_f32(g.sizes["eps"].parse().unwrap());
    let (residual, hidden, weight): (Vec<T>, Vec<T>, Vec<T>) = (g.get("residual"), g.get("hidden"), g.get("weight"));
    let (mut y, mut sum) = (vec![T::nan(); residual.len()], vec![T::nan(); residual.len()]);
    rms_norm_train(&mut y, &mut sum, &residual, Some(&hidden), &weight, eps);
    g.holds("y", &y, tolerance);
    g.holds("sum", &sum, tolerance);
    let (mut grad_x, mut grad_weight) = (g.get::<T>("grad_sum"), before(weight.len()));
    rms_norm_backward(&mut grad_x, &mut grad_weight, &sum, &weight, &g.get::<T>("grad_y"), eps);
    g.holds("grad_residual", &grad_x, tolerance);
    g.holds("grad_hidden", &grad_x, tolerance);
    g.holds("grad_weight", &added::<T>(grad_weight), tolerance);
}

/// The goldens of cross_entropy, and what their labels are smoothed by.
const LOSSES: [(&str, f32); 2] = [("cross_entropy", 0.0), ("cross_entropy_smoothed", 0.125)];

fn loss<T: Real>(tolerance: f64) {
    for (name, label_smoothing) in LOSSES {
        let g = Golden::read(name);
        let shape = CrossEntropy { rows: g.size("rows"), vocab_size: g.size("vocab_size"), label_smoothing };
        let (mut logits, mut nll) = (g.get::<T>("logits"), vec![T::nan(); shape.rows]);
        cross_entropy(&mut logits, &mut nll, &g.tokens("targets"), g.get::<T>("scale")[0], shape);
        g.holds("nll", &nll, tolerance);
        g.holds("grad_logits", &logits, tolerance);
    }
}

fn embedding<T: Real>(tolerance: f64) {
    let g = Golden::read("embedding");
    let (tokens, d_model) = (g.tokens("tokens"), g.size("d_model"));
    let mut grad = before(g.size("vocab_size") * d_model);
    embedding_backward(&mut grad, &g.get::<T>("grad_residual"), &tokens, d_model);
    g.holds("grad_table", &added::<T>(grad), tolerance);
}

fn conv<T: Real>(name: &str, tolerance: f64) {
    let g = Golden::read(name);
    let (l, d_inner, d_conv) = (g.size("l"), g.size("d_inner"), g.size("d_conv"));
    let shape = ConvShape { l, d_inner, d_conv, x_stride: d_inner, x_offset: 0 };
    let (x, weight) = (g.get::<T>("x"), g.get::<T>("weight"));
    let bias = g.has("bias").then(|| g.get::<T>("bias"));
    let input = ConvInputs { xz: &x, weight: &weight, bias: bias.as_deref() };
    let mut u = vec![T::nan(); x.len()];
    conv1d_batch(&mut u, &input, &vec![T::zero(); g.size("batch") * d_conv * d_inner], &shape);
    g.holds("u", &u, tolerance);
    let (mut grad_x, mut grad_weight) = (vec![T::nan(); x.len()], before(weight.len()));
    let mut grad_bias = bias.as_ref().map(|b| before(b.len()));
    let mut grads = ConvGrads { xz: &mut grad_x, weight: &mut grad_weight, bias: grad_bias.as_deref_mut() };
    conv1d_backward(&mut grads, &g.get::<T>("grad_u"), &input, &shape);
    g.holds("grad_x", &grad_x, tolerance);
    g.holds("grad_weight", &added::<T>(grad_weight), tolerance);
    grad_bias.into_iter().for_each(|b| g.holds("grad_bias", &added::<T>(b), tolerance));
}

/// A scan as a layer has it: inputs before softplus and exponential, x_dbl as [dt | B | C] with a dt of one column.
struct Scan<T> {
    scan: TrainScan,
    u: Vec<T>,
    dt: Vec<T>,
    dt_bias: Vec<T>,
    a_log: Vec<T>,
    x_dbl: Vec<T>,
    d: Vec<T>,
    z: Vec<T>,
    h: Vec<T>,
}

/// x_dbl rows of one unused column, B and C.
fn join<T: Real>(b: &[T], c: &[T], d_state: usize) -> Vec<T> {
    b.chunks(d_state).zip(c.chunks(d_state)).flat_map(|(b, c)| [&[T::nan()], b, c].concat()).collect()
}

impl<T: Real> Scan<T> {
    fn read(g: &Golden) -> Self {
        let (d_inner, d_state, lti) = (g.size("d_inner"), g.size("d_state"), g.size("lti") == 1);
        let shape =
            ScanShape { xz_stride: d_inner, z_offset: 0, ..ScanShape::of_layer(g.size("l"), d_inner, d_state, 1) };
        Self {
            scan: TrainScan { batch: g.size("batch"), shape, lti },
            u: g.get("u"),
            dt: g.get("dt"),
            dt_bias: g.get("dt_bias"),
            a_log: g.get("a_log"),
            x_dbl: if lti { g.get("c") } else { join(&g.get("b"), &g.get("c"), d_state) },
            d: g.get("d"),
            z: g.get("z"),
            h: g.get("h"),
        }
    }

    /// delta and A.
    fn derived(&self) -> (Vec<T>, Vec<T>) {
        let bias = self.dt_bias.iter().cycle();
        let delta = self.dt.iter().zip(bias).map(|(&dt, &bias)| reference::softplus(dt + bias)).collect();
        let mut a = vec![T::nan(); self.a_log.len()];
        negative_exp(&mut a, &self.a_log);
        (delta, a)
    }

    /// y and the final states.
    fn forward(&self) -> (Vec<T>, Vec<T>) {
        let (delta, a) = self.derived();
        let (mut y, mut h) = (vec![T::nan(); self.u.len()], self.h.clone());
        let input = ScanInput { u: &self.u, delta: &delta, a: &a, x_dbl: &self.x_dbl, d: &self.d, xz: &self.z };
        scan_train(&mut y, &mut h, &input, &self.scan);
        (y, h)
    }

    /// The gradients in the order of [`Scan::inputs`], those accumulated less what they started from.
    fn backward(&self, grad_y: &[T], grad_last: &[T]) -> [Vec<T>; 8] {
        let (delta, a) = self.derived();
        let input = ScanInput { u: &self.u, delta: &delta, a: &a, x_dbl: &self.x_dbl, d: &self.d, xz: &self.z };
        let nan = |like: &[T]| vec![T::nan(); like.len()];
        let (mut u, mut dt, mut z) = (nan(&self.u), nan(&self.dt), nan(&self.z));
        let lti = self.scan.lti;
        let mut x_dbl = if lti { before(self.x_dbl.len()) } else { nan(&self.x_dbl) };
        let [mut a_log, mut d, mut dt_bias] = [&self.a_log, &self.d, &self.dt_bias].map(|v| before(v.len()));
        let mut state = grad_last.to_vec();
        let mut grads = ScanGrads {
            u: &mut u,
            dt: &mut dt,
            x_dbl: &mut x_dbl,
            xz: &mut z,
            a_log: &mut a_log,
            d: &mut d,
            dt_bias: &mut dt_bias,
            state: &mut state,
        };
        scan_backward(&mut grads, grad_y, &self.h, &input, &self.scan);
        let dt_bias = added(dt_bias);
        if lti {
            // delta has no time axis: what is added to it has its gradient.
            assert!(dt.iter().all(|x| x.is_nan()));
            dt = dt_bias.clone();
            x_dbl = added(x_dbl);
        }
        [u, dt, dt_bias, added(a_log), x_dbl, added(d), z, state]
    }

    fn inputs(&mut self) -> [&mut Vec<T>; 8] {
        let Self { u, dt, dt_bias, a_log, x_dbl, d, z, h, .. } = self;
        [u, dt, dt_bias, a_log, x_dbl, d, z, h]
    }
}

/// B or C of x_dbl.
fn columns<T: Real>(x_dbl: &[T], d_state: usize, first: usize) -> Vec<T> {
    x_dbl.chunks(1 + 2 * d_state).flat_map(|row| row[first..first + d_state].to_vec()).collect()
}

const SCANS: [&str; 4] = ["scan", "scan_state16", "scan_lti", "scan_lti_state16"];

fn scan<T: Real>(name: &str, tolerance: f64) {
    let g = Golden::read(name);
    let case = Scan::<T>::read(&g);
    let (y, last) = case.forward();
    g.holds("y", &y, tolerance);
    g.holds("last", &last, tolerance);
    let [u, dt, dt_bias, a_log, x_dbl, d, z, h] = case.backward(&g.get("grad_y"), &g.get("grad_last"));
    let others = [("u", u), ("dt", dt), ("dt_bias", dt_bias), ("a_log", a_log), ("d", d), ("z", z), ("h", h)];
    others.iter().for_each(|(what, got)| g.holds(&format!("grad_{what}"), got, tolerance));
    let n = case.scan.shape.d_state;
    if case.scan.lti {
        g.holds("grad_c", &x_dbl, tolerance);
    } else {
        assert!(x_dbl.iter().step_by(1 + 2 * n).all(|x| x.is_nan()), "{name}: dt's columns are not the scan's");
        g.holds("grad_b", &columns(&x_dbl, n, 1), tolerance);
        g.holds("grad_c", &columns(&x_dbl, n, 1 + n), tolerance);
    }
}

fn all<T: Real>(tolerance: f64) {
    linear::<T>(tolerance);
    norm::<T>("rms_norm", tolerance);
    norm::<T>("rms_norm_eps", tolerance);
    loss::<T>(tolerance);
    embedding::<T>(tolerance);
    conv::<T>("conv1d", tolerance);
    conv::<T>("conv1d_no_bias", tolerance);
    SCANS.iter().for_each(|name| scan::<T>(name, tolerance));
}

#[test]
fn twins_in_f64_equal_autograd() {
    all::<f64>(1e-12);
}

#[test]
fn twins_in_f32_are_near_autograd() {
    all::<f32>(2e-5);
}

/// The comparison fails with one wrong input, one NaN, and a wrong length.
#[test]
fn a_wrong_gradient_is_seen() {
    let g = Golden::read("scan");
    let fails = |case: Scan<f64>| {
        let [u, ..] = case.backward(&g.get("grad_y"), &g.get("grad_last"));
        std::panic::catch_unwind(|| g.holds("grad_u", &u, 1e-12)).is_err()
    };
    assert!(!fails(Scan::read(&g)));
    for change in [1e-6, f64::NAN] {
        for which in [0, 1, 2, 3, 4, 5, 6] {
            let mut case = Scan::read(&g);
            // In x_dbl, a value of B.
            case.inputs()[which][if which == 4 { 2 } else { 1 }] += change;
            // u enters its own gradient through nothing: the function is linear in it.
            assert_eq!(fails(case), which != 0, "input {which}, {change}");
        }
    }
    assert!(std::panic::catch_unwind(|| g.holds("grad_u", &[0.0f64], 1e9)).is_err());
}

/// Central differences of `f` at every place of `x`, against `grad`.
#[track_caller]
fn finite<const N: usize>(what: &str, x: &mut [f64], grad: &[f64], mut f: impl FnMut(&[f64]) -> [f64; N]) {
    const STEP: f64 = 1e-5;
    let slopes: Vec<f64> = (0..x.len())
        .map(|i| {
            let at = x[i];
            let mut value = |step: f64| {
                x[i] = at + step;
                f(x).iter().sum::<f64>()
            };
            let slope = (value(STEP) - value(-STEP)) / (2.0 * STEP);
            x[i] = at;
            slope
        })
        .collect();
    assert_close(what, &slopes, grad, 2e-8, 2e-7);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn twins_equal_their_finite_differences() {
    for name in SCANS {
        let g = Golden::read(name);
        let (grad_y, grad_last) = (g.get::<f64>("grad_y"), g.get::<f64>("grad_last"));
        let mut case = Scan::<f64>::read(&g);
        let grads = case.backward(&grad_y, &grad_last);
        for (which, grad) in grads.iter().enumerate() {
            let x = case.inputs()[which].clone();
            // The column of dt in x_dbl is not read.
            let (joined, width) = (which == 4 && !case.scan.lti, 1 + 2 * case.scan.shape.d_state);
            for i in (0..x.len()).filter(|i| !joined || i % width > 0).step_by(3) {
                let mut one = [x[i]];
                finite(&format!("{name}, input {which} at {i}"), &mut one, &grad[i..=i], |v| {
                    case.inputs()[which][i] = v[0];
                    let (y, last) = case.forward();
                    [dot(&y, &grad_y), dot(&last, &grad_last)]
                });
                case.inputs()[which][i] = x[i];
            }
        }
    }
    for name in ["conv1d", "conv1d_no_bias"] {
        let g = Golden::read(name);
        let (l, d_inner, d_conv) = (g.size("l"), g.size("d_inner"), g.size("d_conv"));
        let shape = ConvShape { l, d_inner, d_conv, x_stride: d_inner, x_offset: 0 };
        let (mut x, mut weight, grad_u) = (g.get::<f64>("x"), g.get::<f64>("weight"), g.get::<f64>("grad_u"));
        let bias = g.has("bias").then(|| g.get::<f64>("bias"));
        let state = vec![0.0; g.size("batch") * d_conv * d_inner];
        let loss = |xz: &[f64], weight: &[f64]| {
            let mut u = vec![0.0; xz.len()];
            conv1d_batch(&mut u, &ConvInputs { xz, weight, bias: bias.as_deref() }, &state, &shape);
            [dot(&u, &grad_u)]
        };
        let fixed = weight.clone();
        finite(&format!("{name} x"), &mut x, &g.get::<f64>("grad_x"), |x| loss(x, &fixed));
        finite(&format!("{name} weight"), &mut weight, &g.get::<f64>("grad_weight"), |w| loss(&x, w));
    }
    for (name, label_smoothing) in LOSSES {
        let g = Golden::read(name);
        let (targets, scale) = (g.tokens("targets"), g.get::<f64>("scale")[0]);
        let shape = CrossEntropy { rows: targets.len(), vocab_size: g.size("vocab_size"), label_smoothing };
        let loss = |x: &[f64]| {
            let mut nll = vec![0.0; targets.len()];
            cross_entropy(&mut x.to_vec(), &mut nll, &targets, scale, shape);
            [scale * nll.iter().sum::<f64>()]
        };
        finite("logits", &mut g.get::<f64>("logits"), &g.get::<f64>("grad_logits"), loss);
    }
}
