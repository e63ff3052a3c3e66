//! rope_store.wgsl, attention.wgsl, attention_step.wgsl and attention_join.wgsl: attention over the keys and values
//! that texts keep in pages.

use crate::gpu::shader::ShaderSpec;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::reference::{AttentionShape, PAGE, ROTATIONS};

/// Columns of a head that kernels are built for: a multiple of 4 up to this.
pub const MAX_HEAD_DIM: usize = 256;
/// attention.wgsl: queries a workgroup.
const TILE: usize = 64;
/// attention.wgsl: quads of a head's columns that are written side by side.
const LANES: usize = 16;
/// attention.wgsl: rounds over half a tile's keys.
const HALF_ROUNDS: usize = 4;
/// Rounds of an invocation's loops, all of them together: llvmpipe (lavapipe, software Vulkan) silently ends loops
/// after 65,535.
const ROUNDS: usize = 65_000;
/// attention_step.wgsl: the most heads of queries a workgroup, for heads of up to 128 columns and for wider ones.
const HEADS: (usize, usize) = (8, 4);
/// attention_step.wgsl: workgroups that fill a GPU, and bounds on the parts that a text's pages are dealt out to.
const WORKGROUPS: usize = 1024;
const PARTS: std::ops::RangeInclusive<usize> = 4..=64;
/// The same on software adapters, which have few cores.
const SOFTWARE_PARTS: usize = 4;

/// Where the texts of a layer keep their keys and values, and which texts a dispatch is for.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// (pages, kv_heads, head_dim, PAGE)
    pub keys: &'a Tensor,
    /// (pages, kv_heads, PAGE, head_dim)
    pub values: &'a Tensor,
    /// (slots, table_stride) of u32: which page has the tokens from `PAGE * n` on of a slot's text. Entries beyond a
    /// text's last token are not read.
    pub table: &'a Tensor,
    pub table_stride: usize,
    /// (rows, [`super::TEXT`])
    pub texts: &'a Tensor,
}

/// What [`rope_store`] reads and writes besides the pages.
#[derive(Debug, Clone, Copy)]
pub struct RopeBuffers<'a> {
    /// (L, heads + 2 kv_heads, head_dim): queries, keys, values
    pub qkv: &'a Tensor,
    /// (L, heads, head_dim): queries as attention takes them
    pub q: &'a Tensor,
    pub norms: Option<HeadNorms<'a>>,
    /// [`rotations`]; where nothing rotates any tensor.
    pub rotations: &'a Tensor,
    /// Columns of a head that rotate: twice the frequencies.
    pub rotary_dim: usize,
}

/// RMSNorm of every head of queries, of keys or of both, before they are rotated (Qwen3).
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// (2, head_dim): the queries', the keys'
    pub weights: &'a Tensor,
    pub of_queries: bool,
    pub of_keys: bool,
    pub eps: f32,
}

/// Whose tokens the rows of queries, keys and values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokensOf {
    /// The first text's of the table, one after the other from its position on.
    OneText,
    /// One of each of as many texts, at its position.
    EachText,
}

/// rope_store.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RopeParams {
    l: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    half: u32,
    table_stride: u32,
    rows: u32,
    value_scale: f32,
    norms: u32,
    eps: f32,
}

/// attention.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    l: u32,
    heads: u32,
    kv_heads: u32,
    window: u32,
    table_stride: u32,
    scale: f32,
}

/// shared/attention_step.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StepParams {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    window: u32,
    blocks: u32,
    parts: u32,
    table_stride: u32,
    scale: f32,
}

fn rope_spec(norms: bool) -> ShaderSpec {
    ShaderSpec::new("rope_store").flag("NORMS", norms)
}

fn quads_spec(name: &'static str, head_dim: usize) -> ShaderSpec {
    ShaderSpec::new(name).constant("HEAD_QUADS", (head_dim / 4) as u32)
}

/// attention.wgsl: quads of a head's columns that are multiplied a round.
fn unroll(head_dim: usize) -> usize {
    2 - head_dim / 4 % 2
}

