//! The kernels: for each WGSL file in shaders/ a module with its parameters, bindings and grid.
//!
//! A kernel function adds dispatches to a [`PlanBuilder`](crate::gpu::PlanBuilder). Each has a CPU twin of the same
//! name in [`reference`](crate::reference); those of the ceilings, which no model runs, excepted.

mod activate;
mod attention;
pub mod backward;
mod ceilings;
mod conv1d;
mod embedding;
mod experts;
mod explain;
mod few;
mod fill;
mod gated_norm;
mod linear;
mod norm;
mod optimiser;
mod sampling;
mod scale_add;
mod scan_blelloch;
mod scan_fused;
mod scan_sequential;
mod ssd;
mod step;
mod weights;

pub use activate::activate;
pub use attention::{
    attention, attention_step, longest_text, rope_store, rotations, HeadNorms, Pages, RopeBuffers, TokensOf,
    MAX_HEAD_DIM,
};
pub use ceilings::{bench_copy, bench_fma, bench_fma_flops};
pub use conv1d::{conv1d, conv1d_batch, conv1d_state, conv1d_state_batch, conv1d_update, Conv1d, ConvStep};
pub use embedding::embedding;
pub use experts::{experts_matmul, experts_matvec, experts_sum, route, route_order, ExpertRows, Routes};
pub use explain::{channel_stats, hidden_attention, token_stats, ExplainBuffers};
pub use fill::{fill, fill_matrix, filled, Values};
pub use gated_norm::gated_rms_norm;
pub use linear::{linear, matmul, matvec, Activate, Linear, COOP_TILE};
pub use norm::{rms_norm, x_dbl_norm, RmsNorm};
pub use optimiser::{adamw, gradient_clip, gradient_norm, partial_sums, AdamBuffers, AdamW, Step, StepTensors};
pub use sampling::{argmax, sample, sample_batch, token_nll, Draw, SampleBuffers, SampleSlots};
pub use scale_add::scale_add;
pub use scan_blelloch::{scan_blelloch, BlellochWorkspace};
pub use scan_fused::{scan_fused, scan_fused_batch, FusedWorkspace};
pub use scan_sequential::{scan_sequential, selective_state_update, StateUpdate};
pub use ssd::{
    ssd, ssd_bmm_chunk, ssd_chunk_cumsum, ssd_chunk_scan, ssd_chunk_state, ssd_chunked, ssd_delta, ssd_in_proj,
    ssd_matrices, ssd_matrix_bmm, ssd_matrix_scan, ssd_matrix_state, ssd_sequential, ssd_state_passing,
    ssd_state_update, ssd_state_update_rows, Ssd, SsdBuffers, SsdInProj, SsdWorkspace, SSD_CHUNK,
};
pub use step::{
    matvec_add, matvec_norm, matvec_norm_activate, matvec_norm_add, matvec_norm_conv, matvec_x_proj, pack_channels,
    pack_scaled, pack_taps, step_mixer, StepBuffers, StepShape,
};
pub use weights::{MatrixSize, Part as WeightPart, WeightMatrix};

pub use crate::reference::{
    ActivateShape, Activation, AttentionShape, ConvShape, ExplainShape, GatedNorm, GatedShape, Gating, Router,
    ScanShape, SsdShape, PAGE, ROTATIONS,
};

use crate::gpu::shader::{NumberFormat, ShaderSpec, WeightFormat};
use crate::gpu::{GpuError, Tensor};

/// The tensors of a selective scan.
#[derive(Debug, Clone, Copy)]
pub struct ScanBuffers<'a> {
    /// (L, d_inner)
    pub u: &'a Tensor,
    /// (L, d_inner), after softplus
    pub delta: &'a Tensor,
    /// (d_inner, d_state)
    pub a: &'a Tensor,
    /// (L, x_dbl_stride)
    pub x_dbl: &'a Tensor,
    /// (d_inner)
    pub d: &'a Tensor,
    /// (L, xz_stride)
    pub xz: &'a Tensor,
    /// (d_inner, d_state): initial state in, final state out
    pub ssm_state: &'a Tensor,
    /// (L, d_inner)
    pub y: &'a Tensor,
}

