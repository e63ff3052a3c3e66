//! Mamba-2's kernels: the rungs of its recurrence and the single step, against the sequential twin in f64; what goes
//! between the chunked rung's kernels and gated_rms_norm, against their own twins.

use super::data::{activations, close, equal, f64s, poisoned, poisoned_activations, read_activations, rounding, run};
use super::data::{tensor, CheckError, Random};
use crate::gpu::shader::NumberFormat;
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{self, GatedNorm, GatedShape, Ssd, SsdBuffers, SsdShape, SsdWorkspace, SSD_CHUNK};
use crate::reference::{self, SsdChunks, SsdInput};

/// As for Mamba-1's scans: absolute, for a largest state of one or less, and relative.
const ATOL: f64 = 1e-4;
const RTOL: f64 = 2e-5;

/// Heads, head_dim, d_state and groups.
pub type SsdSizes = (usize, usize, usize, usize);

/// The recurrence's inputs, and its initial state.
#[derive(Debug, Clone)]
pub struct SsdCase {
    pub shape: SsdShape,
    pub zxbcdt: Vec<f32>,
    pub xbc: Vec<f32>,
    pub dt_bias: Vec<f32>,
    pub a: Vec<f32>,
    pub d: Vec<f32>,
    pub ssm_state: Vec<f32>,
    /// Of zxbcdt and xbc; their values above are what is left in it.
    pub act: NumberFormat,
}

impl SsdCase {
    /// Inputs like a trained model's: delta within `range`, most of it evenly in its logarithm; A in -16 to -1.
    pub fn random(
        l: usize,
        (heads, head_dim, d_state, groups): SsdSizes,
        range: (f64, f64),
        random: &mut Random,
    ) -> Self {
        let dense = SsdShape::of_layer(l, (heads, head_dim), d_state, groups);
        let shape = SsdShape { dt_limit: (range.0 as f32, range.1 as f32), ..dense };
        let mut zxbcdt = random.vec(l * shape.zxbcdt_stride, -2.0, 2.0);
        for row in zxbcdt.chunks_exact_mut(shape.zxbcdt_stride) {
            // ln(e^delta - 1), the inverse of softplus; here and there what the limits are for.
            let raw = |delta: f32| f64::from(delta).exp_m1().ln() as f32;
            let deltas = random.log_vec(heads, range.0, range.1).into_iter().map(raw);
            let beyond = random.vec(heads, 0.0, 1.0);
            for ((dt, raw), beyond) in row[shape.dt_offset..].iter_mut().zip(deltas).zip(beyond) {
                *dt = if beyond < 0.05 { 30.0 } else { raw };
            }
        }
        Self {
            xbc: random.vec(l * shape.xbc_stride, -1.0, 1.0),
            dt_bias: random.vec(heads, -0.1, 0.1),
            a: random.log_vec(heads, 1.0, 16.0).iter().map(|a| -a).collect(),
            d: random.vec(heads, -1.0, 1.0),
            ssm_state: random.vec(shape.state_len(), -1.0, 1.0),
            act: NumberFormat::F32,
            zxbcdt,
            shape,
        }
    }

    /// The same with D a channel, and rows that have columns in front of each piece and between them: nothing lies on
    /// whole quads.
    pub fn wide(self, random: &mut Random) -> Self {
        let s = self.shape;
        let (bc, i) = (s.groups * s.d_state, s.d_inner());
        let shape = SsdShape {
            xbc_stride: s.xbc_stride + 3,
            x_offset: 1,
            b_offset: i + 2,
            c_offset: i + bc + 3,
            zxbcdt_stride: s.zxbcdt_stride + 5,
            z_offset: 2,
            dt_offset: s.dt_offset + 5,
            d_has_hdim: true,
            ..s
        };
        let mut xbc = random.vec(s.l * shape.xbc_stride, -1.0, 1.0);
        let mut zxbcdt = random.vec(s.l * shape.zxbcdt_stride, -1.0, 1.0);
        for t in 0..s.l {
            let (from, to) = (t * s.xbc_stride, t * shape.xbc_stride);
            for (old, new, n) in [(0, 1, i), (s.b_offset, i + 2, bc), (s.c_offset, i + bc + 3, bc)] {
                xbc[to + new..][..n].copy_from_slice(&self.xbc[from + old..][..n]);
            }
            let (from, to) = (t * s.zxbcdt_stride, t * shape.zxbcdt_stride);
            for (old, new, n) in [(0, 2, i), (s.dt_offset, s.dt_offset + 5, s.heads)] {
                zxbcdt[to + new..][..n].copy_from_slice(&self.zxbcdt[from + old..][..n]);
            }
        }
        Self { shape, xbc, zxbcdt, d: random.vec(i, -1.0, 1.0), ..self }
    }

