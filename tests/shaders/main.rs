//! Every variant of every shader, through every compiler that will meet it: naga's validator and its four writers, then
//! spirv-val, DXC, glslangValidator and Tint (the WGSL compiler of Chromium). MSL is written, not compiled: Apple's
//! compiler exists on macOS alone.
//!
//! A checker that is not installed fails its test; `scripts/setup-tests.sh` installs them all. Each checker is also
//! shown something broken, which it must refuse.

mod checkers;
mod limits;
mod sources;
mod spirv;
mod translate;

use checkers::{dxc, glslang, spirv_val, tint, Job, Verdict};
use mamba_wgpu::kernels::{all_variants, Needs, ShaderVariant};
use translate::{Resolved, Runtime};

/// A shader of no special needs, from text.
fn plain(label: &str, source: &str) -> ShaderVariant {
    ShaderVariant {
        label: label.into(),
        source: source.into(),
        entry_point: "main",
        constants: Vec::new(),
        needs: Needs::default(),
    }
}

/// WGSL that uses all that variants may: f16, subgroups, `override` constants in sizes. It keeps those paths of the
/// checks alive whatever the library's own variants need.
fn extensions_sample() -> ShaderVariant {
    let source = r#"
enable f16;
override WG: u32 = 32u;
@group(0) @binding(0) var<storage, read> x: array<f16>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
var<workgroup> partial: array<f32, WG>;
@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) i: u32, @builtin(subgroup_size) size: u32) {
    partial[i] = subgroupAdd(f32(x[i] * 2.0h)) / f32(size);
    workgroupBarrier();
    y[i] = partial[WG - 1u - i];
}
"#;
    let mut sample = plain("sample: f16, subgroups, override", source);
    sample.constants = vec![("WG".into(), 64.0)];
    (sample.needs.f16, sample.needs.subgroups) = (true, true);
    sample
}

const COOPERATIVE_SAMPLE: &str = "sample: cooperative matrix";

/// WGSL that multiplies cooperative matrices, for what is native only.
fn cooperative_sample() -> ShaderVariant {
    let source = r#"
enable f16;
enable wgpu_cooperative_matrix;
@group(0) @binding(0) var<storage, read> a: array<f16>;
@group(0) @binding(1) var<storage, read> b: array<f16>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@compute @workgroup_size(32)
fn main() {
    let x = coopLoadT<coop_mat16x16<f16, A>>(&a[0], 16u);
    let y = coopLoadT<coop_mat16x16<f16, B>>(&b[0], 16u);
    let z = coopLoadT<coop_mat16x16<f32, C>>(&c[0], 16u);
    coopStoreT(coopMultiplyAdd(x, y, z), &c[0], 16u);
}
"#;
    let mut sample = plain(COOPERATIVE_SAMPLE, source);
    (sample.needs.f16, sample.needs.cooperative_matrix) = (true, true);
    sample
}

fn variants() -> Vec<ShaderVariant> {
    let mut variants = all_variants();
    assert!(variants.len() > 1, "the library lists no shader");
    variants.extend([extensions_sample(), cooperative_sample()]);
    variants
}

