//! A step of several texts at once: conv1d_update, selective_state_update, ssd_state_update over rows, and sampling, each text
//! against the twins by itself. Rows are for slots out of order, and slots that have no row must stay as they were.

use super::data::{close, equal, f64s, poisoned, run, tensor, CheckError, Random};
#[cfg(not(target_arch = "wasm32"))]
use super::sampling::near;
use super::scan::ScanCase;
#[cfg(not(target_arch = "wasm32"))]
use super::ssd::{SsdCase, SsdSizes};
use crate::gpu::{Gpu, GpuError, Tensor};
use crate::kernels::{self, ConvShape, ConvStep, ScanShape, StateUpdate, TEXT};
#[cfg(not(target_arch = "wasm32"))]
use crate::kernels::{Draw, SampleSlots};
#[cfg(not(target_arch = "wasm32"))]
use crate::kernels::{SsdBuffers, SsdShape};
use crate::reference::{self, ScanInput};
#[cfg(not(target_arch = "wasm32"))]
use crate::settings::SamplingParams;

/// Which slots so many rows are for, and how many slots there are: every second one, last ones first.
fn slots_of(rows: usize) -> (Vec<usize>, usize) {
    ((0..rows).rev().map(|row| 2 * row + 1).collect(), 2 * rows + 1)
}

/// The table of a step's texts, their logits one after the other by rows.
fn texts(gpu: &Gpu, slots: &[usize], vocab_size: usize) -> Result<Tensor, GpuError> {
    let rows = slots.iter().enumerate();
    let table: Vec<u32> = rows.flat_map(|(row, &slot)| [slot as u32, (row * vocab_size) as u32, 0]).collect();
    debug_assert_eq!(table.len(), TEXT * slots.len());
    Tensor::new(gpu, "texts", &table)
}

/// Values that a slot's state has, and what becomes of them.
struct Slots {
    each: usize,
    before: Vec<f32>,
    want: Vec<f64>,
}

impl Slots {
    fn random(slots: usize, each: usize, random: &mut Random) -> Self {
        let before = random.vec(slots * each, -1.0, 1.0);
        Self { each, want: f64s(&before), before }
    }

    fn slot(&mut self, slot: usize) -> &mut [f64] {
        &mut self.want[slot * self.each..][..self.each]
    }

    async fn check(&self, gpu: &Gpu, what: &str, rows: &[usize], got: &Tensor, atol: f64) -> Result<(), CheckError> {
        let got: Vec<f32> = got.read(gpu).await?;
        close(what, &got, &self.want, atol, 2e-5)?;
        let slots = self.before.len() / self.each.max(1);
        for slot in (0..slots).filter(|slot| !rows.contains(slot)) {
            let range = slot * self.each..(slot + 1) * self.each;
            equal(&format!("{what} of slot {slot}, which has no row"), &got[range.clone()], &self.before[range])?;
        }
        Ok(())
    }
}

