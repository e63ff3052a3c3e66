//! The files under shaders/, and whether the variants hold all of them.

use mamba_wgpu::kernels::ShaderVariant;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Every file under shaders/: its path there, with forward slashes, and its text.
pub fn read() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).expect("inside shaders/").to_string_lossy().replace('\\', "/");
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                files.push((name, text));
            }
        }
    }
    files.sort();
    files
}

/// The lines that no variant holds, as "path:line: text". A kernel's lines are looked for in the variants of its own
/// name (the first word of their label), a shared file's in all. Directives (`#...`) and substitutions (`${...}`) are
/// not lines of WGSL, and comments no part of them: build.rs leaves them out.
pub fn lines_in_no_variant(files: &[(String, String)], variants: &[ShaderVariant]) -> Vec<String> {
    let mut lost = Vec::new();
    for (path, text) in files {
        let own = |v: &&ShaderVariant| {
            path.starts_with("shared/") || v.label.split_whitespace().next() == path.strip_suffix(".wgsl")
        };
        let held: HashSet<&str> = variants.iter().filter(own).flat_map(|v| v.source.lines()).map(str::trim).collect();
        for (number, line) in text.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default().trim();
            let directive = line.is_empty() || line.starts_with('#') || line.contains("${");
            if !directive && !held.contains(line) {
                lost.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    lost
}
