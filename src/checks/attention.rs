//! Attention over pages: rope_store, attention, attention_step with attention_join; and activate. Texts lie in slots
//! out of order and in pages out of order, and what of these is nobody's is NaN.

use super::data::{
    activations, close, equal, f64s, poisoned, poisoned_activations, read_activations, rounding, run, tensor,
    CheckError, Random,
};
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, GpuError, Tensor};
use crate::kernels::{self, HeadNorms, Pages, RopeBuffers, TokensOf, TEXT};
use crate::reference::{self, ActivateShape, Activation, AttentionShape, PAGE};

/// Heads of queries, of keys and values, columns of a head, window.
pub type AttentionSizes = (usize, usize, usize, usize);

/// A shape whose scores are far enough apart for a softmax to choose.
pub fn shape((heads, kv_heads, head_dim, window): AttentionSizes) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: 2.0 / (head_dim as f32).sqrt(), window }
}

/// Texts and the pages that they are in.
struct Paged {
    shape: AttentionShape,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Of each text the pages that it has, in order.
    pages: Vec<Vec<usize>>,
    table_stride: usize,
}

/// The slot of a text: every second one, last ones first.
fn slot_of(text: usize, texts: usize) -> usize {
    2 * (texts - 1 - text) + 1
}

impl Paged {
    /// Pages for texts of so many tokens, one page more than they need, and nothing in them.
    fn new(shape: AttentionShape, lengths: &[usize]) -> Self {
        let needed: Vec<usize> = lengths.iter().map(|l| l.div_ceil(PAGE)).collect();
        let (all, most) = (needed.iter().sum::<usize>() + 1, needed.iter().max().copied().unwrap_or(0));
        // Dealt out from the last one on, a page a text in turn.
        let mut free = (0..all).rev();
        let mut pages = vec![Vec::new(); lengths.len()];
        for n in 0..most {
            for (text, pages) in pages.iter_mut().enumerate().filter(|(text, _)| n < needed[*text]) {
                debug_assert!(pages.len() == n && text < lengths.len());
                pages.extend(free.next());
            }
        }
        let nothing = vec![f32::NAN; all * shape.page_len()];
        Self { shape, keys: nothing.clone(), values: nothing, pages, table_stride: most + 1 }
    }

    /// The same with random keys and values of all tokens.
    fn random(shape: AttentionShape, lengths: &[usize], random: &mut Random) -> Self {
        let mut paged = Self::new(shape, lengths);
        for (text, &l) in lengths.iter().enumerate() {
            let width = shape.kv_heads * shape.head_dim;
            let (k, v) = (random.vec(l * width, -1.5, 1.5), random.vec(l * width, -1.5, 1.5));
            let (mut keys, mut values) = (paged.of(text, &paged.keys), paged.of(text, &paged.values));
            let (mut to, mut to_values): (Vec<_>, Vec<_>) = keys
                .iter_mut()
                .zip(&mut values)
                .map(|(keys, values)| (keys.as_mut_slice(), values.as_mut_slice()))
                .unzip();
            reference::store_keys_values(&mut to, &mut to_values, &k, &v, 0, &shape);
            paged.put(text, &keys, &values);
        }
        paged
    }

    /// A text's pages, of keys or of values.
    fn of<F: Copy>(&self, text: usize, all: &[F]) -> Vec<Vec<F>> {
        let each = self.shape.page_len();
        self.pages[text].iter().map(|page| all[page * each..][..each].to_vec()).collect()
    }

    fn put(&mut self, text: usize, keys: &[Vec<f32>], values: &[Vec<f32>]) {
        let each = self.shape.page_len();
        for (&page, (k, v)) in self.pages[text].iter().zip(keys.iter().zip(values)) {
            self.keys[page * each..][..each].copy_from_slice(k);
            self.values[page * each..][..each].copy_from_slice(v);
        }
    }

    fn slots(&self) -> usize {
        2 * self.pages.len() + 1
    }