/// Values of a row of `texts`, the table (rows, 3) of u32 that says which texts a step takes a token of: a row's slot,
/// where what the text keeps lies, the element at which its last logits begin, and how many tokens it has before this
/// step or chunk (shared/texts.wgsl).
pub const TEXT: usize = 3;

/// shared/watch.wgsl: the flag's binding.
const WATCH: u32 = 9;

/// shared/scan.wgsl: Params.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScanParams {
    l: u32,
    d_inner: u32,
    d_state: u32,
    x_dbl_stride: u32,
    b_offset: u32,
    c_offset: u32,
    xz_stride: u32,
    z_offset: u32,
    t0: u32,
    chunk: u32,
    n_chunks: u32,
    batch: u32,
    coefficients: u32,
    c_partials: u32,
    bc_partials: u32,
    beyond: u32,
}

impl ScanShape {
    fn params(&self) -> ScanParams {
        ScanParams {
            l: self.l as u32,
            d_inner: self.d_inner as u32,
            d_state: self.d_state as u32,
            x_dbl_stride: self.x_dbl_stride as u32,
            b_offset: self.b_offset as u32,
            c_offset: self.c_offset as u32,
            xz_stride: self.xz_stride as u32,
            z_offset: self.z_offset as u32,
            t0: 0,
            chunk: 0,
            n_chunks: 0,
            batch: 1,
            coefficients: 0,
            c_partials: 0,
            bc_partials: 0,
            beyond: 0,
        }
    }

    /// Kernels that keep a channel's states in registers set this much aside; beyond it they would not fit any GPU.
    pub(crate) const MAX_STATES: usize = 256;

    fn with_states(&self, kernel: &'static str) -> Result<ShaderSpec, GpuError> {
        within_registers(kernel, self.d_state)?;
        Ok(ShaderSpec::new(kernel).constant("D_STATE", self.d_state as u32))
    }
}

fn within_registers(kernel: &'static str, d_state: usize) -> Result<(), GpuError> {
    let (what, value, limit) = ("d_state", d_state, ScanShape::MAX_STATES);
    match value > limit {
        true => Err(GpuError::Unsupported { kernel, what, value, limit }),
        false => Ok(()),
    }
}

/// What a shader variant needs beyond WebGPU's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    pub f16: bool,
    pub subgroups: bool,
    pub cooperative_matrix: bool,
}

/// A complete shader, as the checks under tests/ put it through every compiler.
#[derive(Debug, Clone)]
pub struct ShaderVariant {
    pub label: String,
    /// Complete WGSL, includes and constants resolved.
    pub source: String,
    pub entry_point: &'static str,
    /// Values for `override` constants.
    pub constants: Vec<(String, f64)>,
    pub needs: Needs,
}

/// Matrices (n, k), and whether on a software adapter, for which matvec's layouts differ in kind.
const MATVECS: [(bool, usize, usize); 4] =
    [(true, 512, 128), (false, 80, 1536), (false, 3072, 768), (false, 50_280, 2560)];