fn attention_spec(head_dim: usize) -> ShaderSpec {
    let quads = (head_dim / 4).div_ceil(LANES) as u32;
    let spec = quads_spec("attention", head_dim).constant("QUADS", quads).constant("LANES", LANES as u32);
    spec.constant("UNROLL", unroll(head_dim) as u32)
}

/// The most tokens that a text may have: positions that [`rope_store`] knows and, on software adapters without a
/// window, as far as loops go there.
pub fn longest_text(gpu: &Gpu, s: &AttentionShape) -> usize {
    if !gpu.adapter_summary().software() || s.window > 0 && s.window < ROTATIONS / TILE {
        return ROTATIONS;
    }
    // Of a tile of keys: its own, over columns, over halves of it.
    let rounds = 1 + (s.head_dim / 4).div_ceil(unroll(s.head_dim)) + 2 * HALF_ROUNDS;
    (ROUNDS / rounds * TILE).min(ROTATIONS)
}

/// `group`: heads of queries that share one of keys and values.
fn step_spec(head_dim: usize, group: usize) -> ShaderSpec {
    let unroll = [4, 2, 1].into_iter().find(|unroll| (head_dim / 4).is_multiple_of(*unroll)).unwrap_or(1);
    let spec = quads_spec("attention_step", head_dim).constant("HEADS", blocks(head_dim, group).1 as u32);
    spec.constant("UNROLL", unroll as u32).constant("SLICES", (PAGE / (head_dim / 4)) as u32)
}

/// Blocks that a group of heads is cut into, and heads a block (the last may have fewer).
fn blocks(head_dim: usize, group: usize) -> (usize, usize) {
    let most = if head_dim <= 128 { HEADS.0 } else { HEADS.1 };
    let blocks = group.div_ceil(most).max(1);
    (blocks, group.div_ceil(blocks).max(1))
}

/// How many parts pages are dealt out to, of so many workgroups each.
fn parts(gpu: &Gpu, workgroups: usize) -> usize {
    match gpu.software() {
        true => SOFTWARE_PARTS,
        false => (WORKGROUPS / workgroups.max(1)).clamp(*PARTS.start(), *PARTS.end()),
    }
}

pub(super) fn specs() -> Vec<ShaderSpec> {
    let mut specs = vec![rope_spec(false), rope_spec(true)];
    for (head_dim, group) in [(4, 1), (32, 1), (64, 4), (80, 8), (96, 3), (128, 8), (256, 4)] {
        specs.extend([attention_spec(head_dim), step_spec(head_dim, group), quads_spec("attention_join", head_dim)]);
    }
    specs
}

impl AttentionShape {
    /// # Errors
    /// Heads that no kernel is built for.
    fn check(&self, kernel: &'static str) -> Result<(), GpuError> {
        let (what, value, limit) = ("head_dim", self.head_dim, MAX_HEAD_DIM);
        match value > limit || !value.is_multiple_of(4) || value == 0 {
            true => Err(GpuError::Unsupported { kernel, what, value, limit }),
            false => Ok(()),
        }
    }
}

/// Cosines and sines, (ROTATIONS / PAGE + PAGE, frequencies) of both, of what [`rope_store`] makes the angles of
/// positions below [`ROTATIONS`] from: those of PAGE a, then of b. All come from f64, those of b times
/// `attention_factor`.
pub fn rotations(frequencies: &[f32], attention_factor: f32) -> Vec<f32> {
    let far = (0..ROTATIONS / PAGE).map(|a| (a * PAGE, 1.0));
    let near = (0..PAGE).map(|b| (b, f64::from(attention_factor)));
    let all = far.chain(near).flat_map(|(position, factor)| {
        frequencies.iter().flat_map(move |&frequency| {
            let (sin, cos) = (position as f64 * f64::from(frequency)).sin_cos();
            [(factor * cos) as f32, (factor * sin) as f32]
        })
    });
    all.collect()
}