    /// The table of pages: what it says of slots that are nobody's, and past a text's last page, is far outside.
    fn table(&self) -> Vec<u32> {
        let mut table = vec![u32::MAX; self.slots() * self.table_stride];
        for (text, pages) in self.pages.iter().enumerate() {
            let row = &mut table[slot_of(text, self.pages.len()) * self.table_stride..];
            row.iter_mut().zip(pages).for_each(|(entry, &page)| *entry = page as u32);
        }
        table
    }

    /// On a device, with the texts' tokens before the step or chunk.
    fn on(&self, gpu: &Gpu, positions: &[usize]) -> Result<OnDevice, GpuError> {
        let row = |(text, &position): (usize, &usize)| [slot_of(text, positions.len()) as u32, 0, position as u32];
        let texts: Vec<u32> = positions.iter().enumerate().flat_map(row).collect();
        debug_assert_eq!(texts.len(), TEXT * positions.len());
        Ok(OnDevice {
            keys: tensor(gpu, &self.keys)?,
            values: tensor(gpu, &self.values)?,
            table: Tensor::new(gpu, "table", &self.table())?,
            texts: Tensor::new(gpu, "texts", &texts)?,
            table_stride: self.table_stride,
        })
    }

    /// Attention of l tokens of a text from `position` on, by the twin.
    fn want(&self, text: usize, q: &[f32], position: usize) -> Vec<f64> {
        let doubles = |all: &[f32]| self.of(text, all).iter().map(|page| f64s(page)).collect::<Vec<_>>();
        let (keys, values) = (doubles(&self.keys), doubles(&self.values));
        let keys: Vec<&[f64]> = keys.iter().map(Vec::as_slice).collect();
        let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        let mut out = vec![f64::NAN; q.len()];
        reference::attention(&mut out, &f64s(q), &keys, &values, position, &self.shape);
        out
    }
}

struct OnDevice {
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    texts: Tensor,
    table_stride: usize,
}

impl OnDevice {
    fn pages(&self) -> Pages<'_> {
        let OnDevice { keys, values, table, texts, table_stride } = self;
        Pages { keys, values, table, table_stride: *table_stride, texts }
    }
}

/// What is nobody's is NaN, on the device as in the twin; comparisons take it for a number.
fn named(got: Vec<f32>, want: Vec<f64>) -> (Vec<f32>, Vec<f64>) {
    let nobodys = |(got, want): (f32, f64)| if got.is_nan() && want.is_nan() { (0.0, 0.0) } else { (got, want) };
    got.into_iter().zip(want).map(nobodys).unzip()
}

/// A power of two: products with it are exact.
const VALUE_SCALE: f32 = 0.25;

