//! The WGSL sources: includes, flags and constants, put together by a concatenator of a few lines.
//!
//! A file may hold, on lines of their own:
//! - `#include "shared/math.wgsl"`: that file, the first time it is named;
//! - `#include "${weight}"`: the file that reads weights in the variant's [`WeightFormat`] by quads, `"${unit}"` by 16 bytes;
//! - `#if FLAG`, `#else`, `#endif`: kept or left out by the variant's flags (not nested);
//! - `#repeat i 4`, `#end`: what stands between, four times (or as often as a constant says), `${i}` replaced by 0 to 3 (may be
//!   nested). For what WGSL cannot loop over: naga 30 refuses arrays of cooperative matrices.
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
    /// Small integers, with a binding more for their scales: shared/weight_q8.wgsl, weight_q4.wgsl.
    Quantised(Quant),
}

impl WeightFormat {
    pub const Q8: Self = Self::Quantised(Quant::Q8);
    pub const Q4: Self = Self::Quantised(Quant::Q4);
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8, Self::Q4];

    /// `f32`, `f16`, `q8`, `q4`: in labels, reports and the names of what is included.
    pub fn tag(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Quantised(quant) => quant.tag(),
        }
    }

    /// How it is quantised, if it is.
    pub fn quant(self) -> Option<Quant> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Quantised(quant) => Some(quant),
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

include!(concat!(env!("OUT_DIR"), "/sources.rs"));

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

    /// A number, or a constant by its name.
    fn count(&self, count: &str) -> u32 {
        let constant = || self.constants.iter().find(|(name, _)| *name == count).map(|(_, value)| *value);
        count.parse().ok().or_else(constant).unwrap_or(0)
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
                for i in 0..self.count(count.trim()) {
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
        let ssd = (ShaderSpec::new("ssd_matrix_bmm"), "1.01 * sum_1_1");
        for (spec, sum) in [split, gradient, ssd] {
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
        let sequential = ShaderSpec::new("scan_sequential").source();
        assert_eq!(sequential.matches("fn flat_index").count(), 1);
    }

    #[test]
    fn every_format_has_the_files_that_includes_leave_open() {
        // build.rs has looked at those that are named.
        let open = SOURCES.iter().flat_map(|(path, text)| text.lines().map(move |line| (path, line)));
        let open = open.filter_map(|(path, line)| Some((path, line.strip_prefix("#include ")?.trim_matches('"'))));
        for (path, name) in open.filter(|(_, name)| name.starts_with("${")) {
            let kind = name.trim_start_matches("${").trim_end_matches('}');
            assert!(["weight", "unit", "coop"].contains(&kind), "{path} includes {name}");
            // f32 is multiplied by matrix units in halves (matmul_split.wgsl).
            let formats = WeightFormat::ALL.into_iter().filter(|f| kind != "coop" || *f != WeightFormat::F32);
            formats.for_each(|f| assert!(!file(&format!("shared/{kind}_{}.wgsl", f.tag())).is_empty(), "{name} {f:?}"));
        }
    }
}