/// conv1d_update with x in the columns from `x_offset` on.
pub async fn conv1d_update(
    gpu: &Gpu,
    n: usize,
    (d_inner, d_conv): (usize, usize),
    (x_offset, bias): (usize, bool),
    random: &mut Random,
) -> Result<(), CheckError> {
    let ((rows, slots), x_stride) = (slots_of(n), d_inner + x_offset + 3);
    let xz = random.vec(rows.len() * x_stride, -2.0, 2.0);
    let weight = random.vec(d_inner * d_conv, -1.0, 1.0);
    let b = bias.then(|| random.vec(d_inner, -1.0, 1.0));
    let mut state = Slots::random(slots, d_conv * d_inner, random);
    let (w64, b64, mut want) = (f64s(&weight), b.as_deref().map(f64s), f64s(&xz));
    let shape = ConvShape { l: 1, d_inner, d_conv, x_stride, x_offset };
    for (row, &slot) in rows.iter().enumerate() {
        let xz = &mut want[row * x_stride..][..x_stride];
        let mut u = vec![0.0; d_inner];
        reference::conv1d_update(&mut u, state.slot(slot), xz, &w64, b64.as_deref(), &shape);
        xz[x_offset..][..d_inner].copy_from_slice(&u);
    }
    let (txz, ts, tw) = (tensor(gpu, &xz)?, tensor(gpu, &state.before)?, tensor(gpu, &weight)?);
    let (tb, texts) = (b.map(|b| tensor(gpu, &b)).transpose()?, texts(gpu, &rows, 0)?);
    let conv = ConvStep { xz: &txz, conv_state: &ts, weight: &tw, bias: tb.as_ref() };
    let shape = ConvShape { l: rows.len(), ..shape };
    run(gpu, |plan| kernels::conv1d_update(plan, &conv, &texts, shape)).await?;
    let what = format!("conv1d_update {n} texts d_inner {d_inner} d_conv {d_conv} x at {x_offset} bias {bias}");
    close(&what, &txz.read(gpu).await?, &want, 2e-6, 2e-6)?;
    state.check(gpu, &format!("{what}, state"), &rows, &ts, 0.0).await
}

/// selective_state_update: the tokens of the case are those of as many texts.
pub async fn selective_state_update(gpu: &Gpu, case: &ScanCase, random: &mut Random) -> Result<(), CheckError> {
    let shape = case.shape;
    let (n, d_inner, d_state) = (shape.l, shape.d_inner, shape.d_state);
    let (rows, slots) = slots_of(n);
    let mut uz = case.xz.clone();
    for (uz, u) in uz.chunks_mut(shape.xz_stride).zip(case.u.chunks(d_inner)) {
        uz[..d_inner].copy_from_slice(u);
    }
    let mut state = Slots::random(slots, d_inner * d_state, random);
    let (uz64, x64, delta64) = (f64s(&uz), f64s(&case.x_dbl), f64s(&case.delta));
    let (a64, d64) = (f64s(&case.a), f64s(&case.d));
    let mut want = vec![0.0; n * d_inner];
    for (row, &slot) in rows.iter().enumerate() {
        let uz = &uz64[row * shape.xz_stride..][..shape.xz_stride];
        let x_dbl = &x64[row * shape.x_dbl_stride..][..shape.x_dbl_stride];
        let delta = &delta64[row * d_inner..][..d_inner];
        let input = ScanInput { u: &uz[..d_inner], delta, a: &a64, x_dbl, d: &d64, xz: uz };
        let y = &mut want[row * d_inner..][..d_inner];
        reference::selective_state_update(y, state.slot(slot), &input, &ScanShape { l: 1, ..shape });
    }
    let t = |values: &[f32]| tensor(gpu, values);
    let (uz, x_dbl, delta, a, d) = (t(&uz)?, t(&case.x_dbl)?, t(&case.delta)?, t(&case.a)?, t(&case.d)?);
    let (ssm_state, y, texts) = (t(&state.before)?, poisoned(gpu, n * d_inner)?, texts(gpu, &rows, 0)?);
    let b = StateUpdate { uz: &uz, delta: &delta, a: &a, x_dbl: &x_dbl, d: &d, ssm_state: &ssm_state, y: &y };
    run(gpu, |plan| kernels::selective_state_update(plan, &b, &texts, shape)).await?;
    let what = format!("selective_state_update {n} texts d_inner {d_inner} d_state {d_state}");
    let scale = state.want.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    close(&what, &y.read(gpu).await?, &want, 1e-4 * scale, 2e-5)?;
    state.check(gpu, &format!("{what}, state"), &rows, &ssm_state, 2e-5 * scale).await
}