/// rope_store of l tokens of one text, or of one token of each of several: where each stands. `norms`: of queries, of keys.
pub async fn rope_store(
    gpu: &Gpu,
    sizes: AttentionSizes,
    (rotary_dim, norms): (usize, (bool, bool)),
    (positions, l): (&[usize], usize),
    random: &mut Random,
) -> Result<(), CheckError> {
    let s = shape(sizes);
    let of = if positions.len() == 1 { TokensOf::OneText } else { TokensOf::EachText };
    let each = if of == TokensOf::OneText { l } else { 1 };
    let lengths: Vec<usize> = positions.iter().map(|position| position + each).collect();
    let mut want = Paged::new(s, &lengths);
    let rows = each * positions.len();
    let frequencies: Vec<f32> = (0..rotary_dim / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / rotary_dim as f32)).collect();
    let factor = 1.25;
    let (wide, narrow) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let mut row = |width: usize| random.vec(rows * width, -1.5, 1.5);
    let (q, k, v) = (row(wide), row(narrow), row(narrow));

    let on = want.on(gpu, positions)?;
    let rows_of = |x: &[f32], width: usize, t: usize| x[t * width..][..width].to_vec();
    let row = |t: usize| [rows_of(&q, wide, t), rows_of(&k, narrow, t), rows_of(&v, narrow, t)].concat();
    let (qkv, tq) = (tensor(gpu, &(0..rows).flat_map(row).collect::<Vec<_>>())?, poisoned(gpu, q.len())?);
    let rotations = tensor(gpu, &kernels::rotations(&frequencies, factor))?;
    let (of_queries, of_keys) = norms;
    let weights = random.vec(2 * s.head_dim, 0.5, 2.0);
    let normed = tensor(gpu, &weights)?;
    let norms = (of_queries || of_keys).then_some(HeadNorms { weights: &normed, of_queries, of_keys, eps: 1e-5 });
    let b = RopeBuffers { qkv: &qkv, q: &tq, norms, rotations: &rotations, rotary_dim };
    run(gpu, |plan| kernels::rope_store(plan, &b, &on.pages(), (rows, of), VALUE_SCALE, &s)).await?;

    let v: Vec<f32> = v.iter().map(|v| VALUE_SCALE * v).collect();
    // The twin's pages are of f32: a rounding, of values of up to 2.7, that the tolerance has room for.
    let (mut want_q, mut turned) = (f64s(&q), f64s(&k));
    let (of_q, of_k) = weights.split_at(s.head_dim);
    for (x, weight, on) in [(&mut want_q, of_q, of_queries), (&mut turned, of_k, of_keys)] {
        if on {
            let mut read = x.clone();
            reference::rms_norm(x, &mut read, None, Some(&f64s(weight)), 1e-5, s.head_dim);
        }
    }
    for (text, &position) in positions.iter().enumerate() {
        let part = |width: usize| text * each * width..(text + 1) * each * width;
        reference::rope(&mut want_q[part(wide)], (s.heads, s.head_dim), position, &frequencies, factor);
        reference::rope(&mut turned[part(narrow)], (s.kv_heads, s.head_dim), position, &frequencies, factor);
        let (mut keys, mut values) = (want.of(text, &want.keys), want.of(text, &want.values));
        let (mut to, mut to_values): (Vec<_>, Vec<_>) =
            keys.iter_mut().zip(&mut values).map(|(k, v)| (k.as_mut_slice(), v.as_mut_slice())).unzip();
        let turned: Vec<f32> = turned[part(narrow)].iter().map(|&x| x as f32).collect();
        reference::store_keys_values(&mut to, &mut to_values, &turned, &v[part(narrow)], position, &s);
        want.put(text, &keys, &values);
    }
    let what = format!("rope_store {sizes:?} rotary_dim {rotary_dim} norms {norms:?} at {positions:?} l {l}");
    // A norm sums squares, in another order.
    let relative = if norms.is_some() { 4e-6 } else { 1e-6 };
    close(&format!("{what}: q"), &tq.read(gpu).await?, &want_q, 1e-6, relative)?;
    let (got, wanted) = named(on.keys.read(gpu).await?, f64s(&want.keys));
    close(&format!("{what}: keys"), &got, &wanted, 1e-6, relative)?;
    let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
    equal(&format!("{what}: values"), &bits(&on.values.read::<f32>(gpu).await?), &bits(&want.values))
}

/// A chunk of l tokens of a text, from `position` on.
pub async fn attention(
    gpu: &Gpu,
    sizes: AttentionSizes,
    (position, l): (usize, usize),
    random: &mut Random,
) -> Result<(), CheckError> {
    let s = shape(sizes);
    let paged = Paged::random(s, &[position + l], random);
    let q = random.vec(l * s.heads * s.head_dim, -1.5, 1.5);
    let (on, tq, out) = (paged.on(gpu, &[position])?, tensor(gpu, &q)?, poisoned(gpu, q.len())?);
    run(gpu, |plan| kernels::attention(plan, (&tq, &out), &on.pages(), l, &s)).await?;
    let what = format!("attention {sizes:?} at {position} l {l}");
    close(&what, &out.read(gpu).await?, &paged.want(0, &q, position), ATOL, 0.0)
}

/// Of averages of values up to 1.5, by weights whose logarithms are up to 20.
const ATOL: f64 = 8e-6;