    /// The same with zxbcdt and xbc rounded to f16.
    pub fn halved(mut self) -> Self {
        let round = |v: &mut Vec<f32>| v.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        [&mut self.zxbcdt, &mut self.xbc].into_iter().for_each(round);
        self.act = NumberFormat::F16;
        self
    }

    /// Tokens t0..t1 of it, from another initial state.
    pub fn part(&self, t0: usize, t1: usize, ssm_state: Vec<f32>) -> Self {
        let s = self.shape;
        let rows = |v: &[f32], width: usize| v[t0 * width..t1 * width].to_vec();
        Self {
            shape: SsdShape { l: t1 - t0, ..s },
            zxbcdt: rows(&self.zxbcdt, s.zxbcdt_stride),
            xbc: rows(&self.xbc, s.xbc_stride),
            ssm_state,
            ..self.clone()
        }
    }

    /// (y, final state) by the sequential twin in f64; with `gate`, by that of the single step.
    pub fn expected(&self, gate: bool) -> (Vec<f64>, Vec<f64>) {
        let s = &self.shape;
        let (mut y, mut state) = (vec![0.0; s.l * s.d_inner()], f64s(&self.ssm_state));
        let (zxbcdt, xbc, bias) = (f64s(&self.zxbcdt), f64s(&self.xbc), f64s(&self.dt_bias));
        let (a, d) = (f64s(&self.a), f64s(&self.d));
        let input = SsdInput { xbc: &xbc, a: &a, d: &d };
        if gate {
            reference::ssd_state_update(&mut y, &mut state, (&zxbcdt, &bias), &input, gate, s);
        } else {
            let mut delta = vec![0.0; s.l * s.heads];
            reference::ssd_delta(&mut delta, &zxbcdt, &bias, s);
            reference::ssd_sequential(&mut y, &mut state, &delta, &input, s);
        }
        (y, state)
    }

    async fn on(&self, gpu: &Gpu) -> Result<OnDevice, CheckError> {
        let t = |v: &[f32]| tensor(gpu, v);
        let act = |v: &[f32]| activations(gpu, v, self.act).map(|(tensor, _)| tensor);
        Ok(OnDevice {
            zxbcdt: act(&self.zxbcdt)?,
            xbc: act(&self.xbc)?,
            dt_bias: t(&self.dt_bias)?,
            a: t(&self.a)?,
            d: t(&self.d)?,
            ssm_state: t(&self.ssm_state)?,
            y: poisoned(gpu, self.shape.l * self.shape.d_inner())?,
        })
    }

    /// (y, final state) by a rung; `None`: one token by ssd_state_update.
    pub async fn run(&self, gpu: &Gpu, rung: Option<Ssd>, gate: bool) -> Result<(Vec<f32>, Vec<f32>), CheckError> {
        let (s, on) = (&self.shape, self.on(gpu).await?);
        run(gpu, |plan| {
            let Some(rung) = rung else {
                return kernels::ssd_state_update(plan, &on.buffers(), gate, s);
            };
            let workspace = SsdWorkspace::new(gpu, rung, s, self.act)?;
            kernels::ssd(plan, rung, &workspace, &on.buffers(), s)
        })
        .await?;
        Ok((on.y.read(gpu).await?, on.ssm_state.read(gpu).await?))
    }

    fn what(&self) -> String {
        let s = &self.shape;
        let sizes = format!("l {} heads {} head_dim {} d_state {}", s.l, s.heads, s.head_dim, s.d_state);
        format!("{sizes} groups {} x at {} {:?}", s.groups, s.x_offset, self.act)
    }
}

