//! Puts the shaders, without their comments, where src/gpu/shader.rs takes them from; tells the crate which commit it was built
//! from, for the reports of `mamba-wgpu bench`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// A shader's lines without comments and indentation: a third of the bytes, which a page would download. (WGSL has no strings.)
fn bare(wgsl: &str) -> String {
    let lines = wgsl.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

/// Copies every .wgsl file below a folder, bare, to the same place below another.
fn copy_shaders(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy_shaders(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|ending| ending == "wgsl") {
            fs::write(to.join(name), bare(&fs::read_to_string(&path)?))?;
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shaders");
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or(io::ErrorKind::NotFound)?;
    copy_shaders(Path::new("shaders"), &out.join("shaders"))?;
    // Only where this folder is the repository's top: a copy of the crate inside another repository has no commit.
    if git(&["rev-parse", "--show-prefix"]).is_none_or(|prefix| !prefix.is_empty()) {
        return Ok(());
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        println!("cargo:rustc-env=MAMBA_WGPU_COMMIT={commit}");
    }
    // The reflog grows with every commit and checkout. Naming a file that is not there would rebuild each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    Ok(())
}