/// Runs `check` over all variants and reports every failure, not only the first.
fn each_variant(check: impl Fn(&ShaderVariant, &Resolved) -> Result<(), String>) {
    let mut failures = Vec::new();
    for variant in variants() {
        let result = translate::resolve(&variant).and_then(|resolved| check(&variant, &resolved));
        if let Err(message) = result {
            failures.push(format!("{}: {message}", variant.label));
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Translates all variants with `job`, hands them to `checker` at once, and demands that it accepts each. `job` gives
/// None for a variant that the target cannot express.
fn all_accepted(
    checker: impl Fn(&[Job]) -> Vec<Verdict>,
    job: impl Fn(&ShaderVariant, &Resolved) -> Option<Result<Job, String>>,
) {
    let mut jobs = Vec::new();
    for variant in variants() {
        let job = translate::resolve(&variant).map_or_else(|e| Some(Err(e)), |resolved| job(&variant, &resolved));
        match job {
            Some(Ok(job)) => jobs.push(job),
            Some(Err(message)) => panic!("{}: {message}", variant.label),
            None => {}
        }
    }
    let verdicts = checker(&jobs);
    assert_eq!(verdicts.len(), jobs.len());
    let refused: Vec<String> = jobs
        .iter()
        .zip(verdicts)
        .filter_map(|(job, verdict)| verdict.err().map(|message| format!("{}: {message}", job.label)))
        .collect();
    assert!(refused.is_empty(), "{} of {} refused:\n{}", refused.len(), jobs.len(), refused.join("\n"));
}

/// The checker refuses the bad job with a message that holds `expected`, and accepts the good one before and after it.
fn only_bad_refused(checker: impl Fn(&[Job]) -> Vec<Verdict>, good: Job, bad: Job, expected: &str) {
    let verdicts = checker(&[good.clone(), bad, good]);
    assert_eq!(verdicts.len(), 3);
    assert_eq!([&verdicts[0], &verdicts[2]], [&Ok(()), &Ok(())]);
    let message = verdicts[1].as_ref().expect_err("the broken shader was accepted");
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
}

#[test]
#[should_panic(expected = "scripts/setup-tests.sh")]
fn a_missing_checker_fails_and_names_the_script() {
    checkers::run(&mut std::process::Command::new("mamba-wgpu-no-such-checker"));
}

#[test]
fn naga_accepts_every_variant_and_writes_msl() {
    each_variant(|_, resolved| resolved.msl());
}

#[test]
fn naga_refuses_what_a_variant_did_not_ask_for() {
    let mut variant = extensions_sample();
    assert!(translate::resolve(&variant).is_ok());
    variant.needs.f16 = false;
    assert!(translate::resolve(&variant).is_err());
    variant.needs = Needs { f16: true, ..Needs::default() };
    assert!(translate::resolve(&variant).is_err());
    variant = extensions_sample();
    variant.constants = vec![("WGS".into(), 64.0)];
    assert!(translate::resolve(&variant).unwrap_err().contains("WGS"));
}

#[test]
fn every_variant_stays_inside_the_default_limits_of_webgpu() {
    each_variant(|variant, resolved| limits::check(resolved, limits::workgroup_memory(variant)));
}

#[test]
fn the_limits_are_seen() {
    let refusal = |source: &str, constants: &[(&str, f64)]| {
        let mut variant = plain("sample", source);
        variant.constants = constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        limits::check(&translate::resolve(&variant).unwrap(), limits::workgroup_memory(&variant))
    };
    let buffers = |n: usize, kind: &str, used: usize| {
        let declared: String =
            (0..n).map(|i| format!("@group(0) @binding({i}) var<{kind}> b{i}: array<vec4f, 4>;\n")).collect();
        let body: String = (0..used).map(|i| format!("v += b{i}[0].x; ")).collect();
        let write = "@group(1) @binding(0) var<storage, read_write> y: f32;";
        format!("{declared}{write}\n@compute @workgroup_size(1) fn main() {{ var v = 0.0; {body} y = v; }}")
    };
    assert_eq!(refusal(&buffers(7, "storage, read", 7), &[]), Ok(()));
    assert!(refusal(&buffers(8, "storage, read", 8), &[]).unwrap_err().contains("9 storage buffers"));
    assert_eq!(refusal(&buffers(8, "storage, read", 7), &[]), Ok(()), "a buffer not used does not count");
    assert_eq!(refusal(&buffers(12, "uniform", 12), &[]), Ok(()));
    assert!(refusal(&buffers(13, "uniform", 13), &[]).unwrap_err().contains("13 uniform buffers"));

    let sized = "override N: u32 = 1u;\nvar<workgroup> w: array<f32, N>;\nvar<workgroup> v: u32;\n\
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;\n\
        @compute @workgroup_size(N / 16u, 1, 2) fn main(@builtin(local_invocation_index) i: u32) {\n\
        w[i] = y[i]; v = i; workgroupBarrier(); y[i] = w[N - 1u - i] + f32(v); }";
    assert_eq!(refusal(sized, &[("N", 2048.0)]), Ok(()));
    assert!(refusal(sized, &[("N", 2064.0)]).unwrap_err().contains("258 invocations"));
    assert!(refusal(sized, &[("N", 4096.0)]).unwrap_err().contains("16400 bytes of workgroup memory"));
}

#[test]
fn every_line_of_every_shader_is_in_a_variant() {
    let files = sources::read();
    assert!(files.iter().any(|(path, _)| path == "matmul.wgsl"), "shaders/ was not found");
    let lost = sources::lines_in_no_variant(&files, &all_variants());
    assert!(lost.is_empty(), "in no variant of all_variants():\n{}", lost.join("\n"));
}

#[test]
fn a_shader_left_out_is_noticed() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("a.wgsl", "#include \"shared/s.wgsl\"\nfn a() {}\n#if BIAS\nfn bias() {}\n#endif\n"),
        file("b.wgsl", "// said twice\nfn a() {} // here too\n"),
        file("shared/s.wgsl", "fn s() {}\nfn t() {}\n"),
    ];
    let lost = sources::lines_in_no_variant(&files, &[plain("a", "fn s() {}\nfn a() {}\n")]);
    assert_eq!(lost, ["a.wgsl:4: fn bias() {}", "b.wgsl:2: fn a() {}", "shared/s.wgsl:2: fn t() {}"]);
}

#[test]
fn spirv_val_accepts_every_variant() {
    for runtime in [Runtime::Trusted, Runtime::Checked] {
        for version in translate::SPIRV_VERSIONS {
            all_accepted(spirv_val, |variant, resolved| {
                (version >= resolved.least_spirv() && variant.label != COOPERATIVE_SAMPLE)
                    .then(|| resolved.spirv(version, runtime).map(|words| Job::spirv(&variant.label, version, &words)))
            });
        }
    }
}

/// Of a matrix that is loaded but never held in a variable naga 30 declares the capability without the extension and the memory
/// model that go with it: drivers take that, spirv-val does not. Kernels hold theirs; this test says when they need not.
#[test]
fn cooperative_matrices_without_a_variable_are_not_yet_valid() {
    let words = translate::resolve(&cooperative_sample()).unwrap().spirv((1, 6), Runtime::Trusted).unwrap();
    let verdicts = spirv_val(&[Job::spirv(COOPERATIVE_SAMPLE, (1, 6), &words)]);
    let message = verdicts[0].as_ref().expect_err("valid now: judge it like the others");
    assert!(message.contains("CooperativeMatrixKHR"), "{message}");
}

#[test]
fn spirv_val_refuses_a_corrupted_word() {
    let variant = extensions_sample();
    let version = (1, 3);
    let words = translate::resolve(&variant).unwrap().spirv(version, Runtime::Trusted).unwrap();
    let mut corrupted = words.clone();
    corrupted[words.len() / 2] ^= 0x0101;
    only_bad_refused(
        spirv_val,
        Job::spirv("good", version, &words),
        Job::spirv("corrupted", version, &corrupted),
        "error:",
    );
}

// naga's HLSL and GLSL writers refuse cooperative matrices, and no browser has them: such a variant is native only
// (Vulkan and Metal), and neither DXC, glslang nor Tint sees it.
fn beyond_native(variant: &ShaderVariant) -> bool {
    !variant.needs.cooperative_matrix
}

#[test]
fn dxc_accepts_every_variant() {
    all_accepted(dxc, |variant, resolved| {
        beyond_native(variant).then(|| resolved.hlsl().map(|(entry, text)| Job::hlsl(variant, &entry, &text)))
    });
}

#[test]
fn dxc_refuses_broken_hlsl() {
    let variant = extensions_sample();
    let (entry, text) = translate::resolve(&variant).unwrap().hlsl().unwrap();
    let broken = text.replacen("float ", "floaty ", 1);
    assert_ne!(text, broken);
    only_bad_refused(
        dxc,
        Job::hlsl(&variant, &entry, &text),
        Job::hlsl(&variant, &entry, &broken),
        "unknown type name 'floaty'",
    );
    // float16_t is a type only where 16-bit types were asked for.
    let text = text.replace("half", "float16_t");
    let mut plain = variant.clone();
    plain.needs.f16 = false;
    only_bad_refused(dxc, Job::hlsl(&variant, &entry, &text), Job::hlsl(&plain, &entry, &text), "float16_t");
}

#[test]
fn glslang_accepts_every_variant() {
    all_accepted(glslang, |variant, resolved| {
        // GLSL ES has no 16-bit floats.
        (beyond_native(variant) && !variant.needs.f16)
            .then(|| resolved.glsl().map(|text| Job::glsl(&variant.label, &text)))
    });
}

#[test]
fn glslang_refuses_broken_glsl() {
    let source = extensions_sample().source.replace("enable f16;", "").replace("f16", "f32").replace("2.0h", "2.0");
    let mut variant = plain("sample: subgroups", &source);
    variant.needs.subgroups = true;
    let text = translate::resolve(&variant).unwrap().glsl().unwrap();
    let broken = text.replacen("float", "floaty", 1);
    assert_ne!(text, broken);
    only_bad_refused(glslang, Job::glsl("good", &text), Job::glsl("broken", &broken), "ERROR");
}

#[test]
fn tint_accepts_every_variant() {
    all_accepted(tint, |variant, _| beyond_native(variant).then(|| Ok(Job::wgsl(variant))));
}

#[test]
fn tint_refuses_a_barrier_in_non_uniform_control_flow() {
    let shader = |guard: &str| {
        format!(
            "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\nvar<workgroup> w: array<f32, 64>;\n\
            @compute @workgroup_size(64)\nfn main(@builtin(global_invocation_id) id: vec3u) {{\n    {guard}\n    \
            w[id.x % 64u] = y[id.x];\n    workgroupBarrier();\n    y[id.x] = w[63u - id.x % 64u];\n}}\n"
        )
    };
    let good = plain("good", &shader(""));
    let bad = plain("barrier after a return", &shader("if id.x >= arrayLength(&y) { return; }"));
    assert!(translate::resolve(&bad).is_ok(), "naga now sees this too: good news, and this sample needs another");
    only_bad_refused(tint, Job::wgsl(&good), Job::wgsl(&bad), "uniform");
}

#[test]
fn tint_refuses_extensions_and_sizes_beyond_the_default_device() {
    let sample = extensions_sample();
    let mut without = extensions_sample();
    without.needs = Needs::default();
    only_bad_refused(tint, Job::wgsl(&sample), Job::wgsl(&without), "f16");
    let mut large = extensions_sample();
    large.constants = vec![("WG".into(), 512.0)];
    only_bad_refused(tint, Job::wgsl(&sample), Job::wgsl(&large), "512");
}