struct OnDevice {
    zxbcdt: Tensor,
    xbc: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
    ssm_state: Tensor,
    y: Tensor,
}

impl OnDevice {
    fn buffers(&self) -> SsdBuffers<'_> {
        let OnDevice { zxbcdt, xbc, dt_bias, a, d, ssm_state, y } = self;
        SsdBuffers { zxbcdt, xbc, dt_bias, a, d, ssm_state, y }
    }
}

/// A rung against what was expected of a case.
pub async fn ssd(
    gpu: &Gpu,
    rung: Option<Ssd>,
    case: &SsdCase,
    (y, state): &(Vec<f64>, Vec<f64>),
) -> Result<(), CheckError> {
    check(gpu, (rung, false), case, (y, state)).await
}

/// ssd_state_update with the gate.
pub async fn gated_update(gpu: &Gpu, case: &SsdCase) -> Result<(), CheckError> {
    let (y, state) = case.expected(true);
    check(gpu, (None, true), case, (&y, &state)).await
}

async fn check(
    gpu: &Gpu,
    (rung, gate): (Option<Ssd>, bool),
    case: &SsdCase,
    (y, state): (&[f64], &[f64]),
) -> Result<(), CheckError> {
    let (got_y, got_state) = case.run(gpu, rung, gate).await?;
    let scale = state.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    let by = rung.map_or("ssd_state_update".into(), |rung| format!("ssd {rung:?}"));
    let what = format!("{by}, {} gate {gate}", case.what());
    // What is rounded to f16 besides: C B, x delta, and states.
    let halved = case.act == NumberFormat::F16 && rung == Some(Ssd::Matrices);
    let (atol, rtol) = if halved { (10.0 * rounding(case.act), rounding(case.act)) } else { (ATOL, RTOL) };
    close(&format!("{what}: y"), &got_y, y, atol * scale, rtol)?;
    close(&format!("{what}: state"), &got_state, state, atol * scale, rtol)
}

/// What goes between the chunked rung's kernels, against their twins: a text that the workspace holds at once.
pub async fn ssd_chunks(gpu: &Gpu, case: &SsdCase) -> Result<(), CheckError> {
    let (s, on) = (&case.shape, case.on(gpu).await?);
    let (zxbcdt, xbc, bias) = (f64s(&case.zxbcdt), f64s(&case.xbc), f64s(&case.dt_bias));
    let (a, d, mut state) = (f64s(&case.a), f64s(&case.d), f64s(&case.ssm_state));
    let input = SsdInput { xbc: &xbc, a: &a, d: &d };
    let mut want = SsdChunks::new(SSD_CHUNK, s);
    reference::ssd_chunk_cumsum(&mut want, &zxbcdt, &bias, &a, s);
    reference::ssd_bmm_chunk(&mut want, &input, s);
    reference::ssd_chunk_state(&mut want, &input, s);
    let w = SsdWorkspace::new(gpu, Ssd::Chunked, s, case.act)?;
    run(gpu, |plan| {
        kernels::ssd_chunk_cumsum(plan, &w, &on.buffers(), s)?;
        kernels::ssd_bmm_chunk(plan, &w, &on.buffers(), s)?;
        kernels::ssd_chunk_state(plan, &w, &on.buffers(), s)
    })
    .await?;
    let what = |part: &str| format!("{part}, {}", case.what());
    close(&what("ssd_chunk_cumsum: delta"), &w.delta.read(gpu).await?, &want.delta, 1e-6, 2e-6)?;
    let words: Vec<u32> = w.cumsum.read(gpu).await?;
    // Sums of factors that nothing is left of are cut off, and as good as what they are the logarithm of.
    let decays: Vec<f32> = words.chunks_exact(2).map(|w| (16 * w[0] as i32) as f32 + f32::from_bits(w[1])).collect();
    let decays: Vec<f32> = decays.into_iter().map(f32::exp).collect();
    let want_decays: Vec<f64> = want.cumsum.iter().map(|sum| sum.exp()).collect();
    close(&what("ssd_chunk_cumsum: decays"), &decays, &want_decays, 4e-6, 0.0)?;
    let mut cb: Vec<f32> = w.cb.read(gpu).await?;
    for (i, cb) in cb.iter_mut().enumerate() {
        if i % SSD_CHUNK > i / SSD_CHUNK % SSD_CHUNK {
            *cb = 0.0;
        }
    }
    close(&what("ssd_bmm_chunk"), &cb, &want.cb, 2e-6 * ((s.d_state as f64).sqrt() + 2.0), 2e-6)?;
    let largest = want.states.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    close(&what("ssd_chunk_state"), &w.states.read(gpu).await?, &want.states, 1e-5 * largest, 1e-5)?;

    reference::ssd_state_passing(&mut want, &mut state, s);
    run(gpu, |plan| kernels::ssd_state_passing(plan, &w, &on.buffers(), s)).await?;
    let largest = want.states.iter().chain(&state).fold(1.0f64, |m, x| m.max(x.abs()));
    close(&what("ssd_state_passing"), &w.states.read(gpu).await?, &want.states, ATOL * largest, RTOL)?;
    close(&what("ssd_state_passing: state"), &on.ssm_state.read(gpu).await?, &state, ATOL * largest, RTOL)?;

    let mut y = vec![0.0; s.l * s.d_inner()];
    reference::ssd_chunk_scan(&mut y, &want, &input, s);
    run(gpu, |plan| kernels::ssd_chunk_scan(plan, &w, &on.buffers(), s)).await?;
    close(&what("ssd_chunk_scan"), &on.y.read(gpu).await?, &y, ATOL * largest, RTOL)
}