/// A token of each of several texts, which have so many before it.
pub async fn attention_step(
    gpu: &Gpu,
    sizes: AttentionSizes,
    positions: &[usize],
    random: &mut Random,
) -> Result<(), CheckError> {
    let s = shape(sizes);
    let lengths: Vec<usize> = positions.iter().map(|position| position + 1).collect();
    let paged = Paged::random(s, &lengths, random);
    let width = s.heads * s.head_dim;
    let q = random.vec(positions.len() * width, -1.5, 1.5);
    let (on, tq, out) = (paged.on(gpu, positions)?, tensor(gpu, &q)?, poisoned(gpu, q.len())?);
    run(gpu, |plan| kernels::attention_step(plan, (&tq, &out), &on.pages(), positions.len(), &s)).await?;
    let rows = positions.iter().zip(q.chunks(width)).enumerate();
    let want: Vec<f64> = rows.flat_map(|(text, (&position, q))| paged.want(text, q, position)).collect();
    close(&format!("attention_step {sizes:?} at {positions:?}"), &out.read(gpu).await?, &want, ATOL, 0.0)
}

/// scale_add by columns, of rows, and both.
pub async fn scale_add(gpu: &Gpu, (l, width): (usize, usize), random: &mut Random) -> Result<(), CheckError> {
    for (scales, adds) in [(true, false), (false, true), (true, true)] {
        let mut vec = |n: usize| random.vec(n, -2.0, 2.0);
        let (x, scale, added) = (vec(l * width), vec(width), vec(l * width));
        let mut want = f64s(&x);
        let (scale64, added64) = (f64s(&scale), f64s(&added));
        reference::scale_add(&mut want, scales.then_some(&scale64), adds.then_some(&added64), width);
        let (tx, ts, ta) = (tensor(gpu, &x)?, tensor(gpu, &scale)?, tensor(gpu, &added)?);
        let operands = (scales.then_some(&ts), adds.then_some(&ta));
        run(gpu, |plan| kernels::scale_add(plan, &tx, operands, (l, width))).await?;
        let what = format!("scale_add l {l} width {width} scale {scales} add {adds}");
        close(&what, &tx.read(gpu).await?, &want, 1e-6, 1e-6)?;
    }
    Ok(())
}

/// activate of columns of wider rows, those of the gate in the same rows.
pub async fn activate(
    gpu: &Gpu,
    f: Activation,
    (l, width): (usize, usize),
    gated: bool,
    (x_format, act): (NumberFormat, NumberFormat),
    random: &mut Random,
) -> Result<(), CheckError> {
    let stride = 2 * width + 3;
    let shape = ActivateShape { l, width, x: (stride, width + 2), gate: (stride, 1), gate_scale: 0.5, scale: 0.75 };
    let mut rows = random.vec(l * stride, -6.0, 6.0);
    // Where functions end: in nothing, or in x itself.
    let far = [-1e4, 1e4, -30.0, 30.0, -0.0, 0.0, -12.0, 12.0];
    rows.iter_mut().step_by(7).zip(far.iter().cycle()).for_each(|(x, far)| *x = *far);
    let (tx, rows) = activations(gpu, &rows, x_format)?;
    let rows = f64s(&rows);
    let mut want = vec![f64::NAN; l * width];
    reference::activate(&mut want, &rows, gated.then_some(&rows), f, &shape);
    // f16 holds no larger ones.
    let largest = if act == NumberFormat::F16 { 65504.0 } else { f64::MAX };
    want.iter_mut().for_each(|x| *x = x.clamp(-largest, largest));
    let out = poisoned_activations(gpu, want.len(), act)?;
    run(gpu, |plan| kernels::activate(plan, (&tx, gated.then_some(&tx)), &out, f, &shape)).await?;
    let what = format!("activate {f:?} l {l} width {width} gated {gated} {x_format:?} {act:?}");
    close(&what, &read_activations(gpu, &out).await?, &want, 2e-6, 4e-6 + rounding(act))
}