/// Queries, rotated, to `b.q`; keys, rotated, and `value_scale` times the values of l tokens into the texts' pages. Positions are below [`ROTATIONS`].
pub fn rope_store(
    plan: &mut PlanBuilder<'_>,
    b: &RopeBuffers<'_>,
    pages: &Pages<'_>,
    (l, of): (usize, TokensOf),
    value_scale: f32,
    s: &AttentionShape,
) -> Result<(), GpuError> {
    s.check("rope_store")?;
    let params = RopeParams {
        l: l as u32,
        heads: s.heads as u32,
        kv_heads: s.kv_heads as u32,
        head_dim: s.head_dim as u32,
        half: (b.rotary_dim.min(s.head_dim) / 2) as u32,
        table_stride: pages.table_stride as u32,
        rows: u32::from(of == TokensOf::EachText),
        value_scale,
        norms: b.norms.map_or(0, |norms| u32::from(norms.of_queries) | u32::from(norms.of_keys) << 1),
        eps: b.norms.map_or(0.0, |norms| norms.eps),
    };
    let mut bindings = vec![
        (1, b.qkv),
        (2, b.q),
        (4, b.rotations),
        (5, pages.table),
        (6, pages.texts),
        (7, pages.keys),
        (8, pages.values),
    ];
    bindings.extend(b.norms.map(|norms| (3, norms.weights)));
    plan.dispatch_flat(rope_spec(b.norms.is_some()), &params, &bindings, l * (s.heads + 2 * s.kv_heads), 1)
}

/// out (L, heads, head_dim) of q, l tokens of the first text of the table from its position on, whose keys and values
/// are in the pages.
pub fn attention(
    plan: &mut PlanBuilder<'_>,
    (q, out): (&Tensor, &Tensor),
    pages: &Pages<'_>,
    l: usize,
    s: &AttentionShape,
) -> Result<(), GpuError> {
    s.check("attention")?;
    let params = Params {
        l: l as u32,
        heads: s.heads as u32,
        kv_heads: s.kv_heads as u32,
        window: s.window as u32,
        table_stride: pages.table_stride as u32,
        scale: s.scale,
    };
    let bindings = [(1, q), (2, pages.keys), (3, pages.values), (4, pages.table), (5, pages.texts), (6, out)];
    let groups = [l.div_ceil(TILE) as u64, s.heads as u64];
    plan.dispatch(attention_spec(s.head_dim), &params, &bindings, groups)
}

/// out (rows, heads, head_dim) of q, a token of each of the first `rows` texts of the table at its position, whose own
/// key and value are in its pages.
pub fn attention_step(
    plan: &mut PlanBuilder<'_>,
    (q, out): (&Tensor, &Tensor),
    pages: &Pages<'_>,
    rows: usize,
    s: &AttentionShape,
) -> Result<(), GpuError> {
    s.check("attention_step")?;
    let group = s.heads / s.kv_heads.max(1);
    let (blocks, _) = blocks(s.head_dim, group);
    let workgroups = rows * s.kv_heads * blocks;
    let parts = parts(plan.gpu(), workgroups);
    let params = StepParams {
        rows: rows as u32,
        heads: s.heads as u32,
        kv_heads: s.kv_heads as u32,
        window: s.window as u32,
        blocks: blocks as u32,
        parts: parts as u32,
        table_stride: pages.table_stride as u32,
        scale: s.scale,
    };
    // A quad for the largest score and the sum.
    let scratch = plan.scratch(rows * s.heads * parts * (4 + s.head_dim))?;
    let bindings = [(1, q), (2, pages.keys), (3, pages.values), (4, pages.table), (5, pages.texts), (6, &scratch)];
    plan.dispatch(step_spec(s.head_dim, group), &params, &bindings, [parts as u64, workgroups as u64])?;
    let bindings = [(1, &scratch), (2, out), (3, pages.texts)];
    let items = rows * s.heads * (s.head_dim / 4);
    plan.dispatch_flat(quads_spec("attention_join", s.head_dim), &params, &bindings, items, 64)
}
