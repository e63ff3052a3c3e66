//! The checkers that are not Rust: each takes all its jobs at once (one process where the tool can) and gives a verdict
//! a job. A checker that is missing panics with the script that installs it.

use mamba_wgpu::kernels::{Needs, ShaderVariant};
use serde_json::{json, Value};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The tool's message where it refuses.
pub type Verdict = Result<(), String>;

/// One shader for one checker.
#[derive(Debug, Clone)]
pub struct Job {
    pub label: String,
    text: Vec<u8>,
    options: Value,
}

impl Job {
    pub fn spirv(label: &str, version: (u8, u8), words: &[u32]) -> Self {
        let environment = match version {
            (1, 0) => "vulkan1.0",
            (1, 3) => "vulkan1.1",
            (1, 5) => "vulkan1.2",
            _ => "vulkan1.3",
        };
        let label = format!("{label} ({environment})");
        let text = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { label, text, options: json!({ "environment": environment }) }
    }

    /// Shader model 6.0, and 6.2 with 16-bit types where the variant needs them: what wgpu asks for.
    pub fn hlsl(variant: &ShaderVariant, entry: &str, text: &str) -> Self {
        let mut arguments = vec!["-E", entry, "-T", if variant.needs.f16 { "cs_6_2" } else { "cs_6_0" }];
        arguments.extend(["-HV", "2018", "-no-warnings", "-Ges"]);
        if variant.needs.f16 {
            arguments.push("-enable-16bit-types");
        }
        Self { label: variant.label.clone(), text: text.into(), options: json!({ "arguments": arguments }) }
    }

    pub fn glsl(label: &str, text: &str) -> Self {
        Self { label: label.into(), text: text.into(), options: Value::Null }
    }

    pub fn wgsl(variant: &ShaderVariant) -> Self {
        let Needs { f16, subgroups, .. } = variant.needs;
        let mut features = Vec::new();
        let mut text = String::new();
        if f16 {
            features.push("shader-f16");
        }
        if subgroups {
            features.push("subgroups");
            // WGSL asks for it, naga refuses it.
            text.push_str("enable subgroups;\n");
        }
        text.push_str(&variant.source);
        let constants: serde_json::Map<String, Value> =
            variant.constants.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let options = json!({ "features": features, "entryPoint": variant.entry_point, "constants": constants });
        Self { label: variant.label.clone(), text: text.into_bytes(), options }
    }

    fn option(&self, name: &str) -> &str {
        self.options[name].as_str().expect("an option of this checker's jobs")
    }
}

/// spirv-val of SPIRV-Tools: one process a module, which is all it can take.
pub fn spirv_val(jobs: &[Job]) -> Vec<Verdict> {
    let program = root().join(".tools/wheels/cmeel.prefix/bin/spirv-val");
    installed(&program, "spirv-val");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("module.spv");
    let check = |job: &Job| {
        fs::write(&file, &job.text).expect("a temporary file");
        let output = run(Command::new(&program).arg("--target-env").arg(job.option("environment")).arg(&file));
        output.status.success().then_some(()).ok_or_else(|| words_of(&output))
    };
    jobs.iter().map(check).collect()
}

/// glslangValidator: all shaders in one process. It prints each file's name, then the file's messages.
pub fn glslang(jobs: &[Job]) -> Vec<Verdict> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names: Vec<String> = (0..jobs.len()).map(|i| format!("{i:04}.comp")).collect();
    for (job, name) in jobs.iter().zip(&names) {
        fs::write(folder.path().join(name), &job.text).expect("a temporary file");
    }
    let output = run(Command::new("glslangValidator").args(&names).current_dir(folder.path()));
    let words = words_of(&output);
    let mut messages: Vec<Option<String>> = vec![None; jobs.len()];
    let mut current = None;
    for line in words.lines() {
        if let Some(place) = names.iter().position(|name| name == line) {
            current = Some(place);
            messages[place] = Some(String::new());
        } else if let Some(message) = current.and_then(|place: usize| messages[place].as_mut()) {
            message.push_str(line);
            message.push('\n');
        }
    }
    // Not every message is an error, but a shader without errors has none.
    let verdict = |message: Option<String>| match message {
        None => Err("glslangValidator does not name this file".into()),
        Some(message) if message.trim().is_empty() => Ok(()),
        Some(message) => Err(message),
    };
    let verdicts: Vec<Verdict> = messages.into_iter().map(verdict).collect();
    let accepted = verdicts.iter().all(Verdict::is_ok);
    assert_eq!(output.status.success(), accepted, "glslangValidator: {}:\n{words}", output.status);
    verdicts
}

/// Microsoft's DirectX shader compiler, by tests/tools/dxc-check.py.
pub fn dxc(jobs: &[Job]) -> Vec<Verdict> {
    let library = root().join(".tools/wheels/compushady/backends/libdxcompiler_x86_64.so");
    installed(&library, "DXC");
    by_script(Command::new("python3").arg(script("dxc-check.py")).arg(library), jobs)
}

/// Tint, as Dawn gives it to Node, by tests/tools/tint-check.mjs.
pub fn tint(jobs: &[Job]) -> Vec<Verdict> {
    let package = root().join(".tools/tint/node_modules/webgpu/index.js");
    installed(&package, "Tint");
    by_script(Command::new("node").arg(script("tint-check.mjs")).arg(package), jobs)
}

/// A script under tests/tools: all jobs as a JSON array on its input; on its output an array of null (accepted) and
/// messages (refused).
fn by_script(command: &mut Command, jobs: &[Job]) -> Vec<Verdict> {
    let shaders: Vec<Value> =
        jobs.iter().map(|job| json!({ "text": String::from_utf8_lossy(&job.text), "options": job.options })).collect();
    let input = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(input.path(), Value::from(shaders).to_string()).expect("a temporary file");
    let output = run(command.stdin(Stdio::from(input.reopen().expect("a temporary file"))));
    let answers: Vec<Option<String>> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{command:?}: {e}; {}\n{}", output.status, words_of(&output)));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    assert_eq!(answers.len(), jobs.len(), "{command:?}: answers");
    answers.into_iter().map(|answer| answer.map_or(Ok(()), Err)).collect()
}

pub fn run(command: &mut Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|e| panic!("{program}: {e}: run scripts/setup-tests.sh, which installs it"))
}

fn installed(file: &Path, checker: &str) {
    assert!(file.exists(), "{checker} is not installed ({}): run scripts/setup-tests.sh", file.display());
}

fn words_of(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str) -> PathBuf {
    root().join("tests/tools").join(name)
}
