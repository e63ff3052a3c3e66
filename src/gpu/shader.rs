//! The WGSL sources: includes, flags and constants, put together by a concatenator of a few lines.
//!
//! A file may hold, on lines of their own:
//! - `#include "shared/math.wgsl"`: that file, the first time it is named;
//! - `#include "${weight}"`: the file that reads weights in the variant's [`WeightFormat`] by quads, `"${unit}"` by 16 bytes;
//! - `#if FLAG`, `#else`, `#endif`: kept or left out by the variant's flags (not nested);
//! - `#repeat i 4`, `#end`: what stands between, four times, `${i}` replaced by 0 to 3 (may be nested). For what WGSL cannot
//!   loop over: naga 30 refuses arrays of cooperative matrices.
//!
//! Number formats that a file leaves open (`act`, `x_t`, `y_t`) are put before it as `alias`, with a function `to_act`,
//! ..., that rounds an f32 to it.
//!
//! Constants that size arrays outside workgroup memory (which `override` cannot) are put before the file as `const`.

use crate::reference::Quant;

/// How weight matrices lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    F32,
    /// Two values a word, unpacked by `unpack2x16float`: no feature needed.
    F16,
    /// Quantised to 8 bits: shared/weight_q8.wgsl. With a binding more, for the scales.
    Q8,
    /// Quantised to 4 bits: shared/weight_q4.wgsl. Likewise.
    Q4,
}

impl WeightFormat {
    pub const ALL: [WeightFormat; 4] = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4];

    /// `f32`, `f16`, `q8`, `q4`: in labels and reports.
    pub fn tag(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Q8 => "q8",
            WeightFormat::Q4 => "q4",
        }
    }

    /// How it is quantised, if it is.
    pub fn quant(self) -> Option<Quant> {
        match self {
            WeightFormat::F32 | WeightFormat::F16 => None,
            WeightFormat::Q8 => Some(Quant::Q8),
            WeightFormat::Q4 => Some(Quant::Q4),
        }
    }
}

impl From<Quant> for WeightFormat {
    fn from(quant: Quant) -> Self {
        match quant {
            Quant::Q8 => WeightFormat::Q8,
            Quant::Q4 => WeightFormat::Q4,
        }
    }
}

/// One variant of a kernel: the file's name without its ending, and what it is put together with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShaderSpec {
    pub name: &'static str,
    pub weight: Option<WeightFormat>,
    pub flags: Vec<&'static str>,
    pub constants: Vec<(&'static str, u32)>,
    /// Names for number formats, in the order in which the kernel gives them.
    pub types: Vec<(&'static str, NumberFormat)>,
    /// Whether it multiplies cooperative matrices.
    pub cooperative: bool,
}

/// How activations lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NumberFormat {
    #[default]
    F32,
    /// With WGSL's f16: the feature shader-f16 is needed.
    F16,
}

impl NumberFormat {
    pub fn tag(self) -> &'static str {
        match self {
            NumberFormat::F32 => "f32",
            NumberFormat::F16 => "f16",
        }
    }
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            NumberFormat::F32 => 4,
            NumberFormat::F16 => 2,
        }
    }
}

macro_rules! sources {
    ($($file:literal),* $(,)?) => {
        /// Every file under shaders/, by its path there, without its comments (build.rs).
        pub const SOURCES: &[(&str, &str)] =
            &[$(($file, include_str!(concat!(env!("OUT_DIR"), "/shaders/", $file)))),*];
    };
}

