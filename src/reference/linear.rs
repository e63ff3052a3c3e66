//! Twins of `shaders/matmul.wgsl` (prefill, tiled) and `shaders/matvec.wgsl` (decode).
//!
//! y = epilogue(x W^T + bias), W (n, k) as checkpoints store it: both operands of every dot product are contiguous. A dot
//! product is summed in eight interleaved partial sums ([`Real::dots`]), one vector register; matmul and matvec sum in the
//! same order and agree to the last bit.

use super::{discretise::softplus, par, Quantised, Real};
use std::ops::Range;

/// Rows of W that one thread takes at a time: W's block then stays in the second-level cache while all of x passes.
const BLOCK_N: usize = 64;

/// The shape of a linear layer's call: y (l, n) = x (l, k) W (n, k)^T, rows of x and y `x_stride` and `y_stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Rows of x and y: positions.
    pub l: usize,
    /// Columns of x and W: inputs.
    pub k: usize,
    /// Columns of y, rows of W: outputs.
    pub n: usize,
    /// Elements from one row of x to the next.
    pub x_stride: usize,
    /// Elements from one row of y to the next.
    pub y_stride: usize,
}

impl Linear {
    /// Rows without gaps.
    pub fn dense(l: usize, k: usize, n: usize) -> Self {
        Self { l, k, n, x_stride: k, y_stride: n }
    }
}

/// The weight matrix (n, k) of a linear layer or an embedding.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a, T> {
    /// Row-major.
    Plain(&'a [T]),
    /// Its rows, of a matrix that may have more of them, are made as they are used: a block of them serves all of x while it is in the
    /// cache.
    Quantised { of: &'a Quantised, first: usize, n: usize },
}

impl<'a, T> From<&'a [T]> for Weights<'a, T> {
    fn from(w: &'a [T]) -> Self {
        Weights::Plain(w)
    }
}
impl<'a, T> From<&'a Vec<T>> for Weights<'a, T> {
    fn from(w: &'a Vec<T>) -> Self {
        Weights::Plain(w)
    }
}
impl<'a, T, const N: usize> From<&'a [T; N]> for Weights<'a, T> {
    fn from(w: &'a [T; N]) -> Self {
        Weights::Plain(w)
    }
}

impl<'a, T: Real> Weights<'a, T> {
    /// Whether it has n rows of k.
    pub(super) fn is(&self, n: usize, k: usize) -> bool {
        match self {
            Weights::Plain(w) => w.len() == n * k,
            Weights::Quantised { of, n: rows, .. } => of.k == k && *rows == n,
        }
    }

    /// Those of its rows of k as a matrix.
    pub fn part(self, rows: Range<usize>, k: usize) -> Self {
        match self {
            Weights::Plain(w) => Weights::Plain(&w[rows.start * k..rows.end * k]),
            Weights::Quantised { of, first, .. } => Weights::Quantised { of, first: first + rows.start, n: rows.len() },
        }
    }

    /// Some rows of k, one after the other; made in `room` unless they lie in memory.
    pub(super) fn rows<'s>(&'s self, rows: Range<usize>, k: usize, room: &'s mut Vec<T>) -> &'s [T] {
        match self {
            Weights::Plain(w) => &w[rows.start * k..rows.end * k],
            Weights::Quantised { of, first, .. } => {
                room.resize(rows.len() * k, T::zero());
                of.rows(first + rows.start..first + rows.end, room);
                room
            }
        }
    }
}

/// What happens to x W^T + bias on its way to y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// y = it.
    None,
    /// y = softplus(it): delta.
    Softplus,
    /// y += it: the residual stream.
    Add,
}

/// `y[t, j] = epilogue(sum_i x[t, i] w[j, i] + bias[j])`.
///
/// `y` (l, n) with rows `y_stride` apart, `x` (l, k) with rows `x_stride` apart (both starting at the first element; the
/// last row may end with its last column), `w` (n, k), `bias` (n). Columns of y beyond n are left alone.
pub fn matmul<'a, T: Real>(
    y: &mut [T],
    x: &[T],
    w: impl Into<Weights<'a, T>>,
    bias: Option<&[T]>,
    shape: &Linear,
    epilogue: Epilogue,
) {
    let w = w.into();
    let &Linear { l, k, n, x_stride, y_stride } = shape;
    if l == 0 || n == 0 {
        return;
    }
    check(y, x, w, bias, shape);
    let rows = (l - 1) * y_stride + n;
    let mut blocks = par::column_blocks(&mut y[..rows], y_stride, n, BLOCK_N);
    let each = if par::piece(blocks.len(), 1, l * n * k) == blocks.len() { blocks.len() } else { 1 };
    par::chunks_mut(&mut blocks, each, |i, blocks| {
        let mut room = Vec::new();
        for (j, y) in blocks.iter_mut().enumerate() {
            let j = (i * each + j) * BLOCK_N;
            let width = y[0].len();
            let bias = bias.map(|bias| &bias[j..j + width]);
            block(y, x, x_stride, w.rows(j..j + width, k, &mut room), bias, k, epilogue);
        }
    });
}

