//! The program ends by itself: not through what the libraries of drivers have left to run at the end of a process, which may crash
//! (Mesa's, closed while another thread is at work) when all is done and written.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Output};

/// A library that ends whatever loads it badly, when it ends.
const CRASHES: &str = "#include <stdlib.h>\n__attribute__((destructor)) static void crash(void) { abort(); }\n";

fn with_the_library(library: &Path, program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).env("LD_PRELOAD", library).output().unwrap()
}

#[test]
fn a_driver_that_crashes_at_the_end_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("crash.c"), folder.path().join("crash.so"));
    std::fs::write(&source, CRASHES).unwrap();
    // The linker of every Rust toolchain here.
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(made.success());
    let ours = Path::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    assert_eq!(with_the_library(&library, Path::new("/bin/true"), &[]).status.code(), None, "it does crash");
    for (arguments, code) in [
        (["generate", "Emma", "--backend", "cpu", "--max-tokens", "1"], 0),
        (["generate", "Emma", "--backend", "cpu", "--model", "/no/such/model"], 1),
        (["generate", "Emma", "--backend", "cpu", "--temperature", "-1"], 2),
    ] {
        let output = with_the_library(&library, ours, &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(output.stdout.is_empty(), code != 0, "{arguments:?}");
    }
}