/// ssd_state_update over rows.
#[cfg(not(target_arch = "wasm32"))]
pub async fn ssd_state_update(gpu: &Gpu, n: usize, sizes: SsdSizes, random: &mut Random) -> Result<(), CheckError> {
    let (rows, slots) = slots_of(n);
    let case = SsdCase::random(n, sizes, (1e-4, 5.0), random);
    let s = case.shape;
    let mut state = Slots::random(slots, s.state_len(), random);
    let (xbc, zxbcdt, dt_bias) = (f64s(&case.xbc), f64s(&case.zxbcdt), f64s(&case.dt_bias));
    let (a, d) = (f64s(&case.a), f64s(&case.d));
    let mut want = vec![0.0; n * s.d_inner()];
    for (row, &slot) in rows.iter().enumerate() {
        let input = reference::SsdInput { xbc: &xbc[row * s.xbc_stride..][..s.xbc_stride], a: &a, d: &d };
        let zxbcdt = &zxbcdt[row * s.zxbcdt_stride..][..s.zxbcdt_stride];
        let y = &mut want[row * s.d_inner()..][..s.d_inner()];
        let one = SsdShape { l: 1, ..s };
        reference::ssd_state_update(y, state.slot(slot), (zxbcdt, &dt_bias), &input, false, &one);
    }
    let t = |values: &[f32]| tensor(gpu, values);
    let (zxbcdt, xbc, dt_bias) = (t(&case.zxbcdt)?, t(&case.xbc)?, t(&case.dt_bias)?);
    let (a, d, ssm_state, y) = (t(&case.a)?, t(&case.d)?, t(&state.before)?, poisoned(gpu, n * s.d_inner())?);
    let texts = texts(gpu, &rows, 0)?;
    let b = SsdBuffers { zxbcdt: &zxbcdt, xbc: &xbc, dt_bias: &dt_bias, a: &a, d: &d, ssm_state: &ssm_state, y: &y };
    run(gpu, |plan| kernels::ssd_state_update_rows(plan, &b, &texts, &s)).await?;
    let what = format!("ssd_state_update {n} texts {sizes:?}");
    let scale = state.want.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    close(&what, &y.read(gpu).await?, &want, 2e-5 * scale, 2e-5)?;
    state.check(gpu, &format!("{what}, state"), &rows, &ssm_state, 2e-5 * scale).await
}

/// Tokens of texts with settings of their own, each as if it were alone: `draws` of each, all of which count as seen for the next.
#[cfg(not(target_arch = "wasm32"))]
pub async fn sample(gpu: &Gpu, logits: &[Vec<f32>], params: &[SamplingParams], draws: usize) -> Result<(), CheckError> {
    let (n, vocab_size) = (logits.len(), logits.first().map_or(0, Vec::len));
    let (rows, slots) = slots_of(n);
    let kept = SampleSlots::new(gpu, slots, vocab_size)?;
    let mut seen = vec![vec![0u32; vocab_size.div_ceil(32)]; n];
    for (row, (params, &slot)) in params.iter().zip(&rows).enumerate() {
        if let Some(word) = seen[row].first_mut() {
            *word = 1 << (row % vocab_size.clamp(1, 32));
        }
        kept.begin(gpu, slot, params, &seen[row], 10 * row as u32);
    }
    let (table, tokens) = (texts(gpu, &rows, vocab_size)?, Tensor::new(gpu, "tokens", &vec![7u32; n])?);
    let all = tensor(gpu, &logits.concat())?;
    let draw = params.iter().map(|params| Draw::of(params, vocab_size)).max().unwrap_or(Draw::Greedy);
    for step in 0..draws as u32 {
        run(gpu, |plan| kernels::sample_batch(plan, &all, &kept, (&table, n), &tokens, draw)).await?;
        let got = tokens.read::<u32>(gpu).await?;
        for (row, &token) in got.iter().enumerate() {
            near(token, &logits[row], &seen[row], &params[row], 10 * row as u32 + step)?;
            if let Some(word) = seen[row].get_mut(token as usize / 32) {
                *word |= 1 << (token % 32);
            }
        }
    }
    Ok(())
}