/// [`matmul`] for one row (l = 1, as in decoding): the rows of W are shared out over the threads, nothing is allocated
/// (but a few rows' room for a W that is quantised).
pub fn matvec<'a, T: Real>(
    y: &mut [T],
    x: &[T],
    w: impl Into<Weights<'a, T>>,
    bias: Option<&[T]>,
    shape: &Linear,
    epilogue: Epilogue,
) {
    let w = w.into();
    let &Linear { l, k, n, .. } = shape;
    debug_assert_eq!(l, 1);
    check(y, x, w, bias, shape);
    // Four multiply-adds count as one: a vector register does eight at once, but W has to come from memory.
    let size = par::piece(n, 4, n * k / 4);
    // Made rows are few enough to stay in the first-level cache until they are used.
    let rows = if matches!(w, Weights::Plain(_)) { size } else { 4 };
    par::chunks_mut(&mut y[..n], size, |i, y| {
        let mut room = Vec::new();
        for (j, y) in y.chunks_mut(rows).enumerate() {
            let j = i * size + j * rows;
            let width = y.len();
            let bias = bias.map(|bias| &bias[j..j + width]);
            block(&mut [y], x, k, w.rows(j..j + width, k, &mut room), bias, k, epilogue);
        }
    });
}

fn check<T: Real>(y: &[T], x: &[T], w: Weights<'_, T>, bias: Option<&[T]>, shape: &Linear) {
    let &Linear { l, k, n, x_stride, y_stride } = shape;
    debug_assert!(x_stride >= k && y_stride >= n, "{shape:?}");
    debug_assert!(l == 0 || x.len() >= (l - 1) * x_stride + k, "x: {} for {shape:?}", x.len());
    debug_assert!(l == 0 || y.len() >= (l - 1) * y_stride + n, "y: {} for {shape:?}", y.len());
    debug_assert!(w.is(n, k), "w for {shape:?}");
    debug_assert!(bias.is_none_or(|bias| bias.len() == n), "bias for {shape:?}");
}

/// A block of y: `y[t]` is row t's columns, `w` their rows of W. Tiles of 4 x 2 elements of y (1 x 4 for rows left over), so
/// that each loaded vector serves several dot products.
fn block<T: Real>(
    y: &mut [&mut [T]],
    x: &[T],
    x_stride: usize,
    w: &[T],
    bias: Option<&[T]>,
    k: usize,
    epilogue: Epilogue,
) {
    let width = y[0].len();
    let x_row = |t: usize| &x[t * x_stride..t * x_stride + k];
    let w_row = |j: usize| &w[j * k..(j + 1) * k];
    let put = |y: &mut T, j: usize, sum: T| {
        let sum = sum + bias.map_or(T::zero(), |bias| bias[j]);
        match epilogue {
            Epilogue::None => *y = sum,
            Epilogue::Softplus => *y = softplus(sum),
            Epilogue::Add => *y += sum,
        }
    };
    let mut t = 0;
    while t + 4 <= y.len() {
        let xs = [x_row(t), x_row(t + 1), x_row(t + 2), x_row(t + 3)];
        let mut j = 0;
        while j + 2 <= width {
            let sums = T::dots(xs, [w_row(j), w_row(j + 1)]);
            for (dt, sums) in sums.into_iter().enumerate() {
                put(&mut y[t + dt][j], j, sums[0]);
                put(&mut y[t + dt][j + 1], j + 1, sums[1]);
            }
            j += 2;
        }
        if j < width {
            let sums = T::dots(xs, [w_row(j)]);
            for (dt, [sum]) in sums.into_iter().enumerate() {
                put(&mut y[t + dt][j], j, sum);
            }
        }
        t += 4;
    }
    while t < y.len() {
        let xs = [x_row(t)];
        let mut j = 0;
        while j + 4 <= width {
            let ws = [w_row(j), w_row(j + 1), w_row(j + 2), w_row(j + 3)];
            let [sums] = T::dots(xs, ws);
            for (dj, sum) in sums.into_iter().enumerate() {
                put(&mut y[t][j + dj], j + dj, sum);
            }
            j += 4;
        }
        while j < width {
            let [[sum]] = T::dots(xs, [w_row(j)]);
            put(&mut y[t][j], j, sum);
            j += 1;
        }
        t += 1;
    }
}

/// The dot product of two slices of one length.
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    debug_assert_eq!(a.len(), b.len());
    let [[sum]] = T::dots([a], [b]);
    sum
}