/// gated_rms_norm of rows with columns beside y, z and the output, which stay, or (`in_place`) of y alone.
pub async fn gated_norm(
    gpu: &Gpu,
    kind: GatedNorm,
    (l, d_inner, groups): (usize, usize, usize),
    (weighted, in_place): (bool, bool),
    (z_format, act): (NumberFormat, NumberFormat),
    random: &mut Random,
) -> Result<(), CheckError> {
    let y_columns = if in_place { (d_inner, 0) } else { (d_inner + 3, 2) };
    let (z, out) = ((2 * d_inner + 7, 5), if in_place { y_columns } else { (d_inner + 4, 3) });
    let shape = GatedShape { l, d_inner, groups, y: y_columns, z, out, eps: 1e-5 };
    let y = random.vec(l * shape.y.0, -3.0, 3.0);
    let (tz, z) = activations(gpu, &random.vec(l * shape.z.0, -4.0, 4.0), z_format)?;
    let weight = weighted.then(|| random.vec(d_inner, 0.5, 2.0));
    let mut want = vec![f64::NAN; l * shape.out.0];
    let w64 = weight.as_deref().map(f64s);
    reference::gated_rms_norm(&mut want, &f64s(&y), &f64s(&z), w64.as_deref(), kind, &shape);
    let (ty, tw) = (tensor(gpu, &y)?, weight.map(|weight| tensor(gpu, &weight)).transpose()?);
    let out = (!in_place).then(|| poisoned_activations(gpu, want.len(), act)).transpose()?;
    run(gpu, |plan| kernels::gated_rms_norm(plan, (&ty, &tz), tw.as_ref(), out.as_ref(), kind, &shape)).await?;
    let got = read_activations(gpu, out.as_ref().unwrap_or(&ty)).await?;
    let what = format!("gated_rms_norm {kind:?} l {l} d_inner {d_inner} groups {groups} in place {in_place} {act:?}");
    let inside = |i: usize| (shape.out.1..shape.out.1 + d_inner).contains(&(i % shape.out.0));
    let columns: Vec<usize> = (0..got.len()).filter(|i| inside(*i)).collect();
    let beside = (0..got.len()).filter(|i| !inside(*i) && !got[*i].is_nan()).count();
    equal(&format!("{what}: columns beside that changed"), &[beside], &[0])?;
    let (got, want): (Vec<f32>, Vec<f64>) = columns.iter().map(|i| (got[*i], want[*i])).unzip();
    // An output is up to 12; where the mean is that of one small square, its error counts for more.
    close(&what, &got, &want, 2e-6, 4e-6 + rounding(act))
}