/// Every variant of every kernel; for those with the number of states in them, a few numbers that matter
/// (1, odd, 16 as published, 64).
pub fn all_specs() -> Vec<ShaderSpec> {
    let mut specs = Vec::new();
    let formats = WeightFormat::ALL;
    specs.extend(formats.map(embedding::spec));
    let (act, act16) = (NumberFormat::F32, NumberFormat::F16);
    let layouts = |format| MATVECS.map(|(software, n, k)| linear::Layout::new(software, format, n, k));
    for format in formats {
        // softplus is dt_proj's, and step_mixer too; that one is never quantised.
        let plain = format.quant().is_none();
        for (bias, softplus) in [(false, false), (true, false), (false, true), (true, true)] {
            if softplus && !plain {
                continue;
            }
            let tiles = [&linear::Tile::FEW[..], &[linear::Tile::MANY]].concat();
            specs.extend(tiles.iter().map(|tile| linear::matmul_spec(format, (bias, softplus), (act, act), *tile)));
            if format != WeightFormat::F32 {
                specs.push(linear::matmul_coop_spec(format, (bias, softplus), (act16, act16), false));
            }
            specs.extend(layouts(format).map(|l| linear::matvec_spec(format, "PLAIN", (bias, softplus), l)));
        }
        specs.push(linear::matmul_split_spec(format));
        for (bias, layout) in [false, true].into_iter().flat_map(|bias| layouts(format).map(move |l| (bias, l))) {
            let spec = |input| linear::matvec_spec(format, input, (bias, false), layout);
            specs.extend([
                spec("WHOLE"),
                spec("WHOLE").flag("ADD", true),
                spec("NORM"),
                spec("NORM").flag("ADD", true),
            ]);
            if bias {
                specs.push(spec("WHOLE").flag("ADD", true).flag("SCALED", true));
            }
            for gated in [false, true] {
                let layout = if gated { layout.of_pairs() } else { layout };
                let act = Activate { f: Activation::Silu, gated, gate_scale: 1.0, scale: 1.0 };
                specs.push(linear::activated(linear::matvec_spec(format, "NORM", (bias, false), layout), act));
            }
            specs.push(spec("NORM").flag("CONV", true).constant("D_CONV", 4));
        }
        if plain {
            specs.extend([false, true].map(|falcon| step::spec(format, falcon)));
        }
    }
    for format in [act, act16] {
        for on in [false, true] {
            let specs_of =
                [conv1d::spec(on, (act, format)), conv1d::spec(on, (format, format)), norm::rms_norm_spec(on, format)];
            specs.extend(specs_of.iter().map(|spec| spec.clone().flag("WATCH", true)));
            specs.extend(specs_of);
        }
        specs.push(conv1d::state_spec(format));
    }
    for (x, y) in [(act16, act), (act, act16)] {
        specs.push(linear::matmul_spec(WeightFormat::F16, (false, false), (x, y), linear::Tile::MANY));
        specs.push(linear::matmul_coop_spec(WeightFormat::F16, (true, true), (x, y), false));
    }
    specs.push(linear::matmul_coop_spec(WeightFormat::F16, (true, true), (act, act16), false).flag("WATCH", true));
    specs.push(linear::matmul_coop_spec(WeightFormat::F16, (false, false), (act16, act), true));
    specs.extend(few::specs());
    specs.extend([false, true].map(conv1d::update_spec));
    specs.push(scan_sequential::update_spec());
    specs.push(norm::x_dbl_norm_spec());
    specs.extend(sampling::specs());
    specs.extend(optimiser::specs());
    specs.extend(["discretise", "scan_output"].map(ShaderSpec::new));
    specs.extend(explain::specs());
    specs.extend(ceilings::specs());
    specs.push(fill::spec());
    specs.extend(backward::specs());
    specs.extend(ssd::specs());
    specs.extend(gated_norm::specs());
    specs.extend(attention::specs());
    specs.extend(activate::specs());
    specs.extend(scale_add::specs());
    specs.extend(experts::specs());
    for width in scan_blelloch::WIDTHS {
        specs.extend([scan_blelloch::spec(width), scan_blelloch::add_spec(width)]);
    }
    for d_state in [1, 5, 16, 64] {
        for name in ["scan_sequential", "scan_fused_carry"] {
            specs.push(ShaderSpec::new(name).constant("D_STATE", d_state));
        }
        for (name, channels, act) in [("scan_fused_reduce", 128, (act, act)), ("scan_fused_reduce", 32, (act16, act))] {
            specs.push(scan_fused::pass_spec(name, d_state, channels, act, false));
            let apply = scan_fused::pass_spec("scan_fused_apply", d_state, channels, act, false);
            specs.extend([apply.clone(), apply.flag("WATCH", true)]);
        }
    }
    specs
}

/// The same as complete sources.
pub fn all_variants() -> Vec<ShaderVariant> {
    let variant = |spec: ShaderSpec| ShaderVariant {
        label: spec.label(),
        source: spec.source(),
        entry_point: "main",
        constants: Vec::new(),
        needs: Needs { f16: spec.f16(), subgroups: false, cooperative_matrix: spec.cooperative },
    };
    all_specs().into_iter().map(variant).collect()
}