sources![
    "argmax.wgsl",
    "backward/column_sums.wgsl",
    "backward/conv1d_backward.wgsl",
    "backward/cross_entropy.wgsl",
    "backward/embedding_backward.wgsl",
    "backward/largest.wgsl",
    "backward/matmul_grad.wgsl",
    "backward/matmul_grad_split.wgsl",
    "backward/pointwise.wgsl",
    "backward/rms_norm_backward.wgsl",
    "backward/scan_backward_apply.wgsl",
    "backward/scan_backward_reduce.wgsl",
    "backward/sum_partials.wgsl",
    "bench_copy.wgsl",
    "bench_fma.wgsl",
    "channel_stats.wgsl",
    "conv1d.wgsl",
    "conv1d_state.wgsl",
    "conv1d_update.wgsl",
    "discretise.wgsl",
    "embedding.wgsl",
    "fill.wgsl",
    "gated_rms_norm.wgsl",
    "hidden_attention.wgsl",
    "matmul.wgsl",
    "matmul_coop.wgsl",
    "matmul_split.wgsl",
    "matvec.wgsl",
    "rms_norm.wgsl",
    "sample_draw.wgsl",
    "sample_greedy.wgsl",
    "sample_mass.wgsl",
    "sample_scale.wgsl",
    "sample_select.wgsl",
    "scan_blelloch.wgsl",
    "scan_blelloch_add.wgsl",
    "scan_fused_apply.wgsl",
    "scan_fused_carry.wgsl",
    "scan_fused_reduce.wgsl",
    "scan_output.wgsl",
    "scan_sequential.wgsl",
    "selective_state_update.wgsl",
    "ssd_bmm_chunk.wgsl",
    "ssd_chunk_cumsum.wgsl",
    "ssd_chunk_scan.wgsl",
    "ssd_chunk_state.wgsl",
    "ssd_delta.wgsl",
    "ssd_sequential.wgsl",
    "ssd_state_passing.wgsl",
    "ssd_state_update.wgsl",
    "step_mixer.wgsl",
    "shared/argmax.wgsl",
    "shared/carry.wgsl",
    "shared/conv.wgsl",
    "shared/coop_f16.wgsl",
    "shared/coop_q4.wgsl",
    "shared/coop_q8.wgsl",
    "shared/gate.wgsl",
    "shared/grid.wgsl",
    "shared/halves.wgsl",
    "shared/linear.wgsl",
    "shared/math.wgsl",
    "shared/matmul_grad.wgsl",
    "shared/ordered.wgsl",
    "shared/reduce.wgsl",
    "shared/sample.wgsl",
    "shared/sample_end.wgsl",
    "shared/sample_find.wgsl",
    "shared/sample_top.wgsl",
    "shared/scan.wgsl",
    "shared/scan_backward.wgsl",
    "shared/scan_chunk.wgsl",
    "shared/scan_fused.wgsl",
    "shared/scan_op.wgsl",
    "shared/scan_sequential.wgsl",
    "shared/ssd.wgsl",
    "shared/ssd_columns.wgsl",
    "shared/ssd_delta.wgsl",
    "shared/ssd_log.wgsl",
    "shared/ssd_rows.wgsl",
    "shared/ssd_tile.wgsl",
    "shared/threefry.wgsl",
    "shared/rows.wgsl",
    "shared/train_step.wgsl",
    "shared/unit_f16.wgsl",
    "shared/unit_f32.wgsl",
    "shared/unit_q4.wgsl",
    "shared/unit_q8.wgsl",
    "shared/watch.wgsl",
    "shared/weight_f16.wgsl",
    "shared/weight_f32.wgsl",
    "shared/weight_q4.wgsl",
    "shared/weight_q8.wgsl",
    "shared/wide.wgsl",
    "token_nll.wgsl",
    "token_stats.wgsl",
    "train/adamw.wgsl",
    "train/gradient_clip.wgsl",
    "train/gradient_norm.wgsl",
    "x_dbl_norm.wgsl",
];

fn file(path: &str) -> &'static str {
    SOURCES.iter().find(|(name, _)| *name == path).map_or("", |(_, text)| text)
}

/// Lines of a repetition's body, before its `#end`.
fn block(lines: &[&str]) -> usize {
    let mut depth = 0;
    let ends = |line: &&str| {
        match line.trim() {
            "#end" if depth == 0 => return true,
            "#end" => depth -= 1,
            word if word.starts_with("#repeat ") => depth += 1,
            _ => {}
        }
        false
    };
    lines.iter().position(ends).unwrap_or(lines.len().saturating_sub(1))
}

