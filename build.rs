//! Puts the shaders, without their comments, where src/gpu/shader.rs takes them from, with a list of them; tells the crate which
//! commit it was built from, for the reports of `mamba-wgpu bench`.

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

/// Copies every .wgsl file below a folder, bare, to the same place below another. `found`: their paths below `top`, with their texts.
fn copy_shaders(top: &Path, from: &Path, to: &Path, found: &mut Vec<(String, String)>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy_shaders(top, &path, &to.join(name), found)?;
        } else if path.extension().is_some_and(|ending| ending == "wgsl") {
            let text = bare(&fs::read_to_string(&path)?);
            fs::write(to.join(name), &text)?;
            let below = path.strip_prefix(top).map_err(io::Error::other)?;
            let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
            found.push((parts.join("/"), text));
        }
    }
    Ok(())
}

/// An include of a file that is not there would be an empty one, and show only in a driver's message.
fn check_includes(sources: &[(String, String)]) -> io::Result<()> {
    for (path, text) in sources {
        for name in text.lines().filter_map(|line| line.strip_prefix("#include ")).map(|name| name.trim_matches('"')) {
            if !name.starts_with("${") && !sources.iter().any(|(path, _)| path == name) {
                return Err(io::Error::other(format!("shaders/{path} includes {name:?}, which is not under shaders/")));
            }
        }
    }
    Ok(())
}

/// Whether only native adapters run it: no browser has cooperative matrices (`Gpu::cooperative`), and a page would download it.
fn native(path: &str, text: &str) -> bool {
    text.contains("coop_mat") || path.starts_with("shared/coop_")
}

/// `SOURCES`, for src/gpu/shader.rs.
fn list(sources: &[(String, String)]) -> String {
    let line = |(path, _): &(String, String)| {
        format!("    ({path:?}, include_str!(concat!(env!(\"OUT_DIR\"), \"/shaders/\", {path:?}))),\n")
    };
    let lines: String = sources.iter().map(line).collect();
    format!(
        "/// Every file under shaders/, by its path there, without its comments.\npub const SOURCES: &[(&str, &str)] = &[\n{lines}];\n"
    )
}

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shaders");
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or(io::ErrorKind::NotFound)?;
    let (shaders, mut sources) = (Path::new("shaders"), Vec::new());
    copy_shaders(shaders, shaders, &out.join("shaders"), &mut sources)?;
    sources.sort();
    check_includes(&sources)?;
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        sources.retain(|(path, text)| !native(path, text));
    }
    fs::write(out.join("sources.rs"), list(&sources))?;
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