#[cfg(test)]
mod tests {
    use super::super::Quant;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_hand_with_strides_bias_and_every_epilogue() {
        // x rows [1 2], [3 4] in a stride of 3; w rows [1 10], [-100 0]; y in a stride of 4.
        let x = [1.0f64, 2.0, f64::NAN, 3.0, 4.0];
        let w = [1.0, 10.0, -100.0, 0.0];
        let shape = Linear { l: 2, k: 2, n: 2, x_stride: 3, y_stride: 4 };
        let mut y = [7.0; 6];
        matmul(&mut y, &x, &w, Some(&[0.5, 0.0]), &shape, Epilogue::None);
        assert_eq!(y, [21.5, -100.0, 7.0, 7.0, 43.5, -300.0]);
        matmul(&mut y, &x, &w, None, &shape, Epilogue::Add);
        assert_eq!(y, [42.5, -200.0, 7.0, 7.0, 86.5, -600.0]);
        matmul(&mut y, &x, &w, None, &shape, Epilogue::Softplus);
        assert_eq!(y, [21.0, (-100.0f64).exp().ln_1p(), 7.0, 7.0, 43.0, (-300.0f64).exp().ln_1p()]);
        let mut y = [1.0; 2];
        matvec(&mut y, &x[..2], &w, Some(&[0.5, 0.0]), &Linear::dense(1, 2, 2), Epilogue::Add);
        assert_eq!(y, [22.5, -99.0]);
        matmul(&mut [], &[], &w, None, &Linear::dense(0, 2, 2), Epilogue::None);
    }

    fn naive(x: &[f32], w: &[f32], shape: &Linear) -> Vec<f64> {
        let mut y = vec![];
        for t in 0..shape.l {
            for j in 0..shape.n {
                let terms = (0..shape.k).map(|i| f64::from(x[t * shape.x_stride + i]) * f64::from(w[j * shape.k + i]));
                y.push(terms.sum());
            }
        }
        y
    }

    fn numbers(len: usize, salt: u64) -> Vec<f32> {
        (0..len).map(|i| super::super::uniform(salt, i as u32) * 2.0 - 1.0).collect()
    }

    proptest! {
        #[test]
        fn matches_the_double_loop(l in 1usize..10, k in 1usize..70, n in 1usize..140, gap in 0usize..3) {
            let shape = Linear { l, k, n, x_stride: k + gap, y_stride: n };
            let (x, w) = (numbers(l * (k + gap), 1), numbers(n * k, 2));
            let expected = naive(&x, &w, &shape);
            let mut y = vec![f32::NAN; l * n];
            matmul(&mut y, &x, &w, None, &shape, Epilogue::None);
            for (got, expected) in y.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - expected).abs() < 1e-5 * (k as f64).sqrt());
            }
            // The decode path gives the same bits.
            let mut row = vec![f32::NAN; n];
            for t in 0..l {
                let x = &x[t * shape.x_stride..][..k];
                matvec(&mut row, x, &w, None, &Linear::dense(1, k, n), Epilogue::None);
                prop_assert_eq!(&row[..], &y[t * n..(t + 1) * n]);
            }
        }
    }

    /// Quantised or written out: the same bits.
    #[test]
    fn quantised_rows_are_made_as_they_are_used() {
        for quant in Quant::ALL {
            for (l, k, n) in [(1, 33, 7), (5, 64, 130), (3, 300, 515)] {
                let (x, bias) = (numbers(l * k, 5), numbers(n, 7));
                let w = Quantised::new(quant, k, &numbers(n * k, 6));
                let (plain, shape) = (w.values::<f32>(), Linear::dense(l, k, n));
                let (mut got, mut want) = (vec![f32::NAN; l * n], vec![f32::NAN; l * n]);
                let linear = if l == 1 { matvec::<f32> } else { matmul::<f32> };
                linear(&mut want, &x, Weights::Plain(&plain), Some(&bias), &shape, Epilogue::None);
                linear(&mut got, &x, Weights::from(&w), Some(&bias), &shape, Epilogue::None);
                assert_eq!(got, want, "{quant:?} {shape:?}");
                // Some of its rows.
                let (some, shape) = (n / 3..n - 1, Linear::dense(l, k, n - 1 - n / 3));
                let mut part = vec![f32::NAN; l * shape.n];
                let weights = Weights::from(&w).part(some.clone(), k);
                linear(&mut part, &x, weights, Some(&bias[some.clone()]), &shape, Epilogue::None);
                for (part, whole) in part.chunks(shape.n).zip(want.chunks(n)) {
                    assert_eq!(part, &whole[some.clone()]);
                }
            }
        }
    }

    #[test]
    fn large_shapes_over_threads_and_a_nan_stays_in_its_row_and_column() {
        let shape = Linear::dense(33, 128, 515);
        let (x, mut w) = (numbers(33 * 128, 3), numbers(515 * 128, 4));
        let expected = naive(&x, &w, &shape);
        w[514 * 128 + 5] = f32::NAN;
        let mut y = vec![0.0f32; 33 * 515];
        matmul(&mut y, &x, &w, None, &shape, Epilogue::None);
        for (i, (got, expected)) in y.iter().zip(&expected).enumerate() {
            if i % 515 == 514 {
                assert!(got.is_nan());
            } else {
                assert!((f64::from(*got) - expected).abs() < 1e-4, "{i}");
            }
        }
    }
}
