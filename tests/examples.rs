//! The programs under examples/ run and say something. `cargo test` builds them; for this test alone, build them first.

use std::path::PathBuf;
use std::process::Command;

fn run(name: &str) -> String {
    let deps = std::env::current_exe().unwrap();
    let target: PathBuf = deps.ancestors().nth(2).unwrap().into();
    let program = target.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{} is not built: cargo build --examples", program.display());
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn generate_continues_its_prompt_greedily() {
    let text = run("generate");
    assert!(text.trim().len() > 60, "{text:?}");
    assert_eq!(text, run("generate"), "greedy: the same every time");
}

#[test]
fn stream_stops_at_its_stop_string_or_its_length() {
    let text = run("stream");
    assert!(text.trim().len() > 10 && !text.trim_end().contains("\n\n"), "{text:?}");
}

#[test]
fn fork_state_gives_two_endings_to_one_beginning() {
    let text = run("fork_state");
    let endings: Vec<&str> = text.split("Mr. Darcy opened the letter, and").skip(1).collect();
    assert_eq!(endings.len(), 2, "{text}");
    assert_ne!(endings[0].trim_end_matches(['2', '.', ' ', '\n']), endings[1].trim_end());
}

#[test]
fn scan_runs_on_tensors_of_its_own() {
    let text = run("scan");
    assert_eq!(text.lines().filter(|line| line.starts_with("run ")).count(), 3, "{text}");
    assert!(text.contains("y of the last token") && !text.contains("y of the last token: [NaN"), "{text}");
}
