//! Outputs that must not meet, and places that are links to nowhere: refused in one line, before the work. A closed pipe ends quietly.
#![cfg(unix)]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mamba-wgpu");
const REPORT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/benches/records/nvidia-h100-80gb-hbm3/2026-11-25-backward.json");
const GENERATE: [&str; 7] = ["generate", "Emma", "--max-tokens", "3", "--backend", "cpu", "--json"];
const EXPLAIN: [&str; 8] = ["explain", "--text", "Emma", "--layer", "0", "--backend", "cpu", "--json"];
const TRAIN: [&str; 8] = ["train", "--task", "induction-heads", "--preset", "tiny", "--steps", "1", "--out"];

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One line of an error with these words, and nothing on stdout.
fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty() && said.lines().count() == 1, "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

#[test]
fn nothing_else_goes_where_the_object_goes() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    symlink("/dev/stdout", &link).unwrap();
    let out = folder.path().join("run");
    let train = [&TRAIN[..], &[text(&out), "--json"]].concat();
    for (command, flag) in
        [(&GENERATE[..], "--state-out"), (&EXPLAIN, "--html"), (&train, "--json-log"), (&train, "--plot")]
    {
        for place in ["/dev/stdout", text(&link)] {
            refused(&run(&[command, &[flag, place]].concat()), 2, &[flag, "--json"]);
        }
        // Standard output by its name.
        let file = folder.path().join("file");
        let mut into = Command::new(PROGRAM);
        into.args(command).args([flag, text(&file)]).stdin(Stdio::null()).stderr(Stdio::null());
        let status = into.stdout(fs::File::create(&file).unwrap()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{flag}");
        assert!(fs::read(&file).unwrap().is_empty());
        assert!(!out.exists());
    }
    // What goes nowhere is mixed with nothing.
    let mut null = Command::new(PROGRAM);
    null.args(GENERATE).args(["--state-out", "/dev/null"]).stdin(Stdio::null());
    assert!(null.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
}

#[test]
fn two_outputs_are_two_places() {
    let folder = tempfile::tempdir().unwrap();
    let (out, file, link) = (folder.path().join("run"), folder.path().join("file"), folder.path().join("link"));
    symlink("file", &link).unwrap();
    for (one, other) in [(text(&file), text(&file)), (text(&file), text(&link)), ("/dev/stdout", "/dev/stdout")] {
        let output = run(&[&TRAIN[..], &[text(&out), "--plot", one, "--json-log", other]].concat());
        refused(&output, 2, &["--plot", "--json-log"]);
        assert!(!out.exists());
    }
    let pictures = folder.path().join("pictures");
    let report = ["bench", "report", REPORT, "--svg", text(&pictures), "--html"];
    assert!(run(&[&report[..], &[text(&file)]].concat()).status.success());
    let picture = fs::read_dir(&pictures).unwrap().flatten().map(|entry| entry.path()).min().unwrap();
    refused(&run(&[&report[..], &[text(&picture), "--force"]].concat()), 2, &["--html", "--svg"]);
}

#[test]
fn a_link_to_nowhere_is_called_that() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    symlink("nowhere", &link).unwrap();
    let below = link.join("below");
    for place in [text(&link), text(&below)] {
        let words = ["link", "nowhere, where nothing is"];
        refused(&run(&[&TRAIN[..], &[place]].concat()), 1, &words);
        refused(&run(&["quantize", "embedded", place, "--to", "q8"]), 1, &words);
        refused(&run(&["bench", "report", REPORT, "--html", "/dev/null", "--svg", place]), 1, &words);
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && !link.exists());
}

#[test]
fn a_page_stands_alone_on_standard_output_and_a_closed_pipe_ends_it_quietly() {
    let page = run(&["bench", "report", REPORT, "--html", "/dev/stdout"]);
    assert!(page.status.success() && page.stdout.ends_with(b"</html>\n"), "{}", String::from_utf8_lossy(&page.stderr));
    let shell = "{ \"$@\"; echo \"code $?\" >&2; } | head -c 1";
    for arguments in [
        &["bench", "report", REPORT, "--html", "/dev/stdout"][..],
        &["explain", "--text", "Emma was in no humour", "--backend", "cpu", "--html", "/dev/stdout"],
        &["generate", "Emma", "--backend", "cpu", "--seed", "1", "--state-out", "/dev/stdout"],
    ] {
        let mut piped = Command::new("sh");
        piped.args(["-c", shell, "sh", PROGRAM]).args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
        let said = String::from_utf8_lossy(&piped.output().unwrap().stderr).into_owned();
        assert!(said.ends_with("code 0\n") && !said.contains("error") && !said.contains("roken"), "{said}");
    }
}

#[test]
fn a_stop_string_that_began_before_the_break_ends_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    // The text, and why it ended.
    let write = |more: &[&str]| {
        let arguments = ["generate", "--temperature", "0", "--backend", "cpu", "--ignore-eos", "--json"];
        let output = run(&[&arguments[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        (value["text"].as_str().unwrap().to_owned(), value["finish_reason"] == "stop")
    };
    let (whole, _) = write(&["Emma was", "--max-tokens", "12"]);
    // Over several words; and one that does not come.
    let stop = whole[whole.len() / 2..whole.len() - 2].to_owned();
    let (ended, by_stop) = write(&["Emma was", "--max-tokens", "12", "--stop", &stop]);
    assert!(by_stop && whole.starts_with(&ended));
    for (stop, expected, stops) in [(stop.clone(), &ended, true), (format!("{stop}#"), &whole, false)] {
        for cut in 1..12 {
            let (first, rest) = (cut.to_string(), (12 - cut).to_string());
            let begin = ["Emma was", "--max-tokens", &first, "--stop", &stop, "--state-out", text(&state)];
            let (mut out, mut stopped) = write(&begin);
            if !stopped {
                let (more, now) = write(&["--state-in", text(&state), "--max-tokens", &rest, "--stop", &stop]);
                (out, stopped) = (out + &more, now);
            }
            assert_eq!(stopped, stops, "{cut}");
            // What was printed of it at the break stays printed.
            let begun = out.strip_prefix(expected.as_str()).unwrap_or_else(|| panic!("{cut}: {out:?}, {expected:?}"));
            assert!(begun.is_empty() || stops && stop.starts_with(begun), "{cut}: {out:?}");
        }
    }
}