impl ShaderSpec {
    pub fn new(name: &'static str) -> Self {
        Self { name, weight: None, flags: Vec::new(), constants: Vec::new(), types: Vec::new(), cooperative: false }
    }
    pub fn weight(mut self, format: WeightFormat) -> Self {
        self.weight = Some(format);
        self
    }
    /// Sets a flag for `#if`, if the condition holds.
    pub fn flag(mut self, name: &'static str, on: bool) -> Self {
        if on {
            self.flags.push(name);
        }
        self
    }
    pub fn constant(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// Names a number format that the file leaves open.
    pub fn number(mut self, name: &'static str, format: NumberFormat) -> Self {
        self.types.push((name, format));
        self
    }
    /// The kernel multiplies cooperative matrices.
    pub fn cooperative(mut self) -> Self {
        self.cooperative = true;
        self
    }
    /// Whether WGSL's f16 is used.
    pub fn f16(&self) -> bool {
        self.cooperative || self.types.iter().any(|(_, format)| *format == NumberFormat::F16)
    }

    /// "matmul f16 BIAS", "scan_sequential D_STATE=16": the name that errors, doctor and timings show.
    pub fn label(&self) -> String {
        let mut label = self.name.to_owned();
        if let Some(format) = self.weight {
            label.push(' ');
            label.push_str(format.tag());
        }
        for flag in &self.flags {
            label.push(' ');
            label.push_str(flag);
        }
        for (name, value) in &self.constants {
            label.push_str(&format!(" {name}={value}"));
        }
        // f32 goes without saying.
        for (name, format) in self.types.iter().filter(|(_, format)| *format != NumberFormat::F32) {
            label.push_str(&format!(" {name}={}", format.tag()));
        }
        label
    }

    /// The complete WGSL.
    pub fn source(&self) -> String {
        let mut out = String::new();
        if self.f16() {
            out.push_str("enable f16;\n");
        }
        if self.cooperative {
            out.push_str("enable wgpu_cooperative_matrix;\n");
        }
        for (name, format) in &self.types {
            out.push_str(&format!("alias {name} = {};\n", format.tag()));
            // What f16 cannot hold is stored as the largest that it can: an infinity would make NaN of all that follows.
            let value = match format {
                NumberFormat::F32 => "x",
                NumberFormat::F16 => "f16(clamp(x, -65504.0, 65504.0))",
            };
            out.push_str(&format!("fn to_{name}(x: f32) -> {name} {{ return {value}; }}\n"));
        }
        for (name, value) in &self.constants {
            out.push_str(&format!("const {name}: u32 = {value}u;\n"));
        }
        let path = format!("{}.wgsl", self.name);
        self.expand(&file(&path).lines().collect::<Vec<_>>(), &[], &mut Vec::new(), &mut out);
        out
    }

    /// `counters`: those of the repetitions around these lines.
    fn expand(&self, lines: &[&str], counters: &[(&str, u32)], included: &mut Vec<String>, out: &mut String) {
        let mut keep = true;
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            at += 1;
            let word = line.trim();
            if let (true, Some(repeat)) = (keep, word.strip_prefix("#repeat ")) {
                let length = block(&lines[at..]);
                let (name, count) = repeat.split_once(' ').unwrap_or((repeat, ""));
                for i in 0..count.trim().parse().unwrap_or(0) {
                    let counters: Vec<_> = counters.iter().copied().chain([(name, i)]).collect();
                    self.expand(&lines[at..at + length], &counters, included, out);
                }
                at += length + 1;
            } else if let Some(flag) = word.strip_prefix("#if ") {
                keep = self.flags.contains(&flag.trim());
            } else if word == "#else" {
                keep = !keep;
            } else if word == "#endif" {
                keep = true;
            } else if let (true, Some(name)) = (keep, word.strip_prefix("#include ")) {
                let format = self.weight.unwrap_or(WeightFormat::F32).tag();
                let name = name.trim_matches('"');
                let name = name.replace("${weight}", &format!("shared/weight_{format}.wgsl"));
                let name = name.replace("${coop}", &format!("shared/coop_{format}.wgsl"));
                let name = name.replace("${unit}", &format!("shared/unit_{format}.wgsl"));
                if !included.contains(&name) {
                    included.push(name.clone());
                    self.expand(&file(&name).lines().collect::<Vec<_>>(), &[], included, out);
                }
            } else if keep {
                let counted =
                    |line: String, (name, i): &(&str, u32)| line.replace(&format!("${{{name}}}"), &i.to_string());
                out.push_str(&counters.iter().fold(line.to_string(), counted));
                out.push('\n');
            }
        }
    }
}

/// A kernel's text, its arithmetic wrong by one per cent: shows that what it computes is compared with something.
pub(super) fn spoil(source: String) -> String {
    let places = [
        (" fma(", " 1.01 * fma("),
        ("dot(", "1.01 * dot("),
        (" exp(", " 1.01 * exp("),
        ("= weight4(", "= 1.01 * weight4("),
        // Sums of cooperative matrices, where they are put together.
        ("= sum_", "= 1.01 * sum_"),
        ("unscale * sum_", "1.01 * unscale * sum_"),
    ];
    places.into_iter().fold(source, |source, (exact, spoilt)| source.replace(exact, spoilt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_need_cooperative_matrices_can_be_spoilt() {
        // The others are, on every device (tests/kernels, tests/selftest.rs).
        let split = (ShaderSpec::new("matmul_split"), "1.01 * sum_3_1");
        let gradient = (ShaderSpec::new("backward/matmul_grad_split").flag("X", true), "1.01 * unscale * sum_3_1");
        for (spec, sum) in [split, gradient] {
            let source = spec.source();
            assert!(spoil(source.clone()).contains(sum) && !source.contains("1.01"), "{}", spec.name);
        }
    }

    #[test]
    fn includes_come_once_and_flags_choose() {
        let plain = ShaderSpec::new("conv1d").source();
        let bias = ShaderSpec::new("conv1d").flag("BIAS", true).source();
        assert!(!plain.contains("bias: array") && bias.contains("bias: array"));
        let fused = ShaderSpec::new("scan_fused_reduce").constant("D_STATE", 4).source();
        assert!(fused.starts_with("const D_STATE: u32 = 4u;"));
        assert_eq!(fused.matches("struct Params").count(), 1);
        let update = ShaderSpec::new("selective_state_update").source();
        assert_eq!(update.matches("fn flat_index").count(), 1);
    }

    #[test]
    fn every_include_names_a_file() {
        for (path, text) in SOURCES {
            for line in text.lines().filter_map(|l| l.trim().strip_prefix("#include ")) {
                let name = line.trim_matches('"');
                assert!(
                    ["${weight}", "${unit}", "${coop}"].contains(&name) || !file(name).is_empty(),
                    "{path} includes {name}"
                );
            }
        }
    }
}
